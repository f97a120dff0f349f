"""An epoch's batches, for every rank, from the lengths in the index alone.

A plan is a pure function of (lengths, budget, seed, epoch, world size): all ranks compute it for themselves and agree,
a run is resumed by a step number, and padding is known before the first step.

How: shuffle; splice neighbours where asked; sort by length within windows; cut into batches under the budget; put
batches of like cost side by side, one for each rank, as a step; shuffle the steps.
"""

from dataclasses import dataclass

import numpy as np

WINDOW_EXAMPLES = 8192  # sorted together: 1.0 % padding where 5,000 was measured to give that, and memory stays small


@dataclass(frozen=True)
class Budget:
    """What a batch may hold on one rank, and how examples are made of utterances."""

    batch_frames: int  # examples x the longest one's frames
    batch_examples: int
    splice: int = 1  # up to this many utterances are joined to one example
    splice_frames: int = 0  # but only up to this length

    def __post_init__(self) -> None:
        if self.batch_frames < 1 or self.batch_examples < 1 or self.splice < 1:
            raise ValueError("a batch needs at least one frame and one example, and splice is 1 or more")


@dataclass(frozen=True)
class Plan:
    """Batches in the order of training. Batch `step * world_size + rank` is that rank's at that step.

    Batch i holds the examples `examples[batch_starts[i] : batch_starts[i + 1]]`; example e is the utterances
    `rows[example_starts[e] : example_starts[e + 1]]`, rows of the index, in this order.
    """

    world_size: int
    rows: np.ndarray
    example_starts: np.ndarray
    examples: np.ndarray
    batch_starts: np.ndarray
    padding: float  # share of the frames in padded batches that are padding

    @property
    def steps(self) -> int:
        return (len(self.batch_starts) - 1) // self.world_size

    def batch(self, step: int, rank: int = 0) -> list[np.ndarray]:
        """The examples of one batch, each an array of rows."""
        i = step * self.world_size + rank
        chosen = self.examples[self.batch_starts[i] : self.batch_starts[i + 1]]
        return [self.rows[self.example_starts[e] : self.example_starts[e + 1]] for e in chosen]


def plan_epoch(
    frames: np.ndarray, budget: Budget, *, seed: int, epoch: int, world_size: int = 1, shortest_first: bool = False
) -> Plan:
    """Every row exactly once, the same number of batches for each rank.

    `shortest_first` orders the epoch by length and splices nothing: an easy start. Raises ValueError for no rows, for
    an utterance longer than the budget, or fewer utterances than ranks.
    """
    if len(frames) < world_size:
        raise ValueError(f"{len(frames)} utterances cannot be shared by {world_size} ranks")
    if int(frames.max()) > budget.batch_frames:
        raise ValueError(f"the longest utterance has {frames.max()} frames and a batch may have {budget.batch_frames}; "
                         "raise data.batch_s or lower data.max_s")  # fmt: skip
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(len(frames)).astype(np.int32)
    starts = np.arange(len(rows) + 1) if shortest_first else _splice(frames[rows], budget, world_size, rng)
    lengths = np.add.reduceat(frames[rows].astype(np.int64), starts[:-1])
    window = len(lengths) if shortest_first else WINDOW_EXAMPLES
    batches: list[np.ndarray] = []
    for start in range(0, len(lengths), window):
        order = start + np.argsort(lengths[start : start + window], kind="stable")
        batches += _cut(order, lengths, budget)
    batches = _share(batches, lengths, world_size)
    if not shortest_first:
        steps = rng.permutation(len(batches) // world_size)
        batches = [batches[s * world_size + rank] for s in steps for rank in range(world_size)]
    padded = sum(len(b) * int(lengths[b].max()) for b in batches)
    sizes = np.array([0, *map(len, batches)])
    return Plan(world_size, rows, starts, np.concatenate(batches), sizes.cumsum(), 1 - int(lengths.sum()) / padded)


def _splice(frames: np.ndarray, budget: Budget, world_size: int, rng: np.random.Generator) -> np.ndarray:
    """Where examples start: runs of 1 to `splice` neighbours, no longer than `splice_frames`."""
    count = len(frames)
    if budget.splice == 1:
        return np.arange(count + 1)
    sizes = rng.integers(1, budget.splice + 1, count)
    limit = min(budget.splice_frames, budget.batch_frames)
    starts = [0]
    length = taken = 0
    for i, n in enumerate(frames.tolist()):
        if taken and (taken >= sizes[len(starts) - 1] or length + n > limit):
            starts.append(i)
            length = taken = 0
        length += n
        taken += 1
    starts.append(count)
    return np.array(starts) if len(starts) > world_size else np.arange(count + 1)


def _cut(order: np.ndarray, lengths: np.ndarray, budget: Budget) -> list[np.ndarray]:
    """Examples, shortest first, into batches within the budget."""
    batches = []
    start = 0
    for i, longest in enumerate(lengths[order].tolist()):
        size = i - start
        if size and (size >= budget.batch_examples or (size + 1) * longest > budget.batch_frames):
            batches.append(order[start:i])
            start = i
    batches.append(order[start:])
    return batches


def _share(batches: list[np.ndarray], lengths: np.ndarray, world_size: int) -> list[np.ndarray]:
    """As many batches as are a multiple of the ranks, neighbours of like cost.

    The widest are halved for it; where there are too few examples for that, the two smallest are put together, which
    may exceed the budget.
    """
    halve = len(batches) + -len(batches) % world_size <= sum(map(len, batches))
    while missing := -len(batches) % world_size:
        batches.sort(key=lambda b: len(b) * int(lengths[b[-1]]))
        if halve:
            widest = [i for i, batch in enumerate(batches) if len(batch) > 1][-missing:]
            for batch in [batches.pop(i) for i in reversed(widest)]:
                batches += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        else:
            merged = np.concatenate(batches[:2])
            batches[:2] = [merged[np.argsort(lengths[merged], kind="stable")]]
    return sorted(batches, key=lambda b: (int(lengths[b[-1]]), len(b), int(b[0])))
