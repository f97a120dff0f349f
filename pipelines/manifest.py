"""The end of making a manifest, the same for one corpus and for several: limits, leaks, files, report, summary."""

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import filters, parquet, storage
from manifests.filters import Limits
from pipelines import identity, leaks, report
from pipelines.summary import as_text, summarise

FINGERPRINTS = "fingerprints.parquet"
FILES = (parquet.MANIFEST, parquet.DROPPED, FINGERPRINTS, report.REPORT)


@dataclass(frozen=True)
class Draft:
    """Rows of a manifest, rows that were left out, and the fingerprints of the audio that was listened to."""

    rows: pa.Table
    dropped: pa.Table
    fingerprints: pa.Table


def add_arguments(parser: argparse.ArgumentParser, *without: str) -> None:
    """The options of `finish`; `without` names limits that this command does not have."""
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
    """What in the options decides the result of `finish`. Raises ValueError for limits that make no sense."""
    return {
        "limits": {name: repr(value) for name, value in asdict(filters.from_arguments(args)).items()},
        "keep_leaks": sorted(args.keep_leaks),
    }


def clean(draft: Draft, limits: Limits, keep_leaks: list[str], pieces: np.ndarray | None) -> tuple[Draft, leaks.Leaks]:
    """The draft without what breaks a limit or leaks. Raises ValueError when no row is left."""
    rows, unfit = filters.apply(draft.rows, limits, pieces)
    dropped = pa.concat_tables([draft.dropped, unfit])
    if not len(rows):
        raise ValueError(_nothing_left(dropped))
    found = leaks.find(rows, draft.fingerprints, frozenset(keep_leaks))
    goes = found.dropped["row"].to_numpy()
    reasons, details = (found.dropped[name].to_pylist() for name in ("reason", "detail"))
    leaking = filters.as_dropped(rows.take(pa.array(goes)), reasons, details)
    stays = np.ones(len(rows), bool)
    stays[goes] = False
    rows = parquet.in_order(rows.filter(pa.array(stays)))
    prints = draft.fingerprints
    prints = prints.filter(pc.is_in(prints["id"], rows["id"])).sort_by("id")
    return Draft(rows, parquet.in_order(pa.concat_tables([dropped, leaking])), prints), found


def _nothing_left(dropped: pa.Table) -> str:
    if not len(dropped):
        return "the list names no utterance"
    counts = pc.value_counts(dropped["reason"]).to_pylist()
    most = max(counts, key=lambda c: (c["counts"], c["values"]))
    of_it = parquet.in_order(dropped.filter(pc.equal(dropped["reason"], most["values"])))
    first = of_it.slice(0, 1).to_pylist()[0]
    return (
        f"none of {len(dropped)} utterances is usable; {most['counts']} of them: {most['values']}, "
        f"as {first['id']}: {first['detail']}"
    )


def write(
    claim: identity.Claim, draft: Draft, found: leaks.Leaks, title: str, command: str, remarks: list[str]
) -> dict[str, Any]:
    """Write all files, the record last; returns the summary."""
    parquet.write(storage.join(claim.out, parquet.DROPPED), draft.dropped)
    parquet.write(storage.join(claim.out, FINGERPRINTS), draft.fingerprints)
    parquet.write(storage.join(claim.out, parquet.MANIFEST), draft.rows)
    report.write(claim.out, draft.rows, draft.dropped, found, title, command)
    summary = summarise(draft.rows, draft.dropped)
    if remarks := [*remarks, *found.warnings]:
        summary["remarks"] = remarks
    claim.finish(summary)
    return summary


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
