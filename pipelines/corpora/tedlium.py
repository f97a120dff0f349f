"""TED-LIUM 1, 2 and 3 (openslr.org/7, 19, 51): whole talks as NIST SPHERE, and an STM that cuts each into segments.

`<split>/{sph,stm}/<talk>.{sph,stm}`; in release 3 the splits lie in `legacy`, whose training talks are links into
`data`, and links are no part of an archive that is not unpacked: there `data` itself is the training split.

`<unk>` in a segment is something spoken that nobody wrote down. In release 3 much of it stands at the ends of segments,
which its makers' tool cut through a word (Kaldi's pull request 2442); how many hours have it, nobody published.
"""

import argparse
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from manifests import storage
from manifests.schema import Dropped, safe_id
from pipelines import download
from pipelines.candidates import Candidate, extra, write_toy
from pipelines.download import Archive
from pipelines.listings import sphinx, stm
from pipelines.listings.stm import Segment
from pipelines.source import File, files

HELP = "TED-LIUM, release 1, 2 or 3"

CORPUS = "tedlium"
LICENCE = "CC BY-NC-ND 3.0"
SPLITS = ("train", "dev", "test")
DATA = "data"
OTHER_SPLITS = "speaker-adaptation"  # release 3 sorts the same talks in two ways; this is not the usual one


@dataclass(frozen=True, slots=True)
class Release:
    """`train`: its training segments; those of dev and test are the same in all releases."""

    page: int
    archive: Archive
    train: int


def _release(page: int, file: str, train: int, size_bytes: int, sha256: str) -> Release:
    url = f"https://www.openslr.org/resources/{page}/{file}"
    # expansion: an estimate from hours of PCM; bytes and SHA-256: TensorFlow Datasets and torchaudio
    return Release(page, Archive(file.partition(".")[0], url, size_bytes, sha256, None, expansion=1.25), train)


RELEASES = {
    "1": _release(
        7,
        "TEDLIUM_release1.tar.gz",
        56803,
        21285615015,
        "30301975fd8c5cac4040c261c0852f57cfa8adbbad2ce78e77e4986957445f27",
    ),
    "2": _release(
        19,
        "TEDLIUM_release2.tar.gz",
        92973,
        36791529840,
        "93281b5fcaaae5c88671c9d000b443cb3c7ea3499ad12010b3934ca41a7b9c58",
    ),
    "3": _release(
        51,
        "TEDLIUM_release-3.tgz",
        268263,
        54320173876,
        "ad1e454d14d1ad550bc2564c462d87c7a7ec83d4dc2b9210f22ab4973b9eccdb",
    ),
}


@dataclass(slots=True)
class Folder:
    """What lies in <split>/stm and <split>/sph; the audio by its talk."""

    stms: list[File] = field(default_factory=list)
    sphs: dict[str, File] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", required=True, choices=RELEASES, help="which of the three")
    parser.add_argument("--root", required=True, help="the folder TEDLIUM_release..., or one around it")
    parser.add_argument(
        "--keep-unk",
        action="store_true",
        help="keep segments with <unk>, which hides a word that is spoken, and leave just the <unk> out (default: they "
        "are dropped, as a text that lacks words teaches a model to leave out words)",
    )
    download.add_arguments(parser)


def published(args: argparse.Namespace) -> dict[str, int]:
    """Segments by split, without those that are not scored."""
    return {"train": RELEASES[args.release].train, "dev": 507, "test": 1155}


def fetch(args: argparse.Namespace) -> None:
    """Bring the archives of --archive to --root, and with --download that of the release."""
    known = [release.archive for release in RELEASES.values()]
    wanted = {a.name: a for a in download.given(args.archive or (), known, any_name=True)}
    if args.download:
        archive = RELEASES[args.release].archive
        wanted.setdefault(archive.name, archive)
    if wanted:
        download.fetch(list(wanted.values()), args)


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    """Raises ValueError for a root without the release, and for one with another release."""
    folders = _read_tree(storage.absolute(args.root), args.release)
    data = folders.get(DATA, Folder())
    if data.stms and not ("train" in folders and folders["train"].stms):
        folders["train"] = data
    source = f"openslr.org/{RELEASES[args.release].page}"
    for split in (split for split in SPLITS if split in folders):
        folder = folders[split]
        audio = data.sphs | folder.sphs
        used = set()
        for file in folder.stms:
            for segment in stm.read(storage.read_text(file.uri)):
                used.add(segment.talk)
                yield _judge(segment, audio.get(segment.talk), file, split, source, args.keep_unk)
        for talk in sorted(folder.sphs.keys() - used):
            uri = folder.sphs[talk].uri
            yield Dropped(safe_id(talk), CORPUS, split, uri, 0.0, "", "no transcript", f"no STM has the talk {talk}")


def _read_tree(root: str, release: str) -> dict[str, Folder]:
    """The release's folders by split, or `data`."""
    folders: dict[str, Folder] = {}
    others: set[str] = set()
    for file in files(root):
        *above, split, kind, name = ["", "", *storage.join(root, file.path).split("/")]
        stem, _, extension = name.rpartition(".")
        if kind not in ("stm", "sph") or extension != kind or split not in (*SPLITS, DATA) or OTHER_SPLITS in above:
            continue
        named = [match[1] for part in above if (match := re.fullmatch(r"TEDLIUM_release-?(\d)", part))]
        if named and named[-1] != release:
            others.add(named[-1])
            continue
        folder = folders.setdefault(split, Folder())
        if kind == "stm":
            folder.stms.append(file)
        else:
            folder.sphs.setdefault(stem, file)
    if not any(folder.stms for folder in folders.values()):
        found = f"; there is release {', '.join(sorted(others))}" if others else ""
        raise ValueError(f"--root {root}: holds no <split>/stm/*.stm of TED-LIUM release {release}{found}")
    return folders


def _judge(
    segment: Segment, sph: File | None, file: File, split: str, source: str, keep_unk: bool
) -> Candidate | Dropped:
    where = f"{storage.name(file.path)}, line {segment.line}"
    if segment.fault:
        number = safe_id(f"{segment.talk}-line{segment.line}")
        return Dropped(number, CORPUS, split, file.uri, 0.0, segment.words, "bad row", f"{where}: {segment.fault}")
    # milliseconds, as Kaldi has them in hundredths
    utterance_id = safe_id(f"{segment.talk}-{round(segment.start_s * 1000):07d}-{round(segment.end_s * 1000):07d}")
    duration_s = round(segment.end_s - segment.start_s, 6)

    def lost(reason: str, detail: str) -> Dropped:
        uri = sph.uri if sph else file.uri
        return Dropped(utterance_id, CORPUS, split, uri, duration_s, segment.words, reason, f"{where}: {detail}")

    if not segment.scored:
        return lost("not scored", "the corpus says nothing about this stretch")
    if sph is None:
        return lost("missing file", f"there is no {segment.talk}.sph")
    if sphinx.hides_a_word(segment.words) and not keep_unk:
        return lost("unknown word", "<unk> stands for a word that is spoken; --keep-unk keeps the segment without it")
    return Candidate(
        id=utterance_id,
        corpus=CORPUS,
        split=split,
        language="en",
        speaker=segment.speaker,
        audio=sph.uri,
        size_bytes=sph.size_bytes,
        offset_s=segment.start_s,
        duration_s=duration_s,
        text_raw=sphinx.clean(segment.words),
        licence=LICENCE,
        source=source,
        extra=_about(segment.gender),
    )


@functools.cache
def _about(gender: str) -> str:
    return extra(gender=gender, use="non-commercial, no derivatives")


def tiny(folder: Path) -> list[str]:
    """A toy corpus in `folder`; returns the arguments that read it."""
    root = storage.join(str(folder), "TEDLIUM_release-3")
    for place, talk, first, second in (
        ("data", "AnnaToy_2016", "they 're {NOISE} the toys of a(2) talk", "that <unk> nobody gives"),
        ("legacy/dev", "BenToy_2010", "this is <sil> another one", "it 's just as short"),
    ):
        lines = (
            ";; a toy",
            f"{talk} 1 inter_segment_gap 0 0.25 <o,,unknown> ignore_time_segment_in_scoring",
            f"{talk} 1 {talk} 0.25 1.50 <NA> {first}",
            f"{talk} 1 {talk} 1.50 2.75 <o,f0,female> {second}",
        )
        write_toy(storage.join(root, place, "sph", f"{talk}.sph"), 3.0)
        storage.write_text(storage.join(root, place, "stm", f"{talk}.stm"), "\n".join(lines) + "\n")
    return ["--release", "3", "--root", root]
