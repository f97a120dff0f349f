"""What both beam searches work on: the readings of a stream, each once.

Ties go to the tokens with the smaller ids, so that no result depends on the order in which paths stand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.engine import Floats, State
from asr.searching.fusion import Fusion
from asr.searching.hypotheses import Hypothesis, Token

HORIZON = 200  # encoder frames after which readings that still differ there are settled for the best one
LOOK = 16  # encoder frames from one look for such readings to the next


@dataclass(frozen=True, slots=True)
class Extra:
    """What a beam keeps in a hypothesis."""

    fusion: Fusion | None
    # CTC: log-probability of all alignments that end in a blank, or in the last token. Together they are the score.
    blank: float = 0.0
    label: float = -math.inf


@dataclass(eq=False, slots=True)
class Path:
    """The tokens since the last `settle`, and what the model makes of all so far. Its score is kept beside it."""

    ids: tuple[int, ...]
    tokens: tuple[Token, ...]  # with these ids
    last: int  # the last token, though it may be settled; BLANK before the first
    pred_j: Floats
    pred: State
    fusion: Fusion | None

    def said(self, token: Token) -> "Path":
        """With one token more. Predictor and fusion are still those before it."""
        ids, tokens = (*self.ids, token.id), (*self.tokens, token)
        return Path(ids, tokens, token.id, self.pred_j, self.pred, self.fusion)


def path_of(hypothesis: Hypothesis) -> Path:
    h = hypothesis
    return Path(tuple(token.id for token in h.tokens), h.tokens, h.last, h.pred_j, h.pred, h.extra.fusion)


def hypothesis_of(path: Path, score: float, blank: float = 0.0, label: float = -math.inf) -> Hypothesis:
    """With arrays of its own: views would keep those of all other hypotheses alive."""
    pred = tuple(_own(part) for part in path.pred)
    return Hypothesis(path.tokens, score, _own(path.pred_j), pred, path.last, Extra(path.fusion, blank, label))


def _own(array: Floats) -> Floats:
    return array if array.base is None else array.copy()


def gains(paths: Sequence[Path]) -> Floats | None:
    """What fusion adds to each next token [path, v]; None where nothing is added."""
    fused = [path.fusion for path in paths]
    some = next((f for f in fused if f is not None), None)
    if some is None:
        return None
    return np.stack([np.zeros_like(some.gain_v) if f is None else f.gain_v for f in fused])


def parents(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Places of pairs of paths where the second is the first and one token more; shorter ones first."""
    places = {path.ids: i for i, path in enumerate(paths)}
    found = [(places[path.ids[:-1]], j) for j, path in enumerate(paths) if path.ids and path.ids[:-1] in places]
    return sorted(found, key=lambda pair: len(paths[pair[1]].ids))


def add_logs(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))


def best_first(paths: Sequence[Path], scores: Sequence[float]) -> list[int]:
    return sorted(range(len(paths)), key=lambda i: (-scores[i], paths[i].ids))


def floor_of(scores: Sequence[float], best: float, beam: int, gamma: float) -> float:
    """Below it no new path is worth making: `beam` others are better, or the best one is, by gamma."""
    place = sorted(scores)[-beam] if len(scores) >= beam else -math.inf
    return max(place, max(best, max(scores)) - gamma)


def largest(score_rv: np.ndarray, floor: float, most: int, paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Path and token of at most `most` scores above the floor, the largest first."""
    rows, ids = (score_rv > floor).nonzero()
    scores = score_rv[rows, ids]
    if len(scores) > most:
        enough = scores >= np.partition(scores, -most)[-most]
        rows, ids, scores = rows[enough], ids[enough], scores[enough]
    found = sorted(zip((-scores).tolist(), rows.tolist(), ids.tolist(), strict=True),
                   key=lambda at: (at[0], paths[at[1]].ids, at[2]))  # fmt: skip
    return [(row, token) for _, row, token in found[:most]]


def living(paths: Sequence[Path], scores: Sequence[float], frame: int, gap: float) -> list[int]:
    """The paths that go on: not those more than `gap` below the best one, nor, in every LOOK-th frame, those that still
    differ from it in what was said HORIZON frames ago.

    Hopeless ones cost time, and no word is final on which they differ. Without the second rule two readings that are
    equally good would let the state grow for as long as they stay so.
    """
    floor = max(scores) - gap
    alive = [i for i, score in enumerate(scores) if score >= floor]
    if frame % LOOK or len(alive) == 1:
        return alive
    best = paths[best_first(paths, scores)[0]]
    return [i for i in alive if _differ_since(paths[i], best) > frame - HORIZON]


def _differ_since(path: Path, best: Path) -> float:
    """The frame of the first token in which they differ."""
    for mine, other in zip(path.tokens, best.tokens, strict=False):
        if mine.id != other.id:
            return min(mine.frame, other.frame)
    if len(path.ids) == len(best.ids):
        return math.inf
    return max(path.tokens, best.tokens, key=len)[min(len(path.ids), len(best.ids))].frame
