"""The speech that recognition is measured on as it streams: of a manifest, of shards with audio, or of listed files.

Nothing here loads torch, so that a runtime that needs none is measured without it.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from asr import audio
from manifests import parquet, storage
from manifests.schema import MIX, Utterance
from manifests.text import normalise
from shards.index import open_shards

Floats = npt.NDArray[np.float32]
T = TypeVar("T")

COLUMNS = ("path", "text")  # that a list of files has at least


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance, where its sound is, and what was said in it (normalised)."""

    id: str
    corpus: str
    split: str
    speaker: str
    text: str
    audio: str
    offset_s: float = 0.0
    duration_s: float | None = None  # None: all of the file
    channel: int = MIX
    dc_offset: float = 0.0
    gain_db: float = 0.0

    def samples(self, rate: int) -> Floats:
        """Mono float32 [n]. Raises AudioError for a file that cannot be decoded, OSError for one that is not there."""
        samples_t: Floats = audio.read(self.audio, rate, self.offset_s, self.duration_s, self.channel)
        if self.dc_offset or self.gain_db:
            samples_t = (samples_t - np.float32(self.dc_offset)) * np.float32(10 ** (self.gain_db / 20))
        return samples_t


@dataclass(frozen=True, slots=True)
class Speech:
    """What was asked for: its name, its utterances, and those that are left out, each with the reason."""

    name: str
    utterances: list[Spoken]
    left_out: list[tuple[str, str]]


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Options that name speech; one of --shards, --manifest and --files is given."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", metavar="URLS", help="list of shard URLs, folder, or index.parquet")
    source.add_argument("--manifest", metavar="FOLDER", help="a manifest, whose audio is read where it lies")
    source.add_argument("--files", metavar="LIST", help="a table with tabs and the columns path and text; speaker and "
                        "language (default en) may be among them")  # fmt: skip
    parser.add_argument("--splits", nargs="+", metavar="NAME", help="with --manifest: only these")


def open_speech(args: argparse.Namespace) -> Speech:
    """Raises ValueError for a source without samples, and one in which nothing can be used."""
    if args.splits and not args.manifest:
        raise ValueError("--splits: goes with --manifest; of shards give the list urls-NAME.txt")
    if args.manifest:
        found = of_manifest(args.manifest, args.splits)
    else:
        found = of_shards(args.shards) if args.shards else of_files(args.files)
    if not found.utterances:
        reasons = "; left out: " + ", ".join(sorted({reason for _, reason in found.left_out})) if found.left_out else ""
        raise ValueError(f"{found.name}: no utterance to recognise{reasons}")
    return found


def drawn(utterances: Sequence[T], count: int) -> list[T]:
    """So many of them, in their order; the same ones each time. All with 0, or where there are fewer."""
    if not 0 < count < len(utterances):
        return list(utterances)
    chosen = sorted(random.Random(0).sample(range(len(utterances)), count))
    return [utterances[i] for i in chosen]


def of_manifest(uri: str, splits: Sequence[str] | None) -> Speech:
    return Speech(uri, [_of_row(u) for u in parquet.read_manifests([uri], splits)], [])


def _of_row(u: Utterance) -> Spoken:
    return Spoken(u.id, u.corpus, u.split, u.speaker, u.text, u.audio, u.offset_s, u.duration_s, u.channel,
                  u.dc_offset, u.gain_db)  # fmt: skip


def of_shards(source: str) -> Speech:
    """The audio lies in the tars as it goes into the front-end: levels were set when the shards were written."""
    shards = open_shards(source)
    if not shards.content.audio:
        raise ValueError(f"{source}: holds log-mel only, and a stream begins with samples; give --manifest FOLDER, "
                         "or shards written with --content audio")  # fmt: skip
    names = ("id", "corpus", "split", "speaker", "text", "audio_format")
    columns = zip(*(shards.column(name) for name in names), strict=True)
    utterances = []
    for row, (id_, corpus, split, speaker, text, format) in enumerate(columns):
        offset, length = int(shards.audio_offset[row]), int(shards.audio_length[row])
        tar = shards.files[shards.shard[row]].url
        uri = storage.member_uri(tar, offset, length, f"{id_}.{format}")
        utterances.append(Spoken(id_, corpus, split, speaker, text, uri))
    return Speech(source, utterances, [])


def of_files(uri: str) -> Speech:
    """Paths are meant from the list's own folder, texts are normalised; a line without a text is left out."""
    header, *lines = [line.split("\t") for line in storage.read_text(uri).splitlines() if line.strip()] or [[]]
    if lacking := [name for name in COLUMNS if name not in header]:
        raise ValueError(f"{uri}: its first line has no column {' and no column '.join(lacking)}; give a table "
                         "with tabs, such as path<TAB>text")  # fmt: skip
    folder = storage.parent(storage.absolute(uri))
    utterances: list[Spoken] = []
    left_out: list[tuple[str, str]] = []
    for number, cells in enumerate(lines, start=2):
        if len(cells) < len(header):
            cells = cells + [""] * (len(header) - len(cells))  # editors cut white space at the ends of lines
        row = dict(zip(header, cells, strict=False))
        try:
            text = normalise(row["text"], row.get("language") or "en")
        except ValueError as err:
            left_out.append((row["path"], f"line {number}: {err}"))
            continue
        if not text:
            left_out.append((row["path"], "no transcript"))
            continue
        path = row["path"] if "://" in row["path"] else storage.join(folder, row["path"])
        utterances.append(Spoken(row["path"], "", "", row.get("speaker", ""), text, path))
    return Speech(uri, utterances, left_out)
