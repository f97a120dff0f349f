"""LibriSpeech (openslr.org/12) and its small extract for trials (openslr.org/31), unpacked or still in their archives.

<split>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac, a .trans.txt for each chapter, and SPEAKERS.TXT above all.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manifests import storage
from manifests.schema import Dropped, safe_id
from pipelines import download
from pipelines.candidates import Candidate, extra, write_toy
from pipelines.download import Archive
from pipelines.source import File, files

HELP = "LibriSpeech, mini LibriSpeech, or a tree in their layout"

TRANSCRIPT = ".trans.txt"
AUDIO = ".flac"
SPEAKERS = "SPEAKERS.TXT"
GENDERS = {"M": "male", "F": "female"}


@dataclass(frozen=True, slots=True)
class Part:
    """A split as openslr.org has it. `utterances` None: nobody published how many it has."""

    archive: Archive
    utterances: int | None


# Page of openslr.org, split, utterances, bytes, SHA-256: what TensorFlow Datasets and torchaudio check by; for the mini
# version what several projects recorded beside the MD5 of openslr.org. The numbers of utterances agree in several
# projects.
_TABLE = """
12 dev-clean         2703   337926286 76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3
12 dev-other         2864   314305928 12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365
12 test-clean        2620   346663984 39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23
12 test-other        2939   328757843 d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29
12 train-clean-100  28539  6387309499 d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2
12 train-clean-360 104014 23049477885 146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf
12 train-other-500 148688 30593501606 ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2
31 dev-clean-2       1089   126046265 176ec501490eced2d6c1f89f4f0ddc7dfe799e649e5322f8ba49fe3ff50c8012
31 train-clean-5     None   332954390 47805806c8b15f7549f3c51bd6b7da72ec0128a34d32830c8014a88658c0292d
"""


def _part(page: str, split: str, utterances: str, size_bytes: str, sha256: str) -> Part:
    url = f"https://www.openslr.org/resources/{page}/{split}.tar.gz"
    archive = Archive(split, url, int(size_bytes), sha256, None)
    return Part(archive, None if utterances == "None" else int(utterances))


PARTS = {part.archive.name: part for part in (_part(*line.split()) for line in _TABLE.strip().splitlines())}


@dataclass(frozen=True, slots=True)
class Origin:
    """What all utterances of one corpus share."""

    corpus: str
    licence: str
    source: str


LIBRISPEECH = Origin("librispeech", "CC BY 4.0", "openslr.org/12")


@dataclass(slots=True)
class Chapter:
    """A chapter's folder: its files by name, and any second file of a name (as when an archive was unpacked too)."""

    split: str
    speaker: str
    stem: str
    folder: str
    files: dict[str, File] = field(default_factory=dict)
    again: list[File] = field(default_factory=list)

    def add(self, name: str, file: File) -> None:
        if self.files.setdefault(name, file) is not file and name.endswith(AUDIO):
            self.again.append(file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, help="the folder LibriSpeech, one around it, or a single split of it")
    parser.add_argument(
        "--splits", nargs="+", metavar="SPLIT", help="dev-clean, train-clean-100, ... (default: all that are there)"
    )
    download.add_arguments(parser)


def published(args: argparse.Namespace) -> dict[str, int]:
    """Utterances by split: the same in several projects that count them."""
    return {split: part.utterances for split, part in PARTS.items() if part.utterances is not None}


def fetch(args: argparse.Namespace) -> None:
    """Bring the archives of --archive, and with --download those of --splits, to --root.

    Raises ValueError for a split that is not published, and for --download without any.
    """
    known = {name: part.archive for name, part in PARTS.items()}
    wanted = {a.name: a for a in download.given(args.archive or (), list(known.values()), any_name=True)}
    if args.download:
        if not args.splits:
            raise ValueError(f"--download: name with --splits what to fetch: {', '.join(known)}")
        if unknown := sorted(set(args.splits) - known.keys()):
            raise ValueError(f"--splits: no {', '.join(unknown)} is published; there are {', '.join(known)}")
        wanted = {split: known[split] for split in args.splits} | wanted
    if wanted:
        download.fetch(list(wanted.values()), args)


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    return list_tree(args.root, args.splits, LIBRISPEECH)


def list_tree(root: str, splits: Sequence[str] | None, origin: Origin) -> Iterator[Candidate | Dropped]:
    """The utterances in all folders <split>/<speaker>/<chapter> below `root`, which may itself be any of these.

    Raises ValueError for a root that is missing or holds no such folder, and for a split that is not there.
    """
    chapters, people = _read_tree(storage.absolute(root))
    there = sorted({chapter.split for chapter in chapters})
    unknown = sorted(set(splits or ()) - set(there))
    if unknown:
        raise ValueError(f"--splits: no {', '.join(unknown)} in {root}; there are {', '.join(there)}")
    for chapter in chapters:
        if splits is None or chapter.split in splits:
            yield from _list_chapter(chapter, people.get(chapter.speaker, ""), origin)


def _read_tree(root: str) -> tuple[list[Chapter], dict[str, str]]:
    """The chapters, and of each speaker what SPEAKERS.TXT tells (as `Candidate.extra`), where there is one."""
    chapters: dict[str, Chapter] = {}
    people: dict[str, str] = {}
    others: dict[str, None] = {}  # top-level names, in order
    for file in files(root):
        folder, _, name = file.path.rpartition("/")
        if (chapter := chapters.get(folder)) is None:
            chapter = _chapter(storage.join(root, folder) if folder else root)
        if (name.startswith(chapter.stem + "-") and name.endswith(AUDIO)) or name == chapter.stem + TRANSCRIPT:
            chapters.setdefault(folder, chapter).add(name, file)
        elif name == SPEAKERS:
            people = _people(file) | people  # every archive has one, all the same
        else:
            others[file.path.split("/")[0]] = None
    if not chapters:
        held = ", ".join(list(others)[:5]) or "no file at all"
        if packed := [storage.join(root, name) for name in others if name.endswith((".tar.gz", ".tgz"))]:
            more = " ..." if len(packed) > 1 else ""
            raise ValueError(f"--root {root}: holds archives not taken in yet; say --archive {packed[0]}{more}")
        raise ValueError(
            f"--root {root}: holds no <split>/<speaker>/<chapter>/*{AUDIO} as LibriSpeech does, but {held}"
            f"{' ...' if len(others) > 5 else ''}; give the folder that the archives were unpacked into"
        )
    return [chapters[folder] for folder in sorted(chapters)], people


def _chapter(folder: str) -> Chapter:
    split, speaker, chapter = ["", "", "", *folder.rsplit("/", 3)[-3:]][-3:]
    return Chapter(split, speaker, f"{speaker}-{chapter}", folder)


def _people(file: File) -> dict[str, str]:
    """Lines of `ID | SEX | SUBSET | MINUTES | NAME`; one name has bars of its own, `|CBW|Simon`."""
    people = {}
    for line in storage.read_bytes(file.uri).decode(errors="replace").split("\n"):
        cells = [cell.strip() for cell in line.split("|", 4)]
        if len(cells) == 5 and not line.startswith(";"):
            people[cells[0]] = extra(gender=GENDERS.get(cells[1], cells[1]), name=cells[4])
    return people


def _list_chapter(chapter: Chapter, about: str, origin: Origin) -> Iterator[Candidate | Dropped]:
    """Every transcript line and every audio file, each of them with the other or dropped."""

    def lost(name: str, uri: str, text: str, reason: str, detail: str) -> Dropped:
        return Dropped(safe_id(name), origin.corpus, chapter.split, uri, 0.0, text, reason, detail)

    transcript = chapter.stem + TRANSCRIPT
    listed = set()
    for name, text in _texts(chapter.files.get(transcript)):
        listed.add(name + AUDIO)
        file = chapter.files.get(name + AUDIO)
        if file is None:
            detail = f"{transcript} names it, but {name}{AUDIO} is not beside it"
            yield lost(name, storage.join(chapter.folder, name + AUDIO), text, "missing file", detail)
            continue
        yield Candidate(
            id=safe_id(name),
            corpus=origin.corpus,
            split=chapter.split,
            language="en",
            speaker=chapter.speaker,
            audio=file.uri,
            size_bytes=file.size_bytes,
            offset_s=0.0,
            duration_s=None,
            text_raw=text,
            licence=origin.licence,
            source=origin.source,
            extra=about,
        )
    for name in sorted(chapter.files.keys() - listed - {transcript}):
        detail = f"not in {transcript}" if transcript in chapter.files else f"there is no {transcript}"
        yield lost(name.removesuffix(AUDIO), chapter.files[name].uri, "", "no transcript", detail)
    for file in chapter.again:
        name = storage.name(file.path)
        detail = f"the first one is {chapter.files[name].uri}"
        yield lost(name.removesuffix(AUDIO), file.uri, "", "duplicate id", detail)


def _texts(transcript: File | None) -> Iterator[tuple[str, str]]:
    """(utterance, text) of each line."""
    for line in storage.read_text(transcript.uri).split("\n") if transcript else ():
        name, _, text = line.strip().partition(" ")
        if name:
            yield name, text.strip()


def tiny(folder: Path) -> list[str]:
    """A toy corpus in `folder`; returns the arguments that read it."""
    root = storage.join(str(folder), "LibriSpeech")
    for split, speaker in (("dev-clean", "84"), ("train-clean-100", "19"), ("train-clean-100", "103")):
        chapter = storage.join(root, split, speaker, "7")
        for index, duration_s in enumerate((0.5, 1.25)):
            write_toy(storage.join(chapter, f"{speaker}-7-{index:04d}{AUDIO}"), duration_s)
        words = {"84": "GOOD", "19": "FINE", "103": "NICE"}[speaker]  # no sentence is in train and dev
        lines = f"{speaker}-7-0000 A {words} TOY\n{speaker}-7-0001 IT HASN'T ANY {words} WORDS\n"
        storage.write_text(storage.join(chapter, f"{speaker}-7{TRANSCRIPT}"), lines)
    people = ";ID  |SEX| SUBSET           |MINUTES| NAME\n19   | F | train-clean-100  | 25.19 | Kara\n"
    storage.write_text(storage.join(root, SPEAKERS), people + "84   | M | dev-clean        | 20.10 | |CBW|Simon\n")
    return ["--root", root]
