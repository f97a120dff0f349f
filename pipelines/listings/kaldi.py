"""Kaldi's data folders: wav.scp and text, and where they are there segments, utt2spk and spk2gender.

Each is a table of `<key> <value>` lines: kaldi-asr.org/doc/data_prep.html.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from manifests import storage
from pipelines.candidates import extra
from pipelines.listings.lists import Entry, seconds

GENDERS = {"m": "male", "f": "female"}

_IN_ARCHIVE = re.compile(r"\.ark(:\d+)?(\[.*\])?$")  # feats.ark:1234


@dataclass(frozen=True, slots=True)
class _Line:
    file: str
    number: int
    value: str


@dataclass(slots=True)
class _Table:
    """A file of the folder by its keys; further lines of a key stand in `again`."""

    lines: dict[str, _Line] = field(default_factory=dict)
    again: list[tuple[str, _Line]] = field(default_factory=list)

    def value(self, key: str) -> str:
        return self.lines[key].value if key in self.lines else ""


@dataclass(frozen=True, slots=True)
class _Folder:
    """`segments` None: each recording is one utterance."""

    split: str
    recordings: _Table
    texts: _Table
    segments: _Table | None
    speakers: _Table
    genders: _Table


def read(uri: str) -> Iterator[Entry]:
    """An entry for each utterance or recording that a table names; the split is the folder's name.

    Raises ValueError for a folder without wav.scp or text.
    """
    folder = _open(storage.absolute(uri))
    listed = folder.recordings if folder.segments is None else folder.segments
    used = set()
    for utterance, line in listed.lines.items():
        recording = utterance if folder.segments is None else line.value.partition(" ")[0]
        used.add(recording)
        yield _entry(folder, utterance, recording, line)
    name = "wav.scp" if folder.segments is None else "segments"
    for utterance, line in folder.texts.lines.items():
        if utterance not in listed.lines:
            yield _lost(folder, utterance, line, "missing file", f"{name} has no {utterance}")
    for recording, line in folder.recordings.lines.items():
        if recording not in used:
            yield _lost(folder, recording, line, "no transcript", f"no line of {name} cuts {recording}")
    for table in (listed, folder.texts):
        for utterance, line in table.again:
            yield _lost(folder, utterance, line, "duplicate id", f"a second line for {utterance}")


def _open(uri: str) -> _Folder:
    split = storage.name(uri)

    def table(name: str, needed: bool = False) -> _Table:
        file = storage.join(uri, name)
        if storage.exists(file):
            return _read_table(storage.read_text(file), f"{split}/{name}")
        if needed:
            raise ValueError(f"--kaldi {uri}: has no {name}; a Kaldi data folder holds wav.scp and text")
        return _Table()

    is_cut = storage.exists(storage.join(uri, "segments"))
    return _Folder(
        split=split,
        recordings=table("wav.scp", needed=True),
        texts=table("text", needed=True),
        segments=table("segments") if is_cut else None,
        speakers=table("utt2spk"),
        genders=table("spk2gender"),
    )


def _read_table(text: str, name: str) -> _Table:
    table = _Table()
    for number, line in enumerate(text.split("\n"), 1):
        key, *value = line.split(maxsplit=1)[:2] or [""]
        entry = _Line(name, number, value[0].strip() if value else "")
        if key and table.lines.setdefault(key, entry) is not entry:
            table.again.append((key, entry))
    return table


def _entry(folder: _Folder, utterance: str, recording: str, line: _Line) -> Entry:
    if recording not in folder.recordings.lines:
        return _lost(folder, utterance, line, "missing file", f"wav.scp has no {recording}")
    audio = folder.recordings.lines[recording]
    if fault := _no_file(audio.value):
        return _lost(folder, utterance, audio, "bad row", fault)
    if utterance not in folder.texts.lines:
        return _lost(folder, utterance, line, "no transcript", f"text has no {utterance}")
    try:
        offset_s, duration_s = (0.0, None) if folder.segments is None else _span(line.value)
    except ValueError as err:
        return _lost(folder, utterance, line, "bad row", str(err))
    speaker = folder.speakers.value(utterance)
    gender = folder.genders.value(speaker)
    return Entry(
        file=line.file,
        line=line.number,
        path=audio.value,
        text=folder.texts.value(utterance),
        id=utterance,
        offset_s=offset_s,
        duration_s=duration_s,
        speaker=speaker,
        split=folder.split,
        source=f"{folder.split}/wav.scp",
        extra=extra(gender=GENDERS.get(gender, gender)),
    )


def _no_file(value: str) -> str:
    """Why an entry of wav.scp names no file; "" where it does."""
    if value.endswith("|") or value.startswith(("|", "pipe:")):
        return f"'{value}' is a shell command and is not run; write the path of an audio file, SPHERE and MP3 as well"
    if _IN_ARCHIVE.search(value):
        return f"'{value}' is a place in a Kaldi archive; write the path of an audio file"
    return "" if value and value != "-" else "names no file"


def _span(value: str) -> tuple[float, float | None]:
    """Offset and duration in seconds of `<recording> <start> <end>`; an end of -1 is the end of the file: None."""
    fields = value.split()
    if len(fields) != 3:
        raise ValueError(f"{len(fields) + 1} fields, where utterance, recording, start and end are read")
    start_s = seconds("the start", fields[1]) or 0.0
    if fields[2] in ("-1", "-1.0"):
        return start_s, None
    end_s = seconds("the end", fields[2]) or 0.0
    if end_s <= start_s:
        raise ValueError(f"ends at {fields[2]} s, where it starts at {fields[1]} s")
    return start_s, round(end_s - start_s, 6)


def _lost(folder: _Folder, utterance: str, line: _Line, reason: str, detail: str) -> Entry:
    audio, text = folder.recordings.value(utterance), folder.texts.value(utterance)
    return Entry(line.file, line.number, audio, text, id=utterance, split=folder.split, reason=reason, detail=detail)
