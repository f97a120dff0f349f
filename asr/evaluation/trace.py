"""What a reader of a live transcript sees, update by update, and what a stream of an utterance cost.

Nothing here loads torch.
"""

import copy
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr import stream
from asr.stream import Listener, StreamState, Update
from asr.words import Word
from manifests import storage

Floats = npt.NDArray[np.float32]
STATUS = "/proc/self/status"


class Trace:
    """A transcript as it grows. A word's place is its number, from 0; nothing that is kept grows with the updates.

    What may still change of it is the partial result; a word there that has become another one, or nothing, by the next
    update was revised. Most often it has only grown, as its next piece came.
    """

    def __init__(self) -> None:
        self.final: list[str] = []
        self.final_s: list[float] = []  # audio that had come when each of these became final
        self.first_s: dict[tuple[int, str], float] = {}  # audio that had come when a word first stood at a place
        self.partial: set[tuple[int, str]] = set()  # all (place, word) that a partial result showed
        self.revisions = 0
        self.grown = 0  # of these, words that begin with what they were
        self.endpoints: list[tuple[float, str]] = []  # audio that had come, and the reason
        self._open: list[str] = []

    def see(self, audio_s: float, update: Update) -> None:
        """The update that came with so many seconds of audio."""
        new, still_open = texts(update.final), texts(update.partial)
        place = len(self.final)
        shown = new + still_open
        for i, word in enumerate(self._open):
            now = shown[i] if i < len(shown) else ""
            self.revisions += now != word
            self.grown += now != word and now.startswith(word)
        for i, word in enumerate(shown):
            self.first_s.setdefault((place + i, word), audio_s)
        self.partial.update((place + i, shown[i]) for i in range(len(new), len(shown)))
        self.final += new
        self.final_s += [audio_s] * len(new)
        self._open = still_open
        self.endpoints += [(audio_s, reason) for _, reason in update.ends]

    @property
    def first_word_s(self) -> float | None:
        """Audio that had come when the first word, right or wrong, was shown; None when there was none."""
        return min(self.first_s.values(), default=None)

    def changed(self) -> int:
        """How many of the words in `partial` are not what became final at their place."""
        return sum(1 for place, word in self.partial if self.final[place : place + 1] != [word])


def texts(words: Sequence[Word]) -> list[str]:
    """An unknown piece has spaces around it, so that what the stream calls a word may read as two."""
    return [text for word in words for text in word.text.split()]


@dataclass(frozen=True, slots=True)
class Heard:
    """An utterance streamed to its end.

    The latencies are those of somebody who speaks to it: audio arrives at the speed of speech, and a piece is worked on
    when it is there and the piece before it is done. They are made of CPU time, as on a core that does nothing else.
    """

    trace: Trace
    audio_s: float
    cpu_s: float
    wall_s: float
    first_word_s: float | None  # from the start of the audio to the first word shown
    last_word_s: float  # from the end of the audio to the last words
    before_end: tuple[Trace, StreamState]  # when all audio had come, and nobody had said that it was all


def listen(listener: Listener, samples_t: Floats, chunk_samples: int, hotwords: Sequence[str] = ()) -> Heard:
    """Give a stream these samples, so many at a time, and close it.

    The first piece is longer by what a frame's window reaches beyond its hop: a chunk then brings as many frames as it
    has hops. In a runtime whose steps are exactly so long all of them would else come a chunk too late.
    """
    lead_samples = listener.spec.window_samples - listener.spec.hop_samples
    rate = listener.spec.sample_rate
    trace, state = Trace(), stream.start(listener, hotwords)
    cpu_s = wall_s = now_s = 0.0
    first_word_s = None

    def clock(since: tuple[float, float], arrived_s: float) -> None:
        nonlocal cpu_s, wall_s, now_s
        took_s = time.process_time() - since[0]
        cpu_s, wall_s = cpu_s + took_s, wall_s + time.perf_counter() - since[1]
        now_s = max(now_s, arrived_s) + took_s

    for piece_t in np.split(samples_t, range(chunk_samples + lead_samples, len(samples_t), chunk_samples)):
        arrived_s = (state.samples + len(piece_t)) / rate
        since = time.process_time(), time.perf_counter()
        update, state = stream.step(listener, piece_t, state)
        clock(since, arrived_s)
        trace.see(arrived_s, update)
        if first_word_s is None and trace.first_s:
            first_word_s = now_s
    before_end = copy.deepcopy(trace), state
    audio_s = len(samples_t) / rate
    since = time.process_time(), time.perf_counter()
    update = stream.finish(listener, state)
    clock(since, audio_s)
    trace.see(audio_s, update)
    if first_word_s is None and trace.first_s:
        first_word_s = now_s
    return Heard(trace, audio_s, cpu_s, wall_s, first_word_s, now_s - audio_s, before_end)


def peak_bytes() -> int:
    """The most memory that this process had so far.

    Where Linux tells it by itself: what getrusage says of a process begins with the size of the one that started it
    (774 MB beside a parent that had loaded torch, 220 in truth).
    """
    if storage.exists(STATUS):
        for line in storage.read_bytes(STATUS).decode().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
