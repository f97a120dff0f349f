"""LibriSpeech (openslr.org/12): <split>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac, a .trans.txt per chapter."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests import storage
from manifests.schema import Dropped, safe_id
from pipelines.candidates import Candidate, write_toy

HELP = "LibriSpeech, or a tree in its layout"

TRANSCRIPT = ".trans.txt"
AUDIO = ".flac"


@dataclass(frozen=True, slots=True)
class Origin:
    """What all utterances of one corpus share."""

    corpus: str
    licence: str
    source: str


LIBRISPEECH = Origin("librispeech", "CC BY 4.0", "openslr.org/12")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, help="the folder LibriSpeech, one around it, or a single split of it")
    parser.add_argument(
        "--splits", nargs="+", metavar="SPLIT", help="dev-clean, train-clean-100, ... (default: all that are there)"
    )


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    return list_tree(args.root, args.splits, LIBRISPEECH)


def list_tree(root: str, splits: Sequence[str] | None, origin: Origin) -> Iterator[Candidate | Dropped]:
    """The utterances in all folders <split>/<speaker>/<chapter> below `root`, which may itself be any of these.

    Raises ValueError for a root that is missing or holds no such folder, and for a split that is not there.
    """
    chapters = _chapters(storage.absolute(root))
    there = sorted({_place(folder)[0] for folder in chapters})
    unknown = sorted(set(splits or ()) - set(there))
    if unknown:
        raise ValueError(f"--splits: no {', '.join(unknown)} in {root}; there are {', '.join(there)}")
    for folder, sizes in chapters.items():
        if splits is None or _place(folder)[0] in splits:
            yield from _list_chapter(folder, sizes, origin)


def _chapters(root: str) -> dict[str, dict[str, int]]:
    """Per chapter folder its transcript and audio files, name to bytes."""
    chapters: dict[str, dict[str, int]] = {}
    others: dict[str, None] = {}  # top-level names, in order
    for uri, size in storage.list_files(root):
        folder, name = uri.rsplit("/", 1)
        _, speaker, chapter = _place(folder)
        if name.startswith(f"{speaker}-{chapter}") and name.endswith((TRANSCRIPT, AUDIO)):
            chapters.setdefault(folder, {})[name] = size
        else:
            others[uri[len(root) :].lstrip("/").split("/")[0]] = None
    if not chapters:
        if not storage.is_folder(root):
            raise ValueError(f"--root {root}: no such folder")
        held = ", ".join(list(others)[:5]) or "no file at all"
        raise ValueError(
            f"--root {root}: holds no <split>/<speaker>/<chapter>/*{AUDIO} as LibriSpeech does, but {held}"
            f"{' ...' if len(others) > 5 else ''}; give the folder that the archives were unpacked into"
        )
    return chapters


def _place(folder: str) -> tuple[str, str, str]:
    """(split, speaker, chapter) of a chapter's folder."""
    parts = folder.rsplit("/", 3)
    return (parts[-3], parts[-2], parts[-1]) if len(parts) >= 3 else ("", "", folder)


def _list_chapter(folder: str, sizes: dict[str, int], origin: Origin) -> Iterator[Candidate | Dropped]:
    """Every transcript line and every audio file, each of them with the other or dropped."""
    split, speaker, chapter = _place(folder)
    transcript = f"{speaker}-{chapter}{TRANSCRIPT}"
    lines = storage.read_text(storage.join(folder, transcript)).split("\n") if transcript in sizes else []
    texts = dict(_name_and_text(line) for line in lines if line.strip())
    for name, text in texts.items():
        uri = storage.join(folder, name + AUDIO)
        if name + AUDIO not in sizes:
            detail = f"{transcript} names it, but {name}{AUDIO} is not beside it"
            yield Dropped(safe_id(name), origin.corpus, split, uri, 0.0, text, "missing file", detail)
            continue
        yield Candidate(
            id=safe_id(name),
            corpus=origin.corpus,
            split=split,
            language="en",
            speaker=speaker,
            audio=uri,
            size_bytes=sizes[name + AUDIO],
            offset_s=0.0,
            duration_s=None,
            text_raw=text,
            licence=origin.licence,
            source=origin.source,
        )
    for name in sizes:
        stem = name.removesuffix(AUDIO)
        if name.endswith(AUDIO) and stem not in texts:
            uri = storage.join(folder, name)
            detail = f"not in {transcript}" if transcript in sizes else f"there is no {transcript}"
            yield Dropped(safe_id(stem), origin.corpus, split, uri, 0.0, "", "no transcript", detail)


def _name_and_text(line: str) -> tuple[str, str]:
    name, _, text = line.strip().partition(" ")
    return name, text.strip()


def tiny(folder: Path) -> list[str]:
    """A toy corpus in `folder`; returns the arguments that read it."""
    for split, speaker in (("dev-clean", "84"), ("train-clean-100", "19"), ("train-clean-100", "103")):
        chapter = storage.join(str(folder), "LibriSpeech", split, speaker, "7")
        for index, duration_s in enumerate((0.5, 1.25)):
            write_toy(storage.join(chapter, f"{speaker}-7-{index:04d}{AUDIO}"), duration_s)
        lines = f"{speaker}-7-0000 A TOY OF A CORPUS\n{speaker}-7-0001 IT HASN'T ANY WORDS\n"
        storage.write_text(storage.join(chapter, f"{speaker}-7{TRANSCRIPT}"), lines)
    return ["--root", str(folder / "LibriSpeech")]
