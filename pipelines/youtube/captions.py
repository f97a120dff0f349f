"""Caption files become cues with times in milliseconds: WebVTT, SubRip (SRT), and the json3 that YouTube serves.

All three are read as they are met rather than as they are specified: SRT without numbers, without blank lines or with
points in its times; WebVTT with the tags, styles and word times of YouTube. What cannot be read is a CaptionError that
names the line. No word is changed here, only what is markup of the format goes: tags, entities, cue numbers.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FORMATS = ("json3", "vtt", "srt")  # the best first: json3 has the times of words without any guessing

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_NUMBER = re.compile(r"\s*\d+\s*")
_WORD_TIME = re.compile(rf"<{_TIME}>")
_TAG = re.compile(r"(<[a-zA-Z/][^<>]*>|<(?:\d+:)?\d{1,2}:\d{1,2}[.,]\d{1,3}>)")  # not the < of "a < b"
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]*)>")
_READING = re.compile(r"<rt\b[^<>]*>.*?</rt>")  # how to pronounce what it stands above: not said a second time
_POSITION = re.compile(r"\{\\[^{}]*\}")  # {\an8}, from SubStation Alpha, left in SRT by converters
_NOT_CUES = ("NOTE", "STYLE", "REGION")


class CaptionError(ValueError):
    """A caption file that is none; the message says where."""


@dataclass(frozen=True, slots=True)
class Bit:
    """Words of a line that come in one piece, with their blanks; `start_ms` where they have a time of their own."""

    text: str
    start_ms: int | None = None


Line = tuple[Bit, ...]


@dataclass(frozen=True, slots=True)
class Cue:
    """What stands on the screen from `start_ms` to `end_ms`, which may come before it. `voice`: WebVTT's <v Name>.

    `place` is its line in the file, of json3 its event, as messages name it.
    """

    start_ms: int
    end_ms: int
    lines: tuple[Line, ...]
    place: str
    voice: str = ""


def text_of(line: Line) -> str:
    """The words of a line, one blank between them."""
    return " ".join("".join(bit.text for bit in line).split())


def read(text: str, extension: str) -> list[Cue]:
    """The cues that have any text, in the file's order. Raises CaptionError."""
    assert extension in FORMATS, extension
    if extension == "json3":
        cues = _json3(text)
    else:
        lines = re.split(r"\r\n|\r|\n", text)
        cues = _webvtt(lines) if extension == "vtt" else _subrip(lines)
    return [cue for cue in cues if any(text_of(line) for line in cue.lines)]


def _webvtt(lines: list[str]) -> Iterator[Cue]:
    if not re.match(r"WEBVTT(?:\s|$)", lines[0]):
        raise CaptionError(f"line 1: {lines[0][:40]!r} is not WEBVTT, with which such a file begins")
    for start, end, timing in _between_timings(lines):
        if timing is None:
            continue  # the header, styles and notes
        blocks: list[list[str]] = [[]]
        for line in lines[start:end]:
            if line:
                blocks[-1].append(line)
            else:
                blocks.append([])
        if end < len(lines) and len(blocks) > 1 and len(blocks[-1]) == 1:
            blocks.pop()  # a line right above the next times, below a blank one: the name of that cue
        # text below a blank line is lost in a player, but was meant for this cue
        shown = [line for block in blocks if block and not block[0].startswith(_NOT_CUES) for line in block]
        yield _cue(timing, shown, start)


def _subrip(lines: list[str]) -> Iterator[Cue]:
    for start, end, timing in _between_timings(lines):
        if timing is None:
            stray = [number for number in range(start, end) if lines[number].strip()]
            if stray:
                raise CaptionError(f"line {stray[0] + 1}: {lines[stray[0]][:40]!r} comes before any time")
        else:
            yield _cue(timing, [_POSITION.sub("", line) for line in lines[start:end] if line.strip()], start)


def _between_timings(lines: list[str]) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """(first line, line after the last, times in ms) of the text below each line of times; None: before the first.

    A number right above a line of times counts the cues and is no text.
    """
    timings = [number for number, line in enumerate(lines) if "-->" in line]
    ends = [number - 1 if number and _NUMBER.fullmatch(lines[number - 1]) else number for number in timings]
    yield 0, [*ends, len(lines)][0], None
    for number, end in zip(timings, [*ends, len(lines)][1:], strict=True):
        yield number + 1, end, _times(lines[number], number + 1)


def _times(line: str, number: int) -> tuple[int, int]:
    match = _TIMING.fullmatch(line)
    if match is None:
        raise CaptionError(f"line {number}: {line.strip()[:60]!r} is not two times with --> between them")
    parts = match.groups()
    return _ms(parts[:4], number), _ms(parts[4:], number)


def _ms(parts: tuple[str | None, ...], number: int) -> int:
    hours, minutes, seconds = (int(part or 0) for part in parts[:3])
    if minutes > 59 or seconds > 59:
        raise CaptionError(f"line {number}: {minutes:02d}:{seconds:02d} is not a time")
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + int((parts[3] or "").ljust(3, "0"))


def _cue(timing: tuple[int, int], lines: list[str], number: int) -> Cue:
    """`number` of the line of times, from 1."""
    text = "\n".join(lines)
    voice = match[1].strip() if (match := _VOICE.search(text)) else ""
    # the second voice and those after it: as captions without voices show a change of speakers
    text = _VOICE.sub(">> ", _VOICE.sub("", text, count=1))
    return Cue(*timing, tuple(_bits(line, number) for line in text.split("\n")), f"line {number}", voice)


def _bits(line: str, number: int) -> Line:
    bits: list[Bit] = []
    start_ms: int | None = None
    text = ""
    for part in _TAG.split(_READING.sub("", line)):
        if not _TAG.fullmatch(part):
            text += html.unescape(part)
        elif match := _WORD_TIME.fullmatch(part):
            if text:
                bits.append(Bit(text, start_ms))
            start_ms, text = _ms(match.groups(), number), ""
    return (*bits, Bit(text, start_ms)) if text else tuple(bits)


def _json3(text: str) -> Iterator[Cue]:
    """Events with `segs` are lines of text; the others place windows on the screen."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as err:
        raise CaptionError(f"line {err.lineno}: not JSON ({err.msg})") from None
    except RecursionError:
        raise CaptionError("line 1: brackets in brackets, not JSON as json3 has it") from None
    events = data.get("events") if isinstance(data, dict) else None
    if not isinstance(events, list):
        raise CaptionError("line 1: JSON, but without a list of events as json3 has it")
    for number, event in enumerate(events, 1):
        if not isinstance(event, dict) or not isinstance(event.get("segs", []), list):
            raise CaptionError(f"event {number}: is no event of json3")
        if event.get("segs"):
            start_ms = _whole(event, "tStartMs", number)
            end_ms = start_ms + _whole(event, "dDurationMs", number)
            yield Cue(start_ms, end_ms, _segments(event["segs"], start_ms, number), f"event {number}")


def _segments(segs: list[Any], event_ms: int, number: int) -> tuple[Line, ...]:
    lines: list[list[Bit]] = [[]]
    for seg in segs:
        if not isinstance(seg, dict) or not isinstance(seg.get("utf8", ""), str):
            raise CaptionError(f"event {number}: a segment has no text")
        start_ms = event_ms + _whole(seg, "tOffsetMs", number) if "tOffsetMs" in seg else None
        first, *others = seg.get("utf8", "").split("\n")
        if first:
            lines[-1].append(Bit(first, start_ms))
        lines += [[Bit(other, start_ms)] if other else [] for other in others]
    return tuple(tuple(line) for line in lines if line)


def _whole(record: dict[str, Any], key: str, number: int) -> int:
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e10:
        raise CaptionError(f"event {number}: {key} is {value!r}, not a number of milliseconds")
    return round(value)
