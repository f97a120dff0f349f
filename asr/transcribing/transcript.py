"""Transcripts as they grow: text, JSON, SRT, VTT and CTM. Each form turns what became final into text to be appended.

CTM is NIST's (sctk, doc/infmts.htm): file, channel, start, duration, word, confidence, a line a word. SRT has no
standard; VTT is W3C's WebVTT.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from asr.words import Word

LINE_CHARS = 42  # of a subtitle, as broadcasters have it
CUE_LINES = 2
CUE_S = 7.0  # a cue is shown no longer
PAUSE_S = 1.5  # a cue ends before a pause of this length


class Form(Protocol):
    """A transcript of one recording. What the calls give is appended to it."""

    def more(self, words: Sequence[Word], ended: bool = False) -> str:
        """Words that became final, in their order; `ended`: the last one ends its segment."""

    def end(self, error: str = "") -> str:
        """The recording is over; `error`: why before its end, for forms that have a place for it."""


class Text:
    """A line a segment."""

    def __init__(self) -> None:
        self._segment: int | None = None  # of the line that has been begun

    def more(self, words: Sequence[Word], ended: bool = False) -> str:
        out = ""
        for word in words:
            if self._segment is not None:
                out += " " if word.segment == self._segment else "\n"
            out += said(word)
            self._segment = word.segment
        return out + (self.end() if ended else "")

    def end(self, error: str = "") -> str:
        line_open, self._segment = self._segment is not None, None
        return "\n" if line_open else ""


class Json:
    """One object a recording, when it is done."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._words: list[Word] = []

    def more(self, words: Sequence[Word], ended: bool = False) -> str:
        self._words += words
        return ""

    def end(self, error: str = "") -> str:
        facts = {"file": self._file} | ({"error": error} if error else {})
        return _json(facts | {"text": text(self._words), "words": [_facts(w) for w in self._words]})


class JsonLines:
    """An object for each time that words become final, or turn out to end their segment (`endpoint`)."""

    def __init__(self) -> None:
        self._begun = False  # a segment that has not ended

    def more(self, words: Sequence[Word], ended: bool = False) -> str:
        if not words and not (ended and self._begun):
            return ""
        self._begun = not ended
        return _json({"text": text(words), "words": [_facts(w) for w in words], "endpoint": ended})

    def end(self, error: str = "") -> str:
        return ""


class Ctm:
    """A line a word; channel 1, for all channels are mixed."""

    def __init__(self, file: str) -> None:
        self._file = _one_word(file) or "-"

    def more(self, words: Sequence[Word], ended: bool = False) -> str:
        lines = []
        for word in words:
            start_s = round(word.start_s, 2)
            duration_s = max(0.01, round(word.end_s, 2) - start_s)
            lines.append(
                f"{self._file} 1 {start_s:.2f} {duration_s:.2f} {_one_word(said(word))} {word.confidence:.3f}\n"
            )
        return "".join(lines)

    def end(self, error: str = "") -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle; times in milliseconds."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


class _Cues:
    """Words to cues: of one segment each, at most CUE_LINES lines of LINE_CHARS (but for longer words), one after the
    other in time."""

    def __init__(self) -> None:
        self._words: list[Word] = []  # of the cue that may still grow
        self._until_ms = 0  # the end of the last cue

    def more(self, words: Sequence[Word], ended: bool) -> Iterator[Cue]:
        for word in words:
            if self._words and not self._fits(word):
                yield self._cut()
            self._words.append(word)
        if ended:
            yield from self.end()

    def end(self) -> Iterator[Cue]:
        if self._words:
            yield self._cut()

    def _fits(self, word: Word) -> bool:
        first, last = self._words[0], self._words[-1]
        return (
            word.segment == last.segment
            and word.end_s - first.start_s <= CUE_S
            and word.start_s - last.end_s < PAUSE_S
            and len(wrapped([said(w) for w in [*self._words, word]], LINE_CHARS)) <= CUE_LINES
        )

    def _cut(self) -> Cue:
        words, self._words = self._words, []
        start_ms = max(self._until_ms, round(words[0].start_s * 1000))  # two words may begin in the same frame
        self._until_ms = max(start_ms + 1, round(words[-1].end_s * 1000))
        return Cue(start_ms, self._until_ms, balanced([said(w) for w in words]))


class Srt:
    def __init__(self) -> None:
        self._cues, self._count = _Cues(), 0

    def more(self, words: Sequence[Word], ended: bool = False) -> str:
        return self._shown(self._cues.more(words, ended))

    def end(self, error: str = "") -> str:
        return self._shown(self._cues.end())

    def _shown(self, cues: Iterator[Cue]) -> str:
        out = ""
        for cue in cues:
            self._count += 1
            lines = "\n".join(line.replace("-->", "→") for line in cue.lines)
            out += f"{self._count}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{lines}\n\n"
        return out


class Vtt:
    def __init__(self) -> None:
        self._cues, self._begun = _Cues(), False

    def more(self, words: Sequence[Word], ended: bool = False) -> str:
        return self._shown(self._cues.more(words, ended))

    def end(self, error: str = "") -> str:
        return self._shown(self._cues.end())

    def _shown(self, cues: Iterator[Cue]) -> str:
        out = "" if self._begun else "WEBVTT\n\n"
        self._begun = True
        for cue in cues:
            lines = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            out += f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{lines}\n\n"
        return out


FORMS: dict[str, Callable[[str], Form]] = {
    "text": lambda file: Text(),
    "json": Json,
    "srt": lambda file: Srt(),
    "vtt": lambda file: Vtt(),
    "ctm": Ctm,
}
SUFFIXES = {"text": "txt", "json": "json", "srt": "srt", "vtt": "vtt", "ctm": "ctm"}


def text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def said(word: Word) -> str:
    """The word as it may be shown in a line: a vocabulary with bytes can say anything, also what a terminal obeys."""
    return printable(word.text)


def printable(text: str) -> str:
    """A line that shows and does nothing else, whoever wrote it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def wrapped(words: Sequence[str], limit_chars: int) -> list[str]:
    """Lines as full as they can be."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= limit_chars:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def balanced(words: Sequence[str]) -> tuple[str, ...]:
    """As few lines as `wrapped` makes, the longest of them as short as can be."""
    fewest = len(wrapped(words, LINE_CHARS))
    for limit_chars in range(1, LINE_CHARS):
        if len(wrapped(words, limit_chars)) <= fewest:
            return tuple(wrapped(words, limit_chars))
    return tuple(wrapped(words, LINE_CHARS))


def _clock(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms:03}"


def _facts(word: Word) -> dict[str, object]:
    facts = asdict(word)
    return {"word": facts["text"], "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3),
            "confidence": round(word.confidence, 3), "segment": word.segment}  # fmt: skip


def _json(facts: dict[str, object]) -> str:
    return json.dumps(facts, ensure_ascii=False) + "\n"


def _one_word(text: str) -> str:
    return "_".join(text.split())
