"""Batches to steps: one for each rank, of like cost, and the same number for all."""

import itertools
from dataclasses import dataclass

import numpy as np

from shards.cutting import Budget, Examples, cut, ranges


@dataclass(frozen=True)
class Batches:
    """Batch i holds the examples from `starts[i]` to before `starts[i] + sizes[i]`."""

    starts: np.ndarray  # int64
    sizes: np.ndarray  # int64
    longest: np.ndarray  # int32: frames
    cost: np.ndarray  # float64

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, chosen: np.ndarray) -> "Batches":
        return Batches(self.starts[chosen], self.sizes[chosen], self.longest[chosen], self.cost[chosen])

    def joined(self, other: "Batches") -> "Batches":
        pairs = ((self.starts, other.starts), (self.sizes, other.sizes), (self.longest, other.longest),
                 (self.cost, other.cost))  # fmt: skip
        return Batches(*map(np.concatenate, pairs))


def deal(
    examples: Examples, budget: Budget, world_size: int, rng: np.random.Generator | None
) -> tuple[Batches, Examples]:
    """Batch `step * world_size + rank` is that rank's at that step; the examples may have become others.

    Steps stay within their chunk and are shuffled there by `rng`; without one they go from short to long. Batches that
    do not fill a step wait for the next chunk's; only those left at the end are halved, or put together, to fill one.
    """
    starts, chunk_starts = cut(examples, budget)
    batches = _measure(examples, budget, starts, np.diff(starts, append=len(examples.frames)), slice(None))
    key = batches.longest if rng is None else batches.cost
    dealt = [np.empty(0, np.int64)]
    waiting = dealt[0]
    bounds = chunk_starts.tolist()
    for first, end in itertools.pairwise(bounds[:-1]):
        new = first + np.argsort(key[first:end], kind="stable")
        if len(waiting) + len(new) < world_size:
            waiting = np.concatenate([waiting, new])
            continue
        # The cheapest wait, so that a chunk's last batch, which is seldom full, meets its like.
        left = (len(waiting) + len(new)) % world_size
        chosen = np.concatenate([waiting, new[left:]])
        waiting = new[:left]
        dealt.append(chosen[_steps(key[chosen], world_size, rng)])
    order = np.concatenate(dealt)
    rest = np.concatenate([waiting, np.arange(bounds[-2], bounds[-1])])
    if len(rest) % world_size:
        back = world_size * _steps_back(batches.sizes[order], batches.sizes[rest], world_size)
        order, rest = order[: len(order) - back], np.concatenate([rest, order[len(order) - back :]])
    last, examples = _share(batches[rest], examples, budget, world_size)
    last = last[_steps(last.longest if rng is None else last.cost, world_size, rng)]
    return batches[order].joined(last), examples


def _measure(
    examples: Examples, budget: Budget, starts: np.ndarray, sizes: np.ndarray, chosen: np.ndarray | slice | None = None
) -> Batches:
    """`chosen` are the batches' examples, one batch after the other; `slice(None)` spares a copy when they are all."""
    if chosen is None:
        chosen = ranges(starts, sizes)
    bounds = np.cumsum(sizes) - sizes
    longest = np.maximum.reduceat(examples.frames[chosen], bounds)
    most = np.maximum.reduceat(examples.tokens[chosen], bounds) if budget.token_weight else longest
    return Batches(starts, sizes, longest, budget.cost(sizes, longest, most))


def _steps(key: np.ndarray, world_size: int, rng: np.random.Generator | None) -> np.ndarray:
    """Positions so that neighbours in `key` make a step; the steps shuffled, or from small to large."""
    steps = np.argsort(key, kind="stable").reshape(-1, world_size)
    return (steps if rng is None else rng.permutation(steps)).ravel()


def _steps_back(dealt: np.ndarray, rest: np.ndarray, world_size: int) -> int:
    """How many of the last steps must be dealt anew, so that the rest has enough examples to be halved to fill a step.

    `dealt` and `rest` are sizes of batches. When no number is enough: one step where the rest alone is none.
    """
    missing = len(rest) + -len(rest) % world_size - int(rest.sum())
    if missing <= 0:
        return 0
    spare = np.cumsum(dealt.reshape(-1, world_size).sum(1)[::-1] - world_size)
    steps = int(np.searchsorted(spare, missing)) + 1
    return steps if steps <= len(spare) else int(rest.sum() < world_size)


def _share(batches: Batches, examples: Examples, budget: Budget, world_size: int) -> tuple[Batches, Examples]:
    """As many batches as are a multiple of the ranks: the costliest are halved for it.

    Where there are too few examples for that, the shortest are put together by twos, which may exceed the budget.
    """
    count = int(batches.sizes.sum())
    if len(batches) + -len(batches) % world_size > count:
        chosen = ranges(batches.starts, batches.sizes)
        first = len(examples.frames)
        examples = _laid_again(examples, chosen[np.argsort(examples.frames[chosen], kind="stable")])
        twos = count % world_size
        sizes = np.repeat([2, 1], [twos, count - 2 * twos])
        return _measure(examples, budget, first + np.cumsum(sizes) - sizes, sizes), examples
    while missing := -len(batches) % world_size:
        wide = np.flatnonzero(batches.sizes > 1)
        wide = wide[np.argsort(batches.cost[wide], kind="stable")][-missing:]
        half = batches.sizes[wide] // 2
        starts = np.concatenate([batches.starts, batches.starts[wide] + half])
        sizes = np.concatenate([batches.sizes, batches.sizes[wide] - half])
        sizes[wide] = half
        batches = _measure(examples, budget, starts, sizes)
    return batches, examples


def _laid_again(examples: Examples, chosen: np.ndarray) -> Examples:
    """`chosen` examples once more behind the others, in this order."""
    frames, tokens = (np.concatenate([x, x[chosen]]) for x in (examples.frames, examples.tokens))
    if examples.starts is None:
        return Examples(
            np.concatenate([examples.rows, examples.rows[chosen]]), None, frames, tokens, examples.chunk_starts
        )
    sizes = np.diff(examples.starts)[chosen]
    rows = examples.rows[ranges(examples.starts[chosen], sizes)]
    starts = np.concatenate([examples.starts, len(examples.rows) + np.cumsum(sizes)])
    return Examples(np.concatenate([examples.rows, rows]), starts, frames, tokens, examples.chunk_starts)
