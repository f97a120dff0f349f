"""The end of making a manifest, the same for one corpus and for several: limits, leaks, files, report, summary."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.wording import counted
from manifests import filters, parquet, storage
from manifests import text as normaliser
from manifests.filters import Limits
from pipelines import identity, leaks, report
from pipelines.summary import as_text, summarise

FINGERPRINTS = "fingerprints.parquet"
FILES = (parquet.MANIFEST, parquet.DROPPED, FINGERPRINTS, report.REPORT)

JUDGED = ["id", "corpus", "split", "language", "speaker", "duration_s", "text", "loudness_lufs", "clipped_share"]


@dataclass(frozen=True)
class Draft:
    """Rows of a manifest, rows that were left out, and the fingerprints of the audio that was listened to."""

    rows: pa.Table
    dropped: pa.Table
    fingerprints: pa.Table


@dataclass(frozen=True)
class Verdict:
    """Rows of a table that stay, in the order of a manifest, and rows that go, with reason and detail of each."""

    kept: np.ndarray
    dropped: np.ndarray
    reasons: list[str]
    details: list[str]
    leaks: leaks.Leaks | None  # None: there was no row left to look at


def add_arguments(parser: argparse.ArgumentParser, *without: str) -> None:
    """The options that decide what stays; `without` names limits that this command does not have."""
    filters.add_arguments(parser, *without)
    parser.add_argument(
        "--keep-leaks",
        nargs="+",
        choices=leaks.KINDS,
        default=[],
        metavar="KIND",
        help="what is in a dev or test split too stays in training: audio, sentence, speaker; it is reported all the "
        "same (default: it is dropped)",
    )
    parser.add_argument("--force", action="store_true", help="replace the result of other inputs in --out")


def inputs(args: argparse.Namespace) -> dict[str, Any]:
    """Those options as part of the inputs of a step. Raises ValueError for limits that make no sense."""
    return {
        "limits": {name: repr(value) for name, value in asdict(filters.from_arguments(args)).items()},
        "keep_leaks": sorted(args.keep_leaks),
    }


def judge(
    rows: pa.Table,
    prints: Callable[[], pa.Table],
    limits: Limits,
    keep_leaks: list[str],
    pieces: np.ndarray | None = None,
) -> Verdict:
    """What breaks a limit or leaks. `rows` needs no other columns than JUDGED; `prints` reads the fingerprints."""
    unfit, reasons, details = filters.unfit(rows, limits, pieces)
    fit = np.delete(np.arange(len(rows)), unfit)
    if not len(fit):
        return Verdict(fit, unfit, reasons, details, None)
    found = leaks.find(rows.take(fit), prints(), frozenset(keep_leaks))
    leaking = fit[found.dropped["row"].to_numpy()]
    reasons, details = reasons + found.dropped["reason"].to_pylist(), details + found.dropped["detail"].to_pylist()
    kept = np.setdiff1d(fit, leaking, assume_unique=True)
    kept = kept[parquet.order(rows.select(["split", "id"]).take(kept))]
    return Verdict(kept, np.concatenate([unfit, leaking]), reasons, details, found)


def carry_out(rows: pa.Table, dropped: pa.Table, verdict: Verdict) -> tuple[pa.Table, pa.Table]:
    """(the rows that stay, `dropped` and those that go). Raises ValueError when no row is left."""
    out = filters.as_dropped(rows.take(verdict.dropped), verdict.reasons, verdict.details)
    dropped = parquet.in_order(pa.concat_tables([dropped, out]))
    if not len(verdict.kept):
        raise ValueError(_nothing_left(dropped))
    return rows.take(verdict.kept), dropped


def of_rows(prints: pa.Table, rows: pa.Table) -> pa.Table:
    """The fingerprints of these rows, by id."""
    ids = rows["id"].take(pc.sort_indices(rows["id"]))
    return prints.take(pc.index_in(ids, prints["id"].combine_chunks()).drop_null())


def _nothing_left(dropped: pa.Table) -> str:
    if not len(dropped):
        return "the list names no utterance"
    counts = pc.value_counts(dropped["reason"]).to_pylist()
    most = max(counts, key=lambda c: (c["counts"], c["values"]))
    of_it = dropped.filter(pc.equal(dropped["reason"], most["values"]))
    first = of_it.slice(0, 1).to_pylist()[0]
    return (
        f"none of {counted(len(dropped), 'utterance')} is usable; {most['counts']} of them: {most['values']}, "
        f"as {first['id']}: {first['detail']}"
    )


def write(
    claim: identity.Claim, draft: Draft, found: leaks.Leaks | None, title: str, command: str, remarks: list[str]
) -> dict[str, Any]:
    """Write all files, the record last; returns the summary."""
    parquet.write(storage.join(claim.out, parquet.DROPPED), draft.dropped)
    parquet.write(storage.join(claim.out, FINGERPRINTS), draft.fingerprints)
    parquet.write(storage.join(claim.out, parquet.MANIFEST), draft.rows)
    report.write(claim.out, draft.rows, draft.dropped, found, title, command)
    summary = summarise(draft.rows, draft.dropped)
    if remarks := [*remarks, *_languages_unknown(draft.rows), *(_of_leaks(found) if found else [])]:
        summary["remarks"] = remarks
    claim.finish(summary)
    return summary


def _languages_unknown(rows: pa.Table) -> Iterator[str]:
    for language in sorted(pc.unique(rows["language"]).to_pylist()):
        if normaliser.alphabet(language) is None:
            yield f"language {language}: no alphabet is known; all letters are kept, and texts with digits are dropped"


def _of_leaks(found: leaks.Leaks) -> Iterator[str]:
    for finding in found.findings:
        if not finding.dropped:
            number = counted(finding.utterances, "utterance")
            yield f"reported, not dropped: {finding.what}: {number}, {finding.hours:.3f} h"
    yield from found.warnings


def write_or_remove(claim: identity.Claim, *made: Any) -> dict[str, Any]:
    """`write`, or, when it fails half-way (a full disk, Ctrl-C), no file of it."""
    try:
        return write(claim, *made)
    except BaseException:
        for name in (*FILES, identity.RECORD):
            storage.delete(storage.join(claim.out, name))
        raise


def is_whole(out: str) -> bool:
    return all(storage.exists(storage.join(out, name)) for name in FILES)


def text(out: str, summary: dict[str, Any]) -> str:
    files = {"manifest": parquet.MANIFEST, "report": report.REPORT}
    if summary["dropped"]:
        files["why, each of the dropped"] = parquet.DROPPED
    return as_text(summary, {what: storage.join(out, name) for what, name in files.items()})
