"""Transcripts as CMU Sphinx has them, and the markup that came from there into the corpora made with it (TED-LIUM).

A transcription has a line `<s> words </s> (id)` for each utterance, and beside it a `.fileids` names their files in the
same order, without their extension: cmusphinx.github.io/wiki/tutorialam.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from manifests import storage
from pipelines.listings.lists import Entry

EXTENSIONS = ("sph", "wav", "flac", "mp3", "ogg", "raw")
TRANSCRIPTION, FILEIDS = ".transcription", ".fileids"

_SOUNDS = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|<sil>", re.IGNORECASE)  # {NOISE} [BREATH] <sil>: nobody says them
_UNKNOWN = re.compile(r"<unk>", re.IGNORECASE)
_VARIANT = re.compile(r"\(\d+\)")  # to(2): the second pronunciation of "to"
_END = re.compile(r"</s>\s*(?:\([^()]*\)\s*)?$")
_LINE = re.compile(r"(.*?)\s*\(([^()]+)\)\s*")


def clean(text: str) -> str:
    """The words alone: without sentence marks, the id at the end, sounds that are no words, variants and `<unk>`."""
    text = _END.sub(" ", text).replace("<s>", " ")
    return " ".join(_VARIANT.sub("", _UNKNOWN.sub(" ", _SOUNDS.sub(" ", text))).split())


def hides_a_word(text: str) -> bool:
    """True where `<unk>` stands for something that is said but not written."""
    return _UNKNOWN.search(text) is not None


def read(uri: str) -> Iterator[Entry]:
    """An entry for each line of a .transcription and for each file of its .fileids that no line is about.

    The split is what follows the last underscore of the name (an4_train: train), the speaker the folder of the file.
    Raises ValueError for another name, and when one of the two files is missing.
    """
    if not uri.endswith(TRANSCRIPTION):
        raise ValueError(
            f"--transcription {uri}: its name must end in {TRANSCRIPTION}; {FILEIDS} is looked for beside it"
        )
    ids_uri = uri.removesuffix(TRANSCRIPTION) + FILEIDS
    for needed in (uri, ids_uri):
        if not storage.exists(needed):
            raise ValueError(f"--transcription {uri}: no such file {needed}")
    split = storage.name(uri).removesuffix(TRANSCRIPTION).rpartition("_")[2]
    name = storage.name(uri)
    waiting: dict[str, deque[tuple[int, str]]] = {}  # by the last part of the path, which is what the lines end in
    for number, line in enumerate(storage.read_text(ids_uri).split("\n"), 1):
        if path := line.strip():
            waiting.setdefault(storage.name(path), deque()).append((number, path))
    for number, line in enumerate(storage.read_text(uri).split("\n"), 1):
        if line.strip():
            yield _entry(line.strip(), Entry(name, number, "", "", split=split, source=name), waiting)
    for number, path in (file for files in waiting.values() for file in files):
        detail = f"{name} has no line for it"
        ids_name = storage.name(ids_uri)
        yield Entry(ids_name, number, path, "", id=path, split=split, reason="no transcript", detail=detail)


def names(path: str) -> list[str]:
    """Where the file of a .fileids line may be: it says neither the extension nor the folder wav of the database."""
    return [f"{folder}{path}.{extension}" for folder in ("", "wav/") for extension in EXTENSIONS]


def _entry(line: str, entry: Entry, waiting: dict[str, deque[tuple[int, str]]]) -> Entry:
    match = _LINE.fullmatch(line)
    if match is None:
        return replace(entry, id=f"line-{entry.line}", text=line, reason="bad row", detail="does not end in (id)")
    text, name = clean(match[1]), storage.name(match[2].strip())
    if not waiting.get(name):
        detail = f"no line of the {FILEIDS} ends in {name}"
        return replace(entry, id=name, path=name, text=text, reason="missing file", detail=detail)
    path = waiting[name].popleft()[1]
    return replace(entry, id=path, path=path, text=text, speaker=storage.name(storage.parent(path)))
