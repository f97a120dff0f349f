"""Whether two points of a sweep differ: all recognise the same utterances, so they are compared speaker by speaker.

Some speakers are harder than others for every model. Intervals of two rates hold that spread twice, and overlap where
the difference between the rates is plain: on 18 speakers of the demo corpus a rate of 36 % had an interval from 27 to
44 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipelines.sweep_outcome import Outcome, Wer, signed

DRAWS = 2000
TAIL = 0.025  # of an interval of 95 %


@dataclass(frozen=True, slots=True)
class Difference:
    """Of the second rate from the first. Without `low` and `high` it was judged by whether the intervals overlap."""

    kind: Literal["lower", "higher", ""]  # "": the interval of the difference has 0 in it
    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{signed(self.value)} percentage points"
        return f"{signed(self.value)} percentage points, 95 % interval {signed(self.low)} to {signed(self.high)}"


def difference(left: Outcome, right: Outcome) -> Difference:
    """Both have a WER with an interval."""
    before, after = left.wer, right.wer
    assert before is not None and after is not None
    value = after.mean - before.mean
    names = {tuple(name for name, *_ in result["speakers"]) for result in (*left.results, *right.results)}
    if len(names) == 1 and names != {()}:
        drawn = _draw(left.results, right.results)
        low, high = (float(v) for v in np.quantile(drawn, [TAIL, 1 - TAIL]))
        return Difference("lower" if high < 0 else "higher" if low > 0 else "", value, low, high)
    return Difference(_overlap(before, after), value)


def _overlap(before: Wer, after: Wer) -> Literal["lower", "higher", ""]:
    return "lower" if after.high < before.low else "higher" if after.low > before.high else ""


def _draw(left: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> np.ndarray:
    """Differences [draws] of the rates over speakers drawn again, and of each side over its seeds drawn again.

    The bootstrap of Efron and Tibshirani (1993, chapter 13), paired.
    """
    rng = np.random.default_rng(0)
    words_s = np.array([words for _, _, words in left[0]["speakers"]], float)
    count = len(words_s)
    places = rng.integers(count, size=(DRAWS, count)) + count * np.arange(DRAWS)[:, None]
    times_rs = np.bincount(places.ravel(), minlength=DRAWS * count).reshape(DRAWS, count).astype(float)
    some = times_rs @ words_s > 0
    rates = []
    for results in (left, right):
        errors_ks = np.array([[errors for _, errors, _ in result["speakers"]] for result in results], float)
        share_rk = rng.multinomial(len(results), [1 / len(results)] * len(results), size=DRAWS) / len(results)
        rates.append(((times_rs @ errors_ks.T) * share_rk).sum(1)[some] / (times_rs @ words_s)[some])
    return rates[1] - rates[0]
