"""What hands live audio from the thread that receives it to the one that recognises it: a queue with an end.

Audio is mono float32 at the recogniser's rate. Between it lie gaps (seconds that nobody heard) and notes for the user,
each where it happened.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asr.engine import Floats

LIMIT_S = 600.0  # of audio that waits: 38 MB at 16 kHz. Then the source has to wait, or a microphone's sound is lost


@dataclass(frozen=True, slots=True)
class Gap:
    """Seconds of the stream that never came."""

    missed_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the user."""

    text: str


class Stopped(Exception):
    """The listener wants no more: a source's thread ends with it."""


class Feed:
    """One source, one listener. A source calls `put` or `offer`, `gap`, `note`, `pause` and at last `end`."""

    def __init__(self, sample_rate: int, limit_s: float = LIMIT_S) -> None:
        self.sample_rate = sample_rate
        self.live = True  # False: what comes is there already, so that nobody can be behind
        self._limit = round(limit_s * sample_rate)
        self._items: deque[Floats | Gap | Note] = deque()
        self._samples = 0  # waiting
        self._events = 0  # gaps and notes that wait
        self._dropped = 0  # by `offer`, since the last that it took
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def waiting_s(self) -> float:
        """Audio that was received and not taken yet."""
        return self._samples / self.sample_rate

    def put(self, samples: Floats) -> None:
        """Waits while the queue is full. Raises Stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._samples < self._limit or self._stopped)
            self._check()
            self._append(samples)

    def offer(self, samples: Floats) -> bool:
        """As `put`, but never waits, for a sound card's callback: False when the queue is full, and they are lost.

        Then more is lost until the queue is half empty; what comes next follows a gap as long as what was lost.
        """
        with self._changed:
            if self._stopped:
                return False
            if self._samples >= (
                self._limit // 2 if self._dropped else self._limit
            ):  # one long gap, not many short ones
                self._dropped += len(samples)
                return False
            self._own_up()
            self._append(samples)
            return True

    def gap(self, missed_s: float, why: str) -> None:
        self._tell(Gap(missed_s, why))

    def note(self, text: str) -> None:
        self._tell(Note(text))

    def pause(self, seconds: float) -> None:
        """Wait, as a source does before it tries again. Raises Stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)
            self._check()

    def end(self, error: BaseException | None = None) -> None:
        """No more will come. `error` is raised by `take`, after all that came before it."""
        with self._changed:
            self._own_up()
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    @contextlib.contextmanager
    def source(self) -> Iterator[None]:
        """The body of a source's thread: however it ends, the listener hears of it."""
        error: BaseException | None = None
        try:
            yield
        except Stopped:
            pass
        except BaseException as err:
            error = err
        self.end(error)

    def stop(self, drop: bool = False) -> None:
        """Ask the source to end; `drop` also forgets what waits. A signal handler may call it."""
        with self._changed:
            self._own_up()
            self._stopped = self._ended = True
            if drop:
                self._items.clear()
                self._samples = self._events = 0
            self._changed.notify_all()

    def take(self, count: int) -> Floats | Gap | Note | None:
        """The next `count` samples, or fewer where a gap, a note or the end follows; None at the end.

        Raises what the source ended with.
        """
        assert count > 0
        with self._changed:
            self._changed.wait_for(lambda: self._ready(count))
            if not self._items:
                if self._error is not None:
                    raise self._error
                return None
            first = self._items.popleft()
            if not isinstance(first, np.ndarray):
                self._events -= 1
                return first
            taken, have = [first], len(first)
            while have < count and self._items and isinstance(self._items[0], np.ndarray):
                taken.append(self._items.popleft())  # type: ignore[arg-type]
                have += len(taken[-1])
            if have > count:
                self._items.appendleft(taken[-1][len(taken[-1]) - (have - count) :])
                taken[-1] = taken[-1][: len(taken[-1]) - (have - count)]
            samples = np.concatenate(taken)
            self._samples -= len(samples)
            self._changed.notify_all()
            return samples

    def _ready(self, count: int) -> bool:
        return self._ended or self._samples >= count or self._events > 0

    def _own_up(self) -> None:
        """Put the gap where `offer` could not take something."""
        if self._dropped:
            why = f"recognition was {self._limit / self.sample_rate:.0f} s behind, and more is not kept"
            self._tell(Gap(self._dropped / self.sample_rate, why))
            self._dropped = 0

    def _append(self, samples: Floats) -> None:
        if len(samples):
            self._items.append(samples)
            self._samples += len(samples)
            self._changed.notify_all()

    def _tell(self, item: Gap | Note) -> None:
        with self._changed:
            if not self._stopped:
                self._items.append(item)
                self._events += 1
                self._changed.notify_all()

    def _check(self) -> None:
        if self._stopped:
            raise Stopped
