"""Mozilla Common Voice, any language and version: an unpacked tree, its .tar.gz, or fetched with an API key.

Source of the layout and of the columns: github.com/common-voice/cv-dataset, datasets/scripted-speech/README.md.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from configs import cli
from manifests import archive, storage
from manifests.schema import Dropped, safe_id
from pipelines import download, partial
from pipelines.candidates import Candidate, extra, write_toy
from pipelines.commonvoice import clip_table, datacollective, release
from pipelines.commonvoice.clip_table import Row, unquote
from pipelines.commonvoice.release import Release
from pipelines.download import Archive, Task

HELP = "Common Voice, any language and version"

CORPUS = "commonvoice"
LICENCE = "CC0 1.0; the terms of the Mozilla Data Collective forbid re-hosting"
SITE = "mozilladatacollective.com"

AS_PUBLISHED = ("train", "dev", "test")
TRAIN_EXTRA = "train-extra"
SPLITS = (*AS_PUBLISHED, TRAIN_EXTRA, "validated", "other", "invalidated")
REQUIRED = ("client_id", "path", "sentence")
LONGEST_MS = 600_000  # a sentence that is read for longer is a recording that was not stopped; releases cut at 30 s

# (version, language): rows of each table, from the release's statistics in common-voice/cv-dataset
PUBLISHED = {
    ("25.0-2026-03-09", "en"): {
        "train": 1_147_812,
        "dev": 16_403,
        "test": 16_403,
        "validated": 1_881_067,
        "other": 382_810,
        "invalidated": 310_527,
    }
}
KNOWN = [
    Archive(
        "cv-corpus-25.0-2026-03-09-en",
        "cv-corpus-25.0-2026-03-09-en.tar.gz",
        94_318_514_032,
        "5fc6abeb1832af175a72bd13b79bf90866d3eb0096463daea612fdae6d7cc692",
        None,
    )
]
ENDED = re.compile("the server answers (400|401|403) ")  # what the object stores say of an address that has ended

# ASCII, Latin-1, general, CJK and fullwidth punctuation; with \W, vowel signs of Tamil and Hindi would go too
_PUNCTUATION = re.compile(
    r"[!-/:-@\[-`{-~\xa1-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\u2010-\u205e\u3001-\u3003\u3008-\u301f\uff01-\uff0f\uff1a-\uff20]+"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        required=True,
        help="a folder cv-corpus-*, one around it, that of a language, or one for the archives that are taken in",
    )
    parser.add_argument(
        "--language", nargs="+", metavar="LOCALE", help="en, zh-CN, ... (default: the only one that is there)"
    )
    parser.add_argument("--version", metavar="V", help="25.0, ... where --root holds several")
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=AS_PUBLISHED,
        metavar="SPLIT",
        help="train dev test (default), validated, other, invalidated, or train-extra: more for training, everything "
        "in validated that is in none of the three, with no speaker and no sentence of dev or test",
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="ID",
        help="for --download: the last part of the address of a data set's page on mozilladatacollective.com, where "
        "its terms are to be accepted first; the API key of your profile there is to be in MDC_API_KEY",
    )
    download.add_arguments(parser)


def fetch(args: argparse.Namespace) -> None:
    """Take in what --archive names, and download what --dataset names and --root does not hold yet.

    Raises ValueError for what download.fetch and datacollective.request raise it for, and for one of --download and
    --dataset without the other.
    """
    if args.download != bool(args.dataset):
        raise ValueError("--download and --dataset ID belong together; the pages of the data sets are on " + SITE)
    if args.archive:
        download.fetch(download.given(args.archive, KNOWN, any_name=True), args)
    for dataset in args.dataset or ():
        name = safe_id(datacollective.dataset_name(dataset))
        if archive.is_there(storage.join(args.root, f"{name}.tar")):  # a request counts as one of the day's downloads
            cli.say(args, f"{name}: is in {args.root} already")
        else:
            _download(name, dataset, args)


def _download(name: str, dataset: str, args: argparse.Namespace) -> None:
    """The address that is given for an archive ends after a while: another one then goes on where it stopped."""
    while True:
        offer = datacollective.request(dataset)
        wanted = Archive(name, offer.url, offer.size_bytes, offer.sha256, None)
        parts = Task(wanted, args.root).parts
        before_bytes = partial.arrived_bytes(parts)
        try:
            download.fetch([wanted], args)
        except ValueError as err:
            if not ENDED.search(str(err)) or partial.arrived_bytes(parts) == before_bytes:
                raise
            cli.say(args, f"{name}: the address that was given for it has ended; asking for another one")
        else:
            return


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    """Raises ValueError for what `release.find` raises, and for a table that is missing or cannot be read."""
    for found in release.find(args.root, args.language, args.version):
        tables = {"validated", *AS_PUBLISHED} if TRAIN_EXTRA in args.splits else set()
        if missing := sorted((tables | set(args.splits)) - {TRAIN_EXTRA} - found.tables.keys()):
            there = ", ".join(sorted(found.tables.keys() & set(SPLITS)))
            raise ValueError(
                f"--splits: {found.language} in {args.root} has no {', '.join(f'{m}.tsv' for m in missing)}; "
                f"there are {there}"
            )
        source = " ".join(filter(None, ("Common Voice", found.version, found.language, f"({SITE})")))
        listing = _Listing(found, _reported(found), _insane(found), source)
        for split in (split for split in SPLITS if split in args.splits):
            yield from listing.train_extra() if split == TRAIN_EXTRA else listing.split(split)


def published(args: argparse.Namespace) -> dict[str, int]:
    """Rows of each split, where they are known for all languages."""
    if not any(language in (args.language or [language]) for _, language in PUBLISHED):
        return {}
    totals = dict.fromkeys(args.splits, 0)
    for found in release.find(args.root, args.language, args.version):
        rows = PUBLISHED.get((found.version, found.language), {})
        totals = {split: total + rows[split] for split, total in totals.items() if split in rows}
    return totals


def _reported(found: Release) -> dict[str, str]:
    """Sentences that contributors have reported, with what is wrong with them."""
    if "reported" not in found.tables:
        return {}
    reasons: dict[str, set[str]] = {}
    for row in clip_table.read(found.tables["reported"], ("sentence",)):
        if not row.fault:  # they hold free text of contributors, line breaks too
            reasons.setdefault(unquote(row.cells["sentence"]).strip(), set()).add(row.cells.get("reason", "").strip())
    return {sentence: ", ".join(sorted(said)) for sentence, said in reasons.items()}


def _insane(found: Release) -> dict[str, int]:
    """Milliseconds of the clips that, by clip_durations.tsv (since 16.1), hold nothing or far too much."""
    if "clip_durations" not in found.tables:
        return {}
    insane: dict[str, int] = {}
    for row in clip_table.read(found.tables["clip_durations"], ()):
        clip, milliseconds = row.cells.get("clip") or row.cells.get("filename", ""), row.cells.get("duration[ms]", "")
        if milliseconds.isdecimal() and not 0 < int(milliseconds) <= LONGEST_MS:
            insane[clip] = int(milliseconds)
    return insane


@dataclass(slots=True)
class _Listing:
    """The rows of one release as candidates."""

    found: Release
    reported: dict[str, str]
    insane_ms: dict[str, int]
    source: str
    names: dict[str, str] = field(default_factory=dict)  # one string for all rows of a speaker

    def split(self, split: str) -> Iterator[Candidate | Dropped]:
        for row in clip_table.read(self.found.tables[split], REQUIRED):
            yield self.listed(split, split, row)

    def train_extra(self) -> Iterator[Candidate | Dropped]:
        """What is validated but in no split; none of it shares a speaker or a sentence with dev or test."""
        elsewhere: set[str] = set()
        speakers: set[str] = set()
        sentences: set[str] = set()
        for split in AS_PUBLISHED:
            for row in clip_table.read(self.found.tables[split], REQUIRED):
                if row.fault:
                    continue
                elsewhere.add(row.cells["path"])
                if split != "train":
                    speakers.add(row.cells["client_id"])
                    sentences.add(_key(row.cells["sentence"]))
        for row in clip_table.read(self.found.tables["validated"], REQUIRED):
            if row.fault:
                yield self.dropped("validated", TRAIN_EXTRA, row, "bad row", row.fault)
                continue
            if row.cells["path"] in elsewhere:
                continue
            if row.cells["client_id"] in speakers:
                yield self.dropped("validated", TRAIN_EXTRA, row, "speaker of dev or test", row.cells["client_id"])
            elif _key(row.cells["sentence"]) in sentences:
                yield self.dropped("validated", TRAIN_EXTRA, row, "sentence of dev or test", "")
            elif reason := self.reported.get(unquote(row.cells["sentence"]).strip()):
                yield self.dropped("validated", TRAIN_EXTRA, row, "reported sentence", reason)
            else:
                yield self.listed("validated", TRAIN_EXTRA, row)

    def listed(self, table: str, split: str, row: Row) -> Candidate | Dropped:
        cells = row.cells
        if row.fault or not cells["path"]:
            return self.dropped(table, split, row, "bad row", row.fault or "its path is empty")
        clip = self.found.clip(cells["path"])
        if clip is None:
            return self.dropped(table, split, row, "missing file", f"{cells['path']} is not among the clips")
        if cells.get("locale", self.found.language) not in ("", self.found.language):
            return self.dropped(table, split, row, "other language", f"its locale is {cells['locale']}")
        if cells["path"] in self.insane_ms:
            milliseconds = self.insane_ms[cells["path"]]
            detail = f"{milliseconds} ms in clip_durations.tsv"
            return self.dropped(table, split, row, "impossible duration", detail, milliseconds / 1000)
        sentence = unquote(cells["sentence"]).strip()
        return Candidate(
            id=_id(cells["path"]),
            corpus=CORPUS,
            split=split,
            language=self.found.language,
            speaker=self.names.setdefault(cells["client_id"], cells["client_id"]),
            audio=clip[0],
            size_bytes=clip[1],
            offset_s=0.0,
            duration_s=None,
            text_raw=sentence,
            licence=LICENCE,
            source=self.source,
            extra=self.extra(cells, sentence),
        )

    def dropped(self, table: str, split: str, row: Row, reason: str, detail: str, duration_s: float = 0.0) -> Dropped:
        path = row.cells.get("path", "")
        text = unquote(row.cells.get("sentence", "")).strip()
        where = f"{self.found.language}/{table}.tsv, line {row.line}"
        clip = self.found.clip(path) or (path, 0)
        id_ = _id(path) if path else safe_id(f"{self.found.language}-{table}-line-{row.line}")
        return Dropped(id_, CORPUS, split, clip[0], duration_s, text, reason, f"{where}: {detail}" if detail else where)

    def extra(self, cells: dict[str, str], sentence: str) -> str:
        """Columns that this version has and that say something."""
        return extra(
            age=cells.get("age", ""),
            gender=cells.get("gender", ""),
            accent=cells.get("accents") or cells.get("accent", ""),
            variant=cells.get("variant", ""),
            segment=cells.get("segment", ""),
            up_votes=cells.get("up_votes", ""),
            down_votes=cells.get("down_votes", ""),
            sentence_id=cells.get("sentence_id", ""),
            sentence_domain=cells.get("sentence_domain", ""),
            reported=self.reported.get(sentence, ""),
        )


def _id(path: str) -> str:
    return safe_id(path.removesuffix(".mp3"))


def _key(sentence: str) -> str:
    """Equal for sentences that differ in case and punctuation only."""
    return " ".join(_PUNCTUATION.sub(" ", sentence.casefold()).split())


def tiny(folder: Path) -> list[str]:
    """A toy release in `folder`; returns the arguments that read it."""
    place = storage.join(str(folder), "cv-corpus-24.0-2025-12-05", "en")
    columns = ("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age",
               "gender", "accents", "variant", "locale", "segment")  # fmt: skip
    spoken = {
        "train": [("ann", '"""A toy,"" she said."'), ("ben", "Hasn't it any words?")],
        "dev": [("cat", "This one is for development")],
        "test": [("dan", "And that is for the test.")],
        "other": [("eve", "Nobody has judged this.")],
        "invalidated": [("eve", "Nothing of this was said.")],
    }
    tables: dict[str, list[str]] = {"validated": []}
    durations = ["clip\tduration[ms]"]
    for number, (table, speaker, sentence) in enumerate((t, *clip) for t, clips in spoken.items() for clip in clips):
        name = f"common_voice_en_{number + 1}.mp3"
        write_toy(storage.join(place, release.CLIPS, name), 1.0 + number / 10, 32000)
        durations.append(f"{name}\t{1000 + 100 * number}")
        cells = {"client_id": speaker, "path": name, "sentence": sentence, "up_votes": "2", "down_votes": "0",
                 "age": "twenties", "locale": "en"}  # fmt: skip
        line = "\t".join(cells.get(column, "") for column in columns)
        for each in {table, "validated"} if table in AS_PUBLISHED else {table}:
            tables.setdefault(each, []).append(line)
    for table, lines in tables.items():
        storage.write_text(storage.join(place, f"{table}.tsv"), "\n".join(["\t".join(columns), *lines]) + "\n")
    storage.write_text(storage.join(place, "clip_durations.tsv"), "\n".join(durations) + "\n")
    return ["--root", storage.parent(place), "--language", "en"]
