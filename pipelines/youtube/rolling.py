"""Captions that roll up the screen, as automatic ones do: each line appears once, with the times of its words.

Two forms are met. In WebVTT, and in SRT made from it, a cue shows the line before once more above the new one, so each
line comes two or three times. In json3 a line comes once, but stays while the next is written below: cues overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pipelines.youtube.captions import Bit, Cue, Line, text_of

LINGER_MS = 250  # a cue may overlap the next one by this much in captions that do not roll
LONGEST_WORD_MS = 1200  # a word without a time for its end is taken to last no longer


@dataclass(frozen=True, slots=True)
class Word:
    """One word, or a few that share a time. Its text begins with a blank unless it goes on with the word before."""

    start_ms: int
    end_ms: int
    text: str


def rolls(cues: Sequence[Cue]) -> bool:
    """Whether most cues repeat what the one before showed, or overlap it. No one writes captions so by hand."""
    return _mostly(cues, overlapping=True)


def unroll(cues: Sequence[Cue]) -> list[Cue]:
    """The cues with only what is new in each; those that show nothing new are gone."""
    if not _mostly(cues, overlapping=False):
        return list(cues)
    before: list[str] = []
    fresh = []
    for cue in cues:
        lines = [line for line in cue.lines if text_of(line)]
        now = [text_of(line) for line in lines]
        whole, words = _shown(before, now, lines)
        new = lines[whole:]
        if words:
            new[0] = (Bit(" ".join(now[whole].split()[words:])),)
        if new:
            fresh.append(replace(cue, lines=tuple(new)))
        before = now
    return fresh


def words(cue: Cue, next_ms: int | None) -> list[Word]:
    """The words of a cue, or all of it as one where it has no times within. `next_ms`: when the next cue begins.

    Times that run backwards are moved up to the word before. A word ends where the next one begins, and at most
    LONGEST_WORD_MS after its start: a line may stay on the screen long after its last word.
    """
    bits = _timed(cue)
    last_ms = max(cue.start_ms, cue.end_ms if next_ms is None else min(cue.end_ms, next_ms))
    starts: list[int] = []
    for start_ms, _ in bits:
        starts.append(min(max(start_ms, cue.start_ms, *starts[-1:]), last_ms))
    longest_ms = LONGEST_WORD_MS if len(bits) > 1 else last_ms
    ends = [
        min(end_ms, start_ms + longest_ms) for start_ms, end_ms in zip(starts, [*starts[1:], last_ms], strict=False)
    ]
    return [Word(s, e, text) for s, e, (_, text) in zip(starts, ends, bits, strict=True)]


def _timed(cue: Cue) -> list[tuple[int, str]]:
    """Starts in ms and texts, which begin with a blank unless they go on with the word before."""
    bits: list[tuple[int, str]] = []
    for line in cue.lines:
        blank = " "
        for bit in line:
            text = blank + bit.text
            blank = ""
            new = bit.start_ms is not None and not (bits and _inside_a_word(bits[-1][1], text))
            if bits and (not new or not text.strip()):
                bits[-1] = (bits[-1][0], bits[-1][1] + text)
            else:
                bits.append((cue.start_ms if bit.start_ms is None else bit.start_ms, text))
    return [(start_ms, text) for start_ms, text in bits if text.strip()]


def _inside_a_word(before: str, after: str) -> bool:
    """Not so between Chinese characters or Thai words, which stand without a blank."""
    return all(letter.isalpha() and letter.lower() != letter.upper() for letter in (before[-1:], after[:1]))


def _mostly(cues: Sequence[Cue], overlapping: bool) -> bool:
    """Two at least, so that one repeated answer in a short film does not make it automatic."""
    count = 0
    for a, b in pairwise(cues):
        lines = [line for line in b.lines if text_of(line)]
        again = _shown([text_of(line) for line in a.lines if text_of(line)], [text_of(line) for line in lines], lines)
        count += again != (0, 0) or (overlapping and a.end_ms - b.start_ms > LINGER_MS)
    return count >= 2 and 2 * count > len(cues) - 1


def _shown(before: Sequence[str], now: Sequence[str], lines: Sequence[Line]) -> tuple[int, int]:
    """How much of the lines `now` stood there before: so many lines, and so many words of the line after them.

    The last lines of before are now the first ones; the very last may have grown. A line with times in it is new.
    """
    untimed = next((i for i, line in enumerate(lines) if any(b.start_ms is not None for b in line)), len(lines))
    for count in range(min(len(before), untimed), 0, -1):
        if list(before[-count:]) == list(now[:count]):
            return count, 0
        if list(before[-count:-1]) == list(now[: count - 1]) and now[count - 1].startswith(before[-1] + " "):
            return count - 1, len(before[-1].split())
    return 0, 0
