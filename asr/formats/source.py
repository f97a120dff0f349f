"""What every decoder of audio files gives, and what all of them refuse."""

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

LOUDEST = 1e12  # a sample; what was written as whole numbers of 32 bits is below, and powers above 1e16 overflow
TOLERANCE_S = 0.1  # how much of the stated length may be missing, or come on top, at the end
BLOCK_FRAMES = 2**20  # a minute: nearly every utterance comes in one piece, uncopied


class AudioError(ValueError):
    """An audio file that cannot be read, or not to its end."""


class Source(Protocol):
    """An open audio file; `rate` and `channels` are its own."""

    rate: int
    channels: int

    def blocks(self, first: int, end: int | None) -> Iterator[np.ndarray]:
        """Frames [first, end) (None: to the end) piece by piece, as float32 [frames, channels].

        A request that reaches beyond the end of an undamaged file gives what there is. Raises AudioError for a file
        that ends before its stated end, after the frames before it.
        """

    def duration_s(self) -> float:
        """The length, by reading through the file where no header states it."""


def check_end(uri: str, rate: int, position: int, end: int, cause: str) -> None:
    """Raises AudioError when decoding has ended at frame `position`, long before `end`."""
    if end - position > TOLERANCE_S * rate:
        stop_s, end_s = position / rate, end / rate
        raise AudioError(
            f"{uri}: truncated or damaged: decoding stops at {stop_s:.2f} s, before {end_s:.2f} s ({cause})"
        )


def check_stated(uri: str, stated_s: float, held_s: float) -> None:
    """Raises AudioError when a header states another length than the file holds."""
    if math.isclose(stated_s, held_s, rel_tol=0, abs_tol=TOLERANCE_S):
        return
    fault = "truncated: its header" if stated_s > held_s else "its header is wrong: it"
    raise AudioError(f"{uri}: {fault} promises {stated_s:.2f} s, the file holds {held_s:.2f} s")


def check_finite(uri: str, block_nc: np.ndarray) -> None:
    """Raises AudioError for samples that are no numbers, or so large that no features could be made of them, whose mean
    would spoil those of a whole corpus; only formats that hold floats can have them.
    """
    if not -LOUDEST <= block_nc.min(initial=0) <= block_nc.max(initial=0) <= LOUDEST:  # also where one is no number
        raise AudioError(f"{uri}: has samples that are infinite or not a number, or above {LOUDEST:g}; full scale is 1")
