"""prepare-corpus: a corpus as it is distributed becomes manifest.parquet and dropped.parquet.

Each module in pipelines/corpora is a subcommand of its name. It has HELP, add_arguments(parser), candidates(args),
which lists the corpus, and tiny(folder), which writes a toy of it and returns the arguments that read the toy. A corpus
that is made and not found also has make(args, run), which writes its audio and is called before candidates; it may have
check(args), which raises ValueError for options that cannot be met before anything is touched.
"""

import argparse
import functools
import hashlib
import importlib
import pkgutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from configs import cli
from manifests import parquet, schema, storage, text
from manifests.schema import Dropped, Utterance
from pipelines import corpora, executors, identity
from pipelines.candidates import Candidate, drop, examine
from pipelines.progress import progress

STEP = "prepare-corpus"
CHUNK = 256  # candidates in one task
# Seconds before Ray is started: it needs some itself, and 28,600 FLAC headers took 3 s here but 13 s with two workers
ALONE_S = 5.0
COMMON = ("corpus", "out", "max_duration_s", "force", "workers", "ray_address", "json")


class Corpus(Protocol):
    """A module in pipelines/corpora."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def candidates(self, args: argparse.Namespace) -> Iterator[Candidate | Dropped]: ...

    def tiny(self, folder: Path) -> list[str]: ...


def found() -> dict[str, Corpus]:
    """Every corpus by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(corpora.__path__))
    return {name: cast(Corpus, importlib.import_module(f"{corpora.__name__}.{name}")) for name in names}


def main(argv: list[str] | None = None) -> int:
    return cli.run(prepare, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=STEP, description="Turn a speech corpus into a manifest.")
    commands = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    for name, module in found().items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument("--out", required=True, help="folder or URL that the manifest goes to")
        command.add_argument(
            "--max-duration-s", type=float, default=60.0, help="leave out what is longer (default: %(default)g)"
        )
        command.add_argument("--force", action="store_true", help="replace the result of other inputs in --out")
        command.add_argument(
            "--workers", type=int, default=executors.cores(), help="processes (default: %(default)s, one per core)"
        )
        command.add_argument("--ray-address", help="run on this Ray cluster, not on this machine")
        cli.add_json(command)
    return parser


def prepare(args: argparse.Namespace) -> None:
    if args.workers < 1:
        raise ValueError(f"--workers {args.workers}: must be 1 or more")
    if not args.max_duration_s > 0:
        raise ValueError(f"--max-duration-s {args.max_duration_s:g}: must be above 0")
    corpus = found()[args.corpus]
    args.out = storage.absolute(args.out)
    if getattr(args, "root", None):  # also as it stands in step.json
        args.root = storage.absolute(args.root)
    make = getattr(corpus, "make", None)
    summary = _from_making(args, corpus, make) if make else _from_listing(args, corpus)
    cli.summary(args, summary | {"out": args.out}, _as_text(args, summary))


def _from_making(
    args: argparse.Namespace, corpus: Corpus, make: Callable[[argparse.Namespace, executors.Run], None]
) -> dict[str, Any]:
    """The options decide all of it. The folder is claimed first, as the audio may go into it."""
    if check := getattr(corpus, "check", None):
        check(args)
    options = {key: value for key, value in vars(args).items() if key not in COMMON}
    claim = identity.claim(args.out, STEP, _inputs(args) | options, args.force)
    if claim.summary is not None and _is_whole(args.out):
        return _already_done(args, claim.summary)
    with executors.executor(args.workers if args.workers > 1 else 0, args.ray_address) as run:
        make(args, run)
    utterances, dropped = _examine(args, list(corpus.candidates(args)))
    return _write(claim, utterances, dropped)


def _from_listing(args: argparse.Namespace, corpus: Corpus) -> dict[str, Any]:
    """The folder is claimed last: where no utterance is usable, it stays as it was."""
    listed = list(corpus.candidates(args))
    inputs = _inputs(args) | {"utterances": len(listed), "files_and_texts": _listing_fingerprint(listed)}
    sources = [storage.absolute(uri) for uri in (args.root, getattr(args, "list", None)) if uri]
    done = identity.look(args.out, STEP, inputs, args.force, sources).summary
    if done is not None and _is_whole(args.out):
        return _already_done(args, done)
    utterances, dropped = _examine(args, listed)
    claim = identity.claim(args.out, STEP, inputs, args.force, sources)
    try:
        return _write(claim, utterances, dropped)
    except BaseException:  # a full disk, or Ctrl-C: no part of a result stays
        for name in (parquet.MANIFEST, parquet.DROPPED, identity.RECORD):
            storage.delete(storage.join(args.out, name))
        raise


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "corpus": args.corpus,
        "max_duration_s": args.max_duration_s,
        "schema_version": schema.VERSION,
        "text_version": text.VERSION,
    }


def _listing_fingerprint(listed: Iterable[Candidate | Dropped]) -> str:
    digest = hashlib.sha256()
    for item in listed:
        digest.update(repr(item).encode())
    return digest.hexdigest()[:16]


def _is_whole(out: str) -> bool:
    return all(storage.exists(storage.join(out, name)) for name in (parquet.MANIFEST, parquet.DROPPED))


def _already_done(args: argparse.Namespace, summary: dict[str, Any]) -> dict[str, Any]:
    cli.say(args, f"{args.out}: already done")
    return summary


def _examine(args: argparse.Namespace, listed: list[Candidate | Dropped]) -> tuple[list[Utterance], list[Dropped]]:
    """Raises ValueError when nothing is left."""
    dropped = [item for item in listed if isinstance(item, Dropped)]
    first: dict[str, Candidate] = {}
    for item in listed:
        if isinstance(item, Candidate) and first.setdefault(item.id, item) is not item:
            detail = f"the first one is {first[item.id].audio}"
            dropped.append(drop(item, "duplicate id", detail, item.duration_s or 0.0))
    # in the order of files, so that one that holds many utterances is opened once
    candidates = sorted(first.values(), key=lambda c: (c.audio, c.offset_s))
    chunks = [candidates[i : i + CHUNK] for i in range(0, len(candidates), CHUNK)]
    cli.say(args, f"{args.corpus}: {len(listed)} utterances listed; reading the headers of {len(candidates)}")
    utterances: list[Utterance] = []
    with progress("headers", len(candidates), "utterances") as advance:
        for results in _judge(args, chunks):
            utterances += [r for r in results if isinstance(r, Utterance)]
            dropped += [r for r in results if isinstance(r, Dropped)]
            advance(len(results))
    if not utterances:
        raise ValueError(_nothing_left(dropped))
    return utterances, dropped


def _judge(args: argparse.Namespace, chunks: list[list[Candidate]]) -> Iterator[list[Utterance | Dropped]]:
    """Results in any order: here for the first seconds, which do for most corpora, then from workers."""
    judge = functools.partial(examine, max_duration_s=args.max_duration_s)
    end_s = time.monotonic() + ALONE_S
    done = 0
    while done < len(chunks) and not args.ray_address and (args.workers == 1 or time.monotonic() < end_s):
        yield judge(chunks[done])
        done += 1
    if done < len(chunks):
        with executors.executor(args.workers, args.ray_address) as run:
            for _, results in run(judge, chunks[done:]):
                yield results


def _nothing_left(dropped: list[Dropped]) -> str:
    if not dropped:
        return "the list names no utterance"
    (reason, count), *_ = Counter(d.reason for d in dropped).most_common()
    example = next(d for d in sorted(dropped, key=lambda d: d.id) if d.reason == reason)
    return f"none of {len(dropped)} utterances is usable; {count} of them: {reason}, as {example.id}: {example.detail}"


def _write(claim: identity.Claim, utterances: list[Utterance], dropped: list[Dropped]) -> dict[str, Any]:
    parquet.write_dropped(storage.join(claim.out, parquet.DROPPED), dropped)
    parquet.write_utterances(storage.join(claim.out, parquet.MANIFEST), utterances)
    summary = _summary(utterances, dropped)
    claim.finish(summary)
    return summary


def _summary(utterances: list[Utterance], dropped: list[Dropped]) -> dict[str, Any]:
    splits: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        splits.setdefault(utterance.split, []).append(utterance)
    reasons: dict[str, list[Dropped]] = {}
    for drop_ in dropped:
        reasons.setdefault(drop_.reason, []).append(drop_)
    return {
        "splits": {split: _counts(splits[split]) for split in sorted(splits)},
        "total": _counts(utterances),
        "dropped": {
            reason: {"utterances": len(rows), "hours": _hours(rows)} for reason, rows in sorted(reasons.items())
        },
    }


def _counts(rows: list[Utterance]) -> dict[str, Any]:
    speakers = {row.speaker for row in rows} - {""}
    return {"utterances": len(rows), "hours": _hours(rows), "speakers": len(speakers)}


def _hours(rows: Iterable[Utterance] | Iterable[Dropped]) -> float:
    return round(sum(sorted(row.duration_s for row in rows)) / 3600, 6)  # sorted: workers finish in any order


def _as_text(args: argparse.Namespace, summary: dict[str, Any]) -> str:
    rows = [
        [split, f"{c['utterances']:,}", f"{c['hours']:.3f}", f"{c['speakers']:,}" if c["speakers"] else "unknown"]
        for split, c in [*summary["splits"].items(), ("total", summary["total"])]
    ]
    blocks = [cli.table(["split", "utterances", "hours", "speakers"], rows)]
    if summary["dropped"]:
        lost = [[reason, f"{c['utterances']:,}", f"{c['hours']:.3f}"] for reason, c in summary["dropped"].items()]
        blocks.append(cli.table(["dropped", "utterances", "hours"], lost))
        blocks.append(f"why, each: {storage.join(args.out, parquet.DROPPED)}")
    blocks.append(f"manifest: {storage.join(args.out, parquet.MANIFEST)}")
    return "\n\n".join(blocks[:-1]) + "\n" + blocks[-1]
