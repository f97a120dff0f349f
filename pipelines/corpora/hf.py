"""Any Hugging Face data set: a folder (files with metadata, Parquet, what save_to_disk wrote) or one of the hub."""

import argparse
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs import cli
from manifests import archive, parquet, storage
from manifests.schema import Dropped, safe_id
from pipelines import identity
from pipelines.candidates import Candidate, extra, write_toy
from pipelines.hf import hubdata, packed
from pipelines.hf.hubdata import Row, Split

HELP = "a Hugging Face data set, from a folder or the hub"

STEP = "packing a data set's audio"
HUB = "huggingface.co/datasets"
EXTRA = ("gender", "age", "accent")  # columns that are kept under these names where there are such


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a folder, or a name on the hub (owner/name)")
    parser.add_argument("--config", metavar="C", help="which of the data set's configurations")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="train, validation, ... (default: all)")
    parser.add_argument("--audio-column", default="audio", metavar="C", help="default: %(default)s")
    parser.add_argument("--text-column", default="text", metavar="C", help="default: %(default)s")
    parser.add_argument("--speaker-column", metavar="C", help="who speaks (default: unknown)")
    parser.add_argument("--id-column", metavar="C", help="what is different in every row (default: its number)")
    parser.add_argument("--language-column", metavar="C", help="where rows are in different languages")
    parser.add_argument("--language", default="en", help="of rows that do not say theirs (default: %(default)s)")
    parser.add_argument("--licence", metavar="TEXT", help="what the data set's page says (default: where to look)")
    parser.add_argument(
        "--streaming", action="store_true", help="read it from the hub as it arrives, with no copy in the cache"
    )
    parser.add_argument(
        "--root", help="folder or URL for audio that is inside the data set's tables: it is written there once, as tars"
    )


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    """The rows of all splits. Audio inside tables goes into tars below --root first; those that are there stay.

    Raises ValueError for a data set, a split or a column that cannot be read, for a missing --root, and for a --root
    with the audio of another state of the data set.
    """
    for split in _splits(args):  # opened once: to find its files, `datasets` searches a folder some fifty times
        if _is_inside(split, args):
            for number, (cells, file) in enumerate(packed.read(_packed(split, args))):
                yield _listed(args, split.name, number, cells, (file.uri, file.size_bytes) if file else "")
        else:
            for row in _rows(split, args)(0):
                yield _listed(args, split.name, row.number, row.cells, _on_disk(split, row))


def _splits(args: argparse.Namespace) -> list[Split]:
    found = hubdata.load(args.dataset, args.config, args.streaming)
    there = [split.name for split in found]
    if unknown := sorted(set(args.splits or ()) - set(there)):
        raise ValueError(f"--splits: no {', '.join(unknown)} in {args.dataset}; there are {', '.join(there)}")
    return [split for split in found if args.splits is None or split.name in args.splits]


def _rows(split: Split, args: argparse.Namespace) -> Callable[[int], Iterator[Row]]:
    named = {
        option: column
        for option, column in (
            ("--text-column", args.text_column),
            ("--speaker-column", args.speaker_column),
            ("--id-column", args.id_column),
            ("--language-column", args.language_column),
        )
        if column is not None
    }
    return functools.partial(hubdata.read, split, args.audio_column, named)


def _is_inside(split: Split, args: argparse.Namespace) -> bool:
    """True when the audio is not in files on this machine, as the first row with any shows."""
    first = next((row for row in _rows(split, args)(0) if row.data is not None or row.path), None)
    return first is not None and (first.data is not None or "://" in first.path)


def _packed(split: Split, args: argparse.Namespace) -> str:
    """The folder of the split's tars, which are written if they are not there."""
    if not args.root:
        raise ValueError(
            f"--dataset {args.dataset}: keeps its audio inside its tables; say --root FOLDER, where it is written to "
            "once, as tars, and read from ever after"
        )
    folder = storage.join(args.root, _corpus(args), safe_id(split.name))
    claim = _claim(args, split, folder)
    if claim.summary is None or len(archive.find(folder)) != claim.summary["parts"]:
        cli.say(args, f"{args.dataset}, split {split.name}: writing its audio to {folder}")
        claim = claim if claim.summary is None else claim.reopen()
        claim.finish({"parts": packed.write(_rows(split, args), hubdata.content, folder)})
    return folder


def _claim(args: argparse.Namespace, split: Split, folder: str) -> identity.Claim:
    inputs = {
        "dataset": split.folder or args.dataset,
        "config": args.config,
        "split": split.name,
        "audio_column": args.audio_column,
        # root and out may lie inside the data set's own folder
        "files": identity.fingerprint(hubdata.state(split, without=(args.root, args.out))),
    }
    try:
        return identity.claim(folder, STEP, inputs, args.force)
    except ValueError as err:
        raise ValueError(str(err).replace("--out", "--root")) from None


def _on_disk(split: Split, row: Row) -> tuple[str, int] | str:
    """(URI, bytes) of the file that the row names, or why there is none."""
    if row.data is not None:
        return "the row holds its audio itself, while the first one names a file"
    if not row.path:
        return ""
    uri = storage.join(split.folder, row.path)
    try:
        return uri, storage.size_bytes(uri)
    except FileNotFoundError:
        return f"{uri} is not there"


def _listed(
    args: argparse.Namespace, split: str, number: int, cells: Mapping[str, Any], audio: tuple[str, int] | str
) -> Candidate | Dropped:
    corpus = _corpus(args)
    name = _cell(cells, args.id_column)
    id_ = safe_id(name or f"{corpus}-{split}-{number:07d}")
    text = _cell(cells, args.text_column)
    if isinstance(audio, str) or not text:
        reason = "no transcript" if not isinstance(audio, str) else "missing file" if audio else "no audio"
        uri = "" if isinstance(audio, str) else audio[0]
        where = f"split {split}, row {number}"
        detail = f"{where}: {audio}" if isinstance(audio, str) and audio else where
        return Dropped(id_, corpus, split, uri, 0.0, text, reason, detail)
    source = storage.name(args.dataset.rstrip("/")) if os.path.isdir(args.dataset) else f"{HUB}/{args.dataset}"
    return Candidate(
        id=id_,
        corpus=corpus,
        split=split,
        language=_cell(cells, args.language_column) or args.language,
        speaker=_cell(cells, args.speaker_column),
        audio=audio[0],
        size_bytes=audio[1],
        offset_s=0.0,
        duration_s=None,
        text_raw=text,
        licence=args.licence or f"see {source}",
        source=source,
        extra=extra(**{name: _cell(cells, name) for name in EXTRA}),
    )


def _cell(cells: Mapping[str, Any], column: str | None) -> str:
    value = cells.get(column) if column else None
    return "" if value is None else str(value).strip()


def _corpus(args: argparse.Namespace) -> str:
    name = storage.name(args.dataset.rstrip("/"))
    return safe_id(f"{name}-{args.config}" if args.config else name)


def tiny(folder: Path) -> list[str]:
    """A toy data set in `folder`, its audio inside its tables; returns the arguments that read it."""
    texts = {"train": ["A toy of a data set.", "It has two tables!", "And one hum too many"], "test": ["Who's there?"]}
    for split, sentences in texts.items():
        rows = []
        for number, sentence in enumerate(sentences):
            uri = str(folder / f"{split}-{number}.flac")
            write_toy(uri, 1.0 + 0.3 * number)
            audio = {"bytes": storage.read_bytes(uri), "path": storage.name(uri)}
            storage.delete(uri)
            rows.append({"audio": audio, "sentence": sentence, "client": f"{split}{number % 2}"})
        parquet.write(str(folder / "toy" / "data" / f"{split}-00000-of-00001.parquet"), pa.Table.from_pylist(rows))
    columns = ["--text-column", "sentence", "--speaker-column", "client"]
    return ["--dataset", str(folder / "toy"), *columns, "--root", str(folder / "audio")]
