"""Which budgets to try, one after the other, to come near to the largest that fits with few trials."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NEAR = 1.05  # a budget this much larger is not worth another trial
AIM = 0.95  # of the way to where memory would be taken: it is not quite a line
TRIALS = 20
MAX_STEP_S = 60.0  # nobody trains with longer steps, and each trial takes some
AS_FAST = 0.95  # of the best speed


@dataclass(frozen=True, slots=True)
class Trial:
    """What steps under a budget took. One that ended for want of memory has no times and no peak."""

    batch_s: float
    cost: float  # of its largest batches, in any unit
    fits: bool
    step_s: float = 0.0
    audio_s: float = 0.0  # in the batch that was timed
    peak_bytes: int = 0

    @property
    def whole(self) -> bool:
        return self.step_s > 0

    @property
    def speed(self) -> float:
        """Audio-seconds per second."""
        return self.audio_s / self.step_s if self.whole else 0.0

    @property
    def slow(self) -> bool:
        return self.step_s > MAX_STEP_S


def search(trial: Callable[[float], Trial], least_s: float, most_bytes: float) -> list[Trial]:
    """Trials in the order in which they were made, from the least budget that a plan can have on.

    A budget is doubled until it does not fit. As memory grows almost in a line with it, the trials so far say where it
    would take `most_bytes`, which is tried rather than what is beyond.
    """
    trials: list[Trial] = []
    batch_s: float | None = math.ceil(least_s * 10) / 10
    while batch_s is not None:
        trials.append(trial(batch_s))
        batch_s = _next(trials, most_bytes)
    return trials


def largest(trials: Sequence[Trial]) -> Trial:
    """Of those that fit; of several with the same batches the smallest."""
    fits = [t for t in trials if t.fits]
    cost = max(fits, key=lambda t: t.batch_s).cost
    return min((t for t in fits if t.cost >= cost), key=lambda t: t.batch_s)


def fastest(trials: Sequence[Trial]) -> Trial:
    """The smallest that is almost as fast as the fastest."""
    fits = [t for t in trials if t.fits]
    best = max(t.speed for t in fits)
    return min((t for t in fits if t.speed >= AS_FAST * best), key=lambda t: t.batch_s)


def full(trials: Sequence[Trial]) -> bool:
    """Whether a larger budget makes no larger batches: the number of examples is limited too."""
    best = largest(trials)
    return any(t.fits and t.batch_s > best.batch_s for t in trials)


def _next(trials: Sequence[Trial], most_bytes: float) -> float | None:
    """The budget to try next, None when there is none."""
    if not any(t.fits for t in trials) or len(trials) == TRIALS:
        return None
    best = largest(trials)
    beyond_s = min((t.batch_s for t in trials if not t.fits), default=math.inf)
    if best.slow or full(trials) or beyond_s <= NEAR * best.batch_s:
        return None
    guess_s = min(2 * best.batch_s, best.batch_s + AIM * (_crossing_s(trials, most_bytes) - best.batch_s))
    if guess_s >= beyond_s:
        guess_s = (best.batch_s + beyond_s) / 2
    digits = 0 if guess_s >= 100 else 1
    guess_s = math.floor(guess_s * 10**digits) / 10**digits
    return guess_s if guess_s > NEAR * best.batch_s else None


def _crossing_s(trials: Sequence[Trial], at_bytes: float) -> float:
    """Where a line takes so much memory: that through the trials on both sides of it, else through the last two."""
    ended = sorted((t for t in trials if t.whole), key=lambda t: t.batch_s)
    beyond = next((i for i, t in enumerate(ended) if not t.fits), len(ended) - 1)
    if beyond < 1 or ended[beyond].peak_bytes <= ended[beyond - 1].peak_bytes:
        return math.inf
    a, b = ended[beyond - 1], ended[beyond]
    return b.batch_s + (at_bytes - b.peak_bytes) * (b.batch_s - a.batch_s) / (b.peak_bytes - a.peak_bytes)
