"""Cues become utterances: joined where they follow each other closely, cut at pauses and ends of sentences.

The times of captions are good to a few tenths of a second, so each cut is a risk to the words beside it: a cut in a
pause is safe, one between two cues that touch is not, least of all within a sentence. Of all ways to cut a stretch the
cheapest is taken, as TeX breaks paragraphs into lines (Knuth and Plass 1981); the constants say what costs how much.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from pipelines.youtube import rolling
from pipelines.youtube.captions import Cue, text_of
from pipelines.youtube.spoken import labels, spoken

MIN_MS, MAX_MS = 1_000, 20_000  # of an utterance
TARGET_MS = 8_000  # where nothing else decides; so the usual limits in training, 14 to 16 s, are hardly ever met
PAUSE_MS = 500  # from here on a gap is a pause, and a cut in it costs nothing
FAR_MS = 2_000  # what lies so far apart is never joined

CUT = 2.0  # between cues that touch, within a sentence; less the wider the gap, down to 0 at PAUSE_MS
CUT_AT_END = 0.5  # the same where a sentence ends or another speaker begins
KEEP_PAUSE = 4.0  # a pause left inside an utterance
KEEP_TURN = 2.0  # another speaker inside an utterance
TOO_SHORT = 100.0  # an utterance below MIN_MS, which is then left out

_ENDS = (".", "!", "?", "…", "。", "！", "？", "؟", "।")
_CLOSING = "\"'”’»)）」』 "


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the sound and what is said in it; with a `reason`, what was shown there and why it is left out."""

    start_ms: int
    end_ms: int
    text: str
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Piece:
    """What can only be taken whole: a cue, or a word where its time is known.

    `text` begins with a blank unless it goes on with the piece before. `turn`: another speaker begins with it.
    `apart`: there is a sound between it and the piece before.
    """

    start_ms: int
    end_ms: int
    text: str
    turn: bool = False
    apart: bool = False
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A cue, or a word of one, as it is shown."""

    start_ms: int
    end_ms: int
    lines: list[str]
    blank: str  # " ", or "" where it goes on with the word before
    cue: Cue


def utterances(cues: Sequence[Cue], end_ms: int | None = None) -> list[Stretch]:
    """The utterances of a file's cues and what was left out, by time. `end_ms`: where the sound ends, if known.

    Utterances are 1 to 20 s long, do not overlap, and together hold each word of each cue that is not left out.
    """
    pieces = _without_overlaps(_within(_pieces(cues), end_ms))
    done = [Stretch(p.start_ms, p.end_ms, p.text.strip(), p.reason, p.detail) for p in pieces if p.reason]
    for block in _blocks(pieces):
        done += [_join(block[first:end]) for first, end in pairwise(_cuts(block))]
    return sorted(done, key=lambda stretch: stretch.start_ms)


def _pieces(cues: Sequence[Cue]) -> list[_Piece]:
    """Speakers are compared, so that a label before each caption of one speaker is no turn."""
    shown = list(_shown(cues))
    names = labels(unit.lines for unit in shown)
    pieces = []
    speaker, turn, apart = "", False, False
    for unit in shown:
        heard = spoken(unit.lines, names)
        who = (unit.cue.voice, *heard.speakers) if unit.cue.voice else heard.speakers
        if (heard.turn or unit.cue.voice) and (not who[0] or who[0] != speaker):
            turn = True
        speaker = who[-1] if who else speaker
        reason = heard.reason or ("no duration" if unit.cue.end_ms <= unit.cue.start_ms else "")
        if reason or heard.text:
            text = unit.blank + (" ".join(unit.lines) if reason else heard.text)
            start_ms, end_ms = unit.start_ms, max(unit.start_ms, unit.end_ms)
            pieces.append(_Piece(start_ms, end_ms, text, turn, apart or heard.before, reason, unit.cue.place))
            turn, apart = False, heard.after
    return pieces


def _shown(cues: Sequence[Cue]) -> Iterator[_Shown]:
    """Cues as they are; but captions that roll, and a cue that is too long, word by word where that is possible."""
    ordered = sorted(cues, key=lambda cue: cue.start_ms)
    rolls = rolling.rolls(ordered)
    if rolls:
        ordered = rolling.unroll(ordered)
    for cue, after in zip(ordered, [*ordered, None][1:], strict=True):
        words = []
        if rolls or cue.end_ms - cue.start_ms > MAX_MS:
            words = rolling.words(cue, after.start_ms if rolls and after else None)
        if len(words) > 1:
            for word in words:
                blank = " " if word.text[0].isspace() else ""
                yield _Shown(word.start_ms, word.end_ms, [word.text.strip()], blank, cue)
        else:
            end_ms = words[0].end_ms if words else cue.end_ms
            yield _Shown(cue.start_ms, end_ms, [text_of(line) for line in cue.lines if text_of(line)], " ", cue)


def _within(pieces: Sequence[_Piece], end_ms: int | None) -> Iterator[_Piece]:
    for piece in pieces:
        if end_ms is None or piece.end_ms <= end_ms:
            yield piece
        elif piece.start_ms < end_ms:  # the last caption often stays longer than the sound
            yield replace(piece, end_ms=end_ms)
        else:
            detail = f"{piece.detail}: starts at {piece.start_ms / 1000:.2f} s, the sound ends at {end_ms / 1000:.2f} s"
            yield replace(piece, reason=piece.reason or "beyond the end", detail=detail)


def _without_overlaps(pieces: Iterator[_Piece]) -> list[_Piece]:
    """Where a cue lingers for a moment into the next one it ends there; else two texts at once are both left out."""
    done: list[_Piece] = []
    latest = -1  # the one that ends last so far, of those in which somebody speaks
    for piece in pieces:
        done.append(piece)
        if piece.reason in ("no words", "no duration"):
            continue
        before = done[latest] if latest >= 0 else None
        if before and piece.start_ms < before.end_ms:
            if (piece.start_ms, piece.end_ms, piece.text) == (before.start_ms, before.end_ms, before.text):
                done[-1] = replace(piece, reason=piece.reason or "repeated caption")
            elif _lingers(before, piece):
                done[latest] = replace(before, end_ms=piece.start_ms)
            else:
                for index in (latest, len(done) - 1):
                    done[index] = replace(done[index], reason=done[index].reason or "overlapping captions")
        if not before or piece.end_ms > done[latest].end_ms:
            latest = len(done) - 1
    return done


def _lingers(piece: _Piece, after: _Piece) -> bool:
    overlap_ms = piece.end_ms - after.start_ms
    length_ms = piece.end_ms - piece.start_ms
    return overlap_ms <= min(rolling.LINGER_MS, length_ms / 2) and after.end_ms >= piece.end_ms


def _blocks(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that may be joined: between them is neither a long gap, nor a sound, nor something left out."""
    block: list[_Piece] = []
    for piece in pieces:
        gap_ms = piece.start_ms - block[-1].end_ms if block else 0
        if piece.reason or piece.apart or gap_ms >= (PAUSE_MS if piece.turn else FAR_MS):
            if block:
                yield block
            block = []
        if not piece.reason:
            block.append(piece)
    if block:
        yield block


def _cuts(block: Sequence[_Piece]) -> list[int]:
    """Where the utterances begin, as indices, and the end: the cheapest cuts of all."""
    keep, cut = [0.0], [0.0]  # for the gap before each piece
    for before, after in pairwise(block):
        gap = min(1.0, (after.start_ms - before.end_ms) / PAUSE_MS)
        keep.append(KEEP_PAUSE * (gap == 1.0) + KEEP_TURN * after.turn)
        cut.append((1.0 - gap) * (CUT_AT_END if after.turn or _ends_sentence(before.text) else CUT))
    kept = list(accumulate(keep))
    best, came_from = [0.0], [0]
    for end in range(1, len(block) + 1):
        cheapest = (math.inf, end - 1)
        for first in range(end - 1, -1, -1):
            length_ms = block[end - 1].end_ms - block[first].start_ms
            if length_ms > MAX_MS and first < end - 1:
                break
            cost = best[first] + cut[first] + kept[end - 1] - kept[first] + _length_cost(length_ms)
            cheapest = min(cheapest, (cost, first))
        best.append(cheapest[0])
        came_from.append(cheapest[1])
    cuts = [len(block)]
    while cuts[-1] > 0:
        cuts.append(came_from[cuts[-1]])
    return cuts[::-1]


def _length_cost(length_ms: int) -> float:
    return ((length_ms - TARGET_MS) / TARGET_MS) ** 2 + TOO_SHORT * (length_ms < MIN_MS)


def _ends_sentence(text: str) -> bool:
    return text.rstrip(_CLOSING).endswith(_ENDS)


def _join(pieces: Sequence[_Piece]) -> Stretch:
    start_ms, end_ms = pieces[0].start_ms, pieces[-1].end_ms
    text = " ".join("".join(piece.text for piece in pieces).split())
    length_ms = end_ms - start_ms
    if length_ms < MIN_MS:
        detail = f"{pieces[0].detail}: {length_ms / 1000:.3f} s, and nothing near enough to join it with"
        return Stretch(start_ms, end_ms, text, "too short", detail)
    if length_ms > MAX_MS:
        detail = f"{pieces[0].detail}: {length_ms / 1000:.2f} s in one caption, without times of its words"
        return Stretch(start_ms, end_ms, text, "too long", detail)
    return Stretch(start_ms, end_ms, text)
