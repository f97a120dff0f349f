"""Where live words are shown: on a terminal with what may still change, rewritten in place; elsewhere what is final."""

import contextlib
import io
import math
import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import Protocol, TextIO

from asr.transcribing.transcript import Form, printable, said
from asr.words import Word
from manifests import storage

KEEP_S = 2.0  # the least between two writes of a transcript; that of ten hours has half a megabyte
_DIM, _PLAIN, _CLEAR = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


class Screen(Protocol):
    def show(self, final: Sequence[Word], partial: Sequence[Word], ended: bool, status: str) -> None:
        """`ended`: the last final word ends its segment. `status`: what is to be known beside the words."""

    def note(self, text: str) -> None:
        """A line for the user that is no transcript."""

    def close(self) -> None: ...


class Plain:
    """What is final, in any form, to a file or pipe, written out at once. Notes go to standard error."""

    def __init__(self, form: Form, out: "TextIO | Kept") -> None:
        self._form, self._out = form, out

    def show(self, final: Sequence[Word], partial: Sequence[Word], ended: bool, status: str) -> None:
        self._write(self._form.more(final, ended))

    def note(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        self._write(self._form.end())

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text)
        self._out.flush()  # also of what came before, which `Kept` may not have written yet


class Kept:
    """A transcript that grows in a file or object: written whole, and again as it grows, for a machine may die at any
    time. Raises OSError, at once, where it cannot be."""

    def __init__(self, uri: str) -> None:
        self._uri, self._text = uri, io.StringIO()
        self.save()
        self._saved_s = -math.inf
        self._new = False

    def write(self, text: str) -> None:
        self._text.write(text)
        self._new = True

    def flush(self) -> None:
        if self._new and time.monotonic() - self._saved_s >= KEEP_S:
            with contextlib.suppress(OSError):  # what is said is still worth listening to; the last `save` tells
                self.save()

    def save(self) -> None:
        self._saved_s, self._new = time.monotonic(), False
        storage.write_text(self._uri, self._text.getvalue())


class Both:
    """The screen, and what is kept in a form beside it."""

    def __init__(self, screen: Screen, kept: Plain) -> None:
        self._screen, self._kept = screen, kept
        self.note = screen.note

    def show(self, final: Sequence[Word], partial: Sequence[Word], ended: bool, status: str) -> None:
        self._screen.show(final, partial, ended, status)
        self._kept.show(final, partial, ended, status)

    def close(self) -> None:
        self._screen.close()
        self._kept.close()


class Terminal:
    """The line that grows, with final words as they are and partial ones dimmed behind them.

    It never gets wider than the terminal, or a return to its start would not reach it: final words begin a new line
    there, and partial ones are cut.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._line = ""  # of final words
        self._segment: int | None = None
        self._partial = self._status = ""

    def show(self, final: Sequence[Word], partial: Sequence[Word], ended: bool, status: str) -> None:
        text = _CLEAR if final or ended else ""
        for word in final:
            text += self._begun(word)
        if ended and self._line:
            text += self._line + "\n"
            self._line, self._segment = "", None
        now = " ".join(said(word) for word in partial)
        if text or (now, status) != (self._partial, self._status):
            self._partial, self._status = now, status
            self._write(text + self._drawn())

    def note(self, text: str) -> None:
        self._write(f"{_CLEAR}{_DIM}{printable(text)}{_PLAIN}\n{self._drawn()}")

    def close(self) -> None:
        self._write(_CLEAR + self._line + ("\n" if self._line else ""))
        self._line, self._segment, self._partial, self._status = "", None, "", ""

    def _begun(self, word: Word) -> str:
        """Append a final word. Gives the line before it, where that is full or of another segment."""
        text, full = said(word), ""
        if self._line and (self._segment != word.segment or width(self._line) + 1 + width(text) >= _columns()):
            full, self._line = self._line + "\n", ""
        self._line += f" {text}" if self._line else text
        self._segment = word.segment
        return full

    def _drawn(self) -> str:
        room = _columns() - 1 - width(self._line)
        status = f" [{self._status}]" if self._status else ""
        status = status if width(status) <= room else ""
        space = " " if self._line else ""
        partial = fitting(space + self._partial, room - width(status)) if self._partial else ""
        faint = partial + status
        return f"{_CLEAR}{self._line}" + (f"{_DIM}{faint}{_PLAIN}" if faint else "")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _columns() -> int:
    return max(10, shutil.get_terminal_size().columns)


def width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(_width(c) for c in text)


def _width(c: str) -> int:
    if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def fitting(text: str, columns: int) -> str:
    """The text, or its start with an ellipsis, in at most so many columns."""
    if width(text) <= columns:
        return text
    out, left = "", columns - 1
    for c in text:
        left -= _width(c)
        if left < 0:
            break
        out += c
    return out + "…" if columns > 0 else ""
