"""Recognising what a feed brings, until it ends or somebody says so: words to the screen, sound to the recording."""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from asr import stream
from asr.engine import Floats
from asr.live.feed import Feed, Gap, Note
from asr.live.screen import Screen
from asr.live.sound import Recorder
from asr.stream import Listener, Update
from asr.words import Word

BEHIND_S = 5.0  # of audio that waits, from which on it is said if recognition is slower than real time
_LATELY = 0.9  # how much of the estimate of speed is kept at each step


class Ear:
    """A stream with holes: what was said before one is final, and what comes behind it begins anew.

    Times and numbers of segments go on through holes.
    """

    def __init__(self, listener: Listener, hotwords: Sequence[str] = ()) -> None:
        """Raises ValueError for hotwords that cannot be."""
        self._listener, self._hotwords = listener, hotwords
        self._state = stream.start(listener, hotwords)
        self._begun_s = 0.0
        self._segments = self._seen = 0  # before the last hole; and of those, with words

    @property
    def audio_s(self) -> float:
        """Heard and missed so far."""
        return self._begun_s + self._state.audio_s

    def hear(self, samples: Floats) -> Update:
        update, self._state = stream.step(self._listener, samples, self._state)
        return self._shifted(update)

    def miss(self, seconds: float) -> Update:
        update = self.finish()
        self._begun_s = self.audio_s + seconds
        self._state = stream.start(self._listener, self._hotwords)
        self._segments = self._seen
        return update

    def finish(self) -> Update:
        return self._shifted(stream.finish(self._listener, self._state))

    def _shifted(self, update: Update) -> Update:
        ends = tuple((segment + self._segments, reason) for segment, reason in update.ends)
        return Update(self._words(update.final), self._words(update.partial), ends)

    def _words(self, words: Sequence[Word]) -> tuple[Word, ...]:
        shifted = tuple(
            replace(
                w, start_s=w.start_s + self._begun_s, end_s=w.end_s + self._begun_s, segment=w.segment + self._segments
            )
            for w in words
        )
        self._seen = max([self._seen, *(w.segment + 1 for w in shifted)])
        return shifted


@dataclass
class Heard:
    """How it went."""

    audio_s: float = 0.0  # recognised
    missed_s: float = 0.0
    busy_s: float = 0.0  # in recognition
    behind_s: float = 0.0  # the longest backlog
    lost: str = ""  # why the recording ends before
    stopped: int = 0  # the signal that ended it; 0: it ended by itself

    def summary(self) -> str:
        text = f"heard {self.audio_s:.1f} s"
        if self.missed_s:
            text += f", missed {self.missed_s:.1f} s"
        if self.audio_s and self.busy_s:
            text += f"; recognised {self.audio_s / self.busy_s:.1f} s of audio in a second"
        return text + (f"; at most {self.behind_s:.1f} s behind" if self.behind_s >= 1 else "")


def listen(ear: Ear, feed: Feed, chunk_samples: int, screen: Screen, recorder: Recorder | None, heard: Heard) -> None:
    """Everything that the feed brings. Raises what its source ended with, after all that came before is shown."""
    speed = _Speed(screen)
    try:
        while (item := feed.take(chunk_samples)) is not None:
            if isinstance(item, Note):
                screen.note(item.text)
            elif isinstance(item, Gap):
                heard.missed_s += item.missed_s
                recorder = _recorded(recorder, item, screen, heard)
                _show(screen, ear.miss(item.missed_s), "", ended=True)
                screen.note(f"missed {item.missed_s:.1f} s: {item.why}")
            else:
                recorder = _recorded(recorder, item, screen, heard)
                began_s = time.perf_counter()
                update = ear.hear(item)
                step_s = time.perf_counter() - began_s
                heard.busy_s += step_s
                heard.audio_s += len(item) / feed.sample_rate
                behind_s = feed.waiting_s if feed.live else 0.0
                heard.behind_s = max(heard.behind_s, behind_s)
                _show(screen, update, speed.status(step_s, len(item) / feed.sample_rate, behind_s))
    finally:
        _show(screen, ear.finish(), "", ended=True)
        screen.close()


def _recorded(recorder: Recorder | None, item: Floats | Gap, screen: Screen, heard: Heard) -> Recorder | None:
    """The recorder; None from when the disk is full, for what is said is still worth listening to."""
    if recorder is None:
        return None
    try:
        if isinstance(item, Gap):
            recorder.silence(item.missed_s)
        else:
            recorder.write(item)
    except OSError as err:
        heard.lost = (
            f"--save-audio: {err.strerror or err}; the recording ends at {heard.audio_s + heard.missed_s:.1f} s"
        )
        screen.note(heard.lost)
        return None
    return recorder


def _show(screen: Screen, update: Update, status: str, ended: bool = False) -> None:
    screen.show(update.final, update.partial, ended or bool(update.endpoint), status)


class _Speed:
    """Tells how far recognition is behind, and when it is too slow: once, and again each time that this has doubled."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._step_s = self._audio_s = 0.0
        self._told_s = BEHIND_S / 2

    def status(self, step_s: float, audio_s: float, waiting_s: float) -> str:
        self._step_s = _LATELY * self._step_s + step_s
        self._audio_s = _LATELY * self._audio_s + audio_s
        slow = self._step_s > self._audio_s
        if slow and waiting_s >= 2 * self._told_s:
            self._told_s = waiting_s
            self._screen.note(
                f"recognition is slower than real time: {self._audio_s / self._step_s:.2f} s of audio in a second, "
                f"{waiting_s:.0f} s behind"
            )
        return f"{waiting_s:.1f} s behind" if waiting_s >= 1 else ""


@contextlib.contextmanager
def stopped_by_signals(feed: Feed, heard: Heard, drop: bool) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the feed, so that nothing is interrupted in the middle; a second one interrupts.

    `drop`: what was received but not recognised yet is forgotten.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if heard.stopped:
            raise KeyboardInterrupt
        heard.stopped = number
        feed.stop(drop)

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
