"""prepare-corpus: a corpus as it is distributed becomes a manifest, what was dropped, and a report.

Each module in pipelines/corpora is a subcommand of its name. It has HELP, add_arguments(parser), candidates(args),
which lists the corpus, and tiny(folder), which writes a toy of it and returns the arguments that read the toy. It may
have fetch(args), which brings the corpus here before it is listed, and published(args), the number of utterances that
each split of the distribution has. A corpus that is made and not found also has make(args, run), which writes its audio
and is called before candidates, and maybe check(args), which raises ValueError for options that cannot be met before
anything is touched.
"""

import argparse
import functools
import hashlib
import importlib
import pkgutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow as pa

from configs import cli
from configs.wording import counted
from manifests import schema, storage
from manifests import text as manifest_text
from manifests.filters import from_arguments
from manifests.schema import DROPPED_SCHEMA, UTTERANCE_SCHEMA, Dropped, to_table
from pipelines import corpora, examine, executors, fingerprint, http, identity, manifest
from pipelines.candidates import Candidate, drop
from pipelines.examine import Rules
from pipelines.leaks import Leaks
from pipelines.manifest import JUDGED, Draft, carry_out, of_rows
from pipelines.progress import progress

STEP = "prepare-corpus"
VERSION = 1  # raise it when the same inputs give other rows: old results are then refused, not taken for finished
CHUNK = 256  # candidates in one task
# Seconds before Ray is started: it needs some itself, and 28,600 FLAC headers took 3 s here but 13 s with two workers
ALONE_S = 5.0
# options that may name what is read: it is not deleted
READ = ("root", "list", "dataset", "kaldi", "transcription", "archive", "takedown", "url_list")
SCORED = ("unknown word",)  # reasons to drop at listing what the published numbers of utterances count
COMMON = ("corpus", "out", "force", "workers", "ray_address", "json", "keep_leaks", "headers_only", "loudness", "trim")


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
    return cli.run(functools.partial(prepare, argv=argv), _parser(), argv, continues=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=STEP, description="Turn a speech corpus into a manifest.")
    commands = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    for name, module in found().items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument("--out", required=True, help="folder or URL that the manifest goes to")
        command.add_argument(
            "--headers-only",
            action="store_true",
            help="believe the files' headers, decode nothing: fast, but no levels, no search for damage or duplicates",
        )
        command.add_argument(
            "--loudness", type=float, metavar="LUFS", help="bring each utterance to this loudness, for instance -23"
        )
        command.add_argument(
            "--trim", type=float, metavar="DB", help="cut off ends that are this far below the loudest, for instance 40"
        )
        manifest.add_arguments(command, "max_pieces_per_s")
        command.add_argument(
            "--workers", type=int, default=executors.cores(), help="processes (default: %(default)s, one per core)"
        )
        command.add_argument("--ray-address", help="run on this Ray cluster, not on this machine")
        cli.add_json(command)
    return parser


def prepare(args: argparse.Namespace, argv: list[str] | None = None) -> None:
    if args.workers < 1:
        raise ValueError(f"--workers {args.workers}: must be 1 or more")
    rules = _rules(args)
    corpus = found()[args.corpus]
    args.out = storage.absolute(args.out)
    if getattr(args, "root", None):  # also as it stands in step.json
        args.root = storage.absolute(args.root)
    command = http.shown_command([STEP, *(sys.argv[1:] if argv is None else argv)])
    made = hasattr(corpus, "make")
    summary = _from_making(args, rules, corpus, command) if made else _from_listing(args, rules, corpus, command)
    cli.summary(args, summary | {"out": args.out}, manifest.text(args.out, summary))


def _rules(args: argparse.Namespace) -> Rules:
    limits = from_arguments(args)
    if args.headers_only and (args.loudness is not None or args.trim is not None):
        raise ValueError("--headers-only: --loudness and --trim need the audio; leave one of them out")
    if args.loudness is not None and not -70 <= args.loudness <= 0:
        raise ValueError(f"--loudness {args.loudness:g}: must be between -70 and 0 LUFS; broadcasts have -23")
    if args.trim is not None and not 10 <= args.trim <= 120:
        raise ValueError(f"--trim {args.trim:g}: must be between 10 and 120 dB below the loudest")
    return Rules(
        min_duration_s=limits.min_duration_s,
        max_duration_s=limits.max_duration_s,
        listen=not args.headers_only,
        loudness_lufs=args.loudness,
        trim_db=args.trim,
    )


def _from_making(args: argparse.Namespace, rules: Rules, corpus: Any, command: str) -> dict[str, Any]:
    """The options decide all of it. The folder is claimed first, as the audio may go into it."""
    if check := getattr(corpus, "check", None):
        check(args)
    options = {key: value for key, value in vars(args).items() if key not in COMMON and not _is_limit(key)}
    claim = identity.claim(args.out, STEP, _inputs(args, rules) | options, args.force)
    if claim.summary is not None and manifest.is_whole(args.out):
        return _already_done(args, claim.summary)
    with executors.executor(args.workers if args.workers > 1 else 0, args.ray_address) as run:
        corpus.make(args, run)
    draft = _examine(args, rules, list(corpus.candidates(args)))
    draft, found = _judged(args, draft)
    return manifest.write(claim, draft, found, args.corpus, command, [])


def _from_listing(args: argparse.Namespace, rules: Rules, corpus: Corpus, command: str) -> dict[str, Any]:
    """The folder is claimed last: where no utterance is usable, it stays as it was."""
    if fetch := getattr(corpus, "fetch", None):
        fetch(args)
    listed = list(corpus.candidates(args))
    inputs = _inputs(args, rules) | {"utterances": len(listed), "files_and_texts": _listing_fingerprint(listed)}
    sources = [*_read(args), *sorted({storage.parent(item.audio) for item in listed if isinstance(item, Candidate)})]
    done = identity.look(args.out, STEP, inputs, args.force, sources).summary
    if done is not None and manifest.is_whole(args.out):
        return _already_done(args, done)
    draft = _examine(args, rules, listed)
    draft, found = _judged(args, draft)
    claim = identity.claim(args.out, STEP, inputs, args.force, sources)
    remarks = _self_test(corpus, args, listed)
    return manifest.write_or_remove(claim, draft, found, args.corpus, command, remarks)


def _read(args: argparse.Namespace) -> Iterator[str]:
    for name in READ:
        value = getattr(args, name, None) or ()
        yield from map(storage.absolute, [value] if isinstance(value, str) else value)


def _is_limit(option: str) -> bool:
    return option.startswith(("min_", "max_"))


def _inputs(args: argparse.Namespace, rules: Rules) -> dict[str, Any]:
    return {
        "corpus": args.corpus,
        "rules": {name: repr(value) for name, value in asdict(rules).items()},
        "schema_version": schema.VERSION,
        "text_version": manifest_text.VERSION,
        "fingerprint_version": fingerprint.VERSION,
        "version": VERSION,
    } | manifest.inputs(args)


def _listing_fingerprint(listed: Iterable[Candidate | Dropped]) -> str:
    digest = hashlib.sha256()
    for item in listed:
        digest.update(repr(item).encode())
    return digest.hexdigest()[:16]


def _already_done(args: argparse.Namespace, summary: dict[str, Any]) -> dict[str, Any]:
    cli.say(args, f"{args.out}: already done")
    return summary


def _self_test(corpus: Corpus, args: argparse.Namespace, listed: list[Candidate | Dropped]) -> list[str]:
    """The number of utterances of each split against the published one, where that is known."""
    published = getattr(corpus, "published", None)
    known: dict[str, int] = published(args) if published else {}
    here = Counter(item.split for item in listed if isinstance(item, Candidate) or item.reason in SCORED)
    remarks = []
    for split in sorted(here.keys() & known.keys()):
        verdict = "complete" if here[split] == known[split] else "NOT complete"
        remarks.append(f"{split}: {here[split]:,} of {known[split]:,} published utterances: {verdict}")
    return remarks


def _judged(args: argparse.Namespace, draft: Draft) -> tuple[Draft, Leaks | None]:
    verdict = manifest.judge(
        draft.rows.select(JUDGED), lambda: draft.fingerprints, from_arguments(args), args.keep_leaks
    )
    rows, dropped = carry_out(draft.rows, draft.dropped, verdict)
    return Draft(rows, dropped, of_rows(draft.fingerprints, rows)), verdict.leaks


def _examine(args: argparse.Namespace, rules: Rules, listed: list[Candidate | Dropped]) -> Draft:
    dropped = [item for item in listed if isinstance(item, Dropped)]
    first: dict[str, Candidate] = {}
    for item in listed:
        if isinstance(item, Candidate) and first.setdefault(item.id, item) is not item:
            detail = f"the first one is {first[item.id].audio}"
            dropped.append(drop(item, "duplicate id", detail, item.duration_s or 0.0))
    # in the order of files, so that one that holds many utterances is opened once
    candidates = sorted(first.values(), key=lambda c: (c.audio, c.offset_s))
    chunks = [candidates[i : i + CHUNK] for i in range(0, len(candidates), CHUNK)]
    what = "listening to" if rules.listen else "reading the headers of"
    cli.say(args, f"{args.corpus}: {counted(len(listed), 'utterance')} listed; {what} {len(candidates):,}")
    parts = [Draft(UTTERANCE_SCHEMA.empty_table(), to_table(dropped, DROPPED_SCHEMA), fingerprint.SCHEMA.empty_table())]
    with progress("listening" if rules.listen else "headers", len(candidates), "utterances") as advance:
        for part in _examined(args, rules, chunks):
            parts.append(part)
            advance(len(part.rows) + len(part.dropped), failures=len(part.dropped))
    tables = zip(*((part.rows, part.dropped, part.fingerprints) for part in parts), strict=True)
    return Draft(*(pa.concat_tables(of_a_kind) for of_a_kind in tables))


def _examined(args: argparse.Namespace, rules: Rules, chunks: list[list[Candidate]]) -> Iterator[Draft]:
    """Results in any order: here for the first seconds, which do for small corpora, then from workers."""
    task = functools.partial(_examine_chunk, rules=rules)
    end_s = time.monotonic() + ALONE_S
    done = 0
    while done < len(chunks) and not args.ray_address and (args.workers == 1 or time.monotonic() < end_s):
        yield task(chunks[done])
        done += 1
    if done < len(chunks):
        with executors.executor(args.workers, args.ray_address) as run:
            for _, part in run(task, chunks[done:]):
                yield part


def _examine_chunk(candidates: list[Candidate], rules: Rules) -> Draft:
    done = examine.examine(candidates, rules)
    rows, dropped = to_table(done.utterances, UTTERANCE_SCHEMA), to_table(done.dropped, DROPPED_SCHEMA)
    return Draft(rows, dropped, fingerprint.to_table(done.fingerprints.items()))
