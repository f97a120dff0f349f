"""Any folder of audio files with a list of them: TSV, CSV or JSON Lines, Kaldi data folders, Sphinx transcriptions."""

import argparse
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import archive, storage
from manifests.schema import Dropped, safe_id
from pipelines.candidates import Candidate, write_toy
from pipelines.listings import kaldi, lists, sphinx
from pipelines.listings.lists import Entry
from pipelines.source import File, files

HELP = "audio files anywhere, named in a TSV, CSV or JSONL list, in Kaldi's wav.scp or in a Sphinx transcription"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a listed file is, or should be. `path` starts from the root; `size_bytes` None: it is not there."""

    path: str
    uri: str
    size_bytes: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    forms = parser.add_mutually_exclusive_group(required=True)
    forms.add_argument(
        "--list",
        help="a .tsv, .csv or .jsonl with path and text; speaker, split, language, offset_s, duration_s, licence and "
        "source are taken too",
    )
    forms.add_argument(
        "--kaldi", nargs="+", metavar="FOLDER", help="Kaldi data folders: wav.scp, text, maybe segments, utt2spk, ..."
    )
    forms.add_argument(
        "--transcription", nargs="+", metavar="FILE", help="CMU Sphinx .transcription files with their .fileids beside"
    )
    parser.add_argument("--root", required=True, help="the folder that the paths start from")
    parser.add_argument("--language", default="en", help="of rows that do not say theirs (default: %(default)s)")
    parser.add_argument("--licence", default="", help="of rows that do not say theirs")
    parser.add_argument(
        "--split",
        help="of rows that do not say theirs (default: train; with --kaldi the folder's name, with --transcription "
        "what follows the last _ of the file's name)",
    )


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    """Raises ValueError for a missing root, a list that cannot be read, and a list without its columns."""
    root = storage.absolute(args.root)
    if not storage.is_folder(root):
        what = "is a file; give the folder" if storage.exists(root) else "no such folder"
        raise ValueError(f"--root {args.root}: {what}")
    find = _Finder(root)
    entries = list(_entries(args))
    names = sphinx.names if args.transcription else _as_it_is
    places = [_nowhere(entry) if entry.reason else find(names(entry.path)) for entry in entries]
    corpus = safe_id(storage.name(root))
    for entry, place, name in zip(entries, places, _ids(entries, places), strict=True):
        split = entry.split or args.split or "train"
        if entry.reason or place.size_bytes is None:
            reason = entry.reason or "missing file"
            detail = f"{entry.file}, line {entry.line}: {entry.detail or f'no such file below {args.root}'}"
            yield Dropped(name, corpus, split, place.uri, entry.duration_s or 0.0, entry.text, reason, detail)
            continue
        yield Candidate(
            id=name,
            corpus=corpus,
            split=split,
            language=entry.language or args.language,
            speaker=entry.speaker,
            audio=place.uri,
            size_bytes=place.size_bytes,
            offset_s=entry.offset_s,
            duration_s=entry.duration_s,
            text_raw=entry.text,
            licence=entry.licence or args.licence,
            source=entry.source or entry.file,
            extra=entry.extra,
        )


def _entries(args: argparse.Namespace) -> Iterator[Entry]:
    if args.list is not None:
        yield from lists.read(args.list)
        return
    for uri in args.kaldi or args.transcription:
        for entry in (kaldi.read if args.kaldi else sphinx.read)(uri):
            yield replace(entry, split=args.split or entry.split)


def _as_it_is(path: str) -> list[str]:
    return [path]


def _nowhere(entry: Entry) -> Place:
    return Place(entry.path, entry.path, None)


class _Finder:
    """Where listed files are. What an object store or an indexed tar holds is listed once; others are asked for."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.is_local = storage.is_local(root)
        sources = archive.find(root) if self.is_local else [root]
        self.listed: dict[str, File] = {file.path: file for source in sources for file in files(source)}

    def __call__(self, paths: Sequence[str]) -> Place:
        """The first of these that is there, or else the first of them."""
        places = map(self._find, paths)
        first = next(places)
        if first.size_bytes is not None:
            return first
        return next((place for place in places if place.size_bytes is not None), first)

    def _find(self, path: str) -> Place:
        uri = storage.absolute(path if "://" in path else storage.join(self.root, path))
        inside = uri.startswith(self.root + "/")
        below = posixpath.normpath(uri[len(self.root) + 1 :]) if inside else uri
        if file := self.listed.get(below):
            return Place(below, file.uri, file.size_bytes)
        if inside and not self.is_local:
            return Place(below, uri, None)
        return Place(below, uri, storage.size_bytes(uri) if storage.is_file(uri) else None)


def _ids(entries: Sequence[Entry], places: Sequence[Place]) -> list[str]:
    """The entry's own id, or one for its stretch of a file: the path, with the start in ms for a part of a file.

    Where several stretches would share one (a.wav and a.flac, another duration), each takes the number of its first
    line. Entries that name the same stretch share an id, so that all but one are dropped as duplicates.
    """
    sharing: dict[str, dict[tuple[str, float, float | None], int]] = {}
    names = []
    for entry, place in zip(entries, places, strict=True):
        part = f"-{round(entry.offset_s * 1000):07d}" if entry.offset_s or entry.duration_s is not None else ""
        names.append(safe_id(entry.id or posixpath.splitext(place.path)[0] + part))
        if not entry.id:
            sharing.setdefault(names[-1], {}).setdefault(_stretch(entry, place), entry.line)
    for index, (entry, place) in enumerate(zip(entries, places, strict=True)):
        if not entry.id and len(lines := sharing[names[index]]) > 1:
            names[index] = safe_id(f"{names[index]}-line{lines[_stretch(entry, place)]}")
    return names


def _stretch(entry: Entry, place: Place) -> tuple[str, float, float | None]:
    return place.path, entry.offset_s, entry.duration_s


def tiny(folder: Path) -> list[str]:
    """A toy corpus in `folder`; returns the arguments that read it."""
    root = str(folder / "audio")
    write_toy(storage.join(root, "one.wav"), 1.0, 8000)
    write_toy(storage.join(root, "deep", "two.flac"), 3.0, 44100)
    rows = [
        ("one.wav", "Just one.", "anna", "dev", "", ""),
        ("deep/two.flac", "The first half", "ben", "train", "0", "1.5"),
        ("deep/two.flac", 'and "the second"', "ben", "train", "1.5", ""),
    ]
    lines = ["\t".join(row) for row in [("path", "text", "speaker", "split", "offset_s", "duration_s"), *rows]]
    uri = str(folder / "list.tsv")
    storage.write_text(uri, "\n".join(lines) + "\n")
    return ["--list", uri, "--root", root]
