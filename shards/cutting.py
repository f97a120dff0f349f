"""Rows to examples, and examples to batches that keep a budget: what a plan does inside a window."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SHUFFLED_SHARE = 0.01  # lengths this near to each other come in any order, see `almost_by_length`
LANES = 64  # chunks cut side by side; more of them no longer fit a core's cache


@dataclass(frozen=True)
class Lengths:
    """What a plan knows of each row."""

    frames: np.ndarray  # int32 [rows]
    tokens: np.ndarray  # int32 [rows]
    shard: np.ndarray  # int32 [rows]: which shard a row lies in
    times: np.ndarray | None = None  # int [rows]: how often a row comes in this epoch; None is once


@dataclass(frozen=True)
class Budget:
    """What a batch may hold on one rank, and how examples are made of utterances.

    A batch costs examples x longest frames x (1 + most tokens x token_weight), which is what a padded RNN-T lattice
    takes of memory beside what the encoder takes.
    """

    batch_frames: float  # the most that a batch may cost
    batch_examples: int
    token_weight: float = 0.0
    splice: int = 1  # up to this many utterances are joined to one example
    splice_frames: int = 0  # but only up to this length

    def __post_init__(self) -> None:
        if not self.batch_frames >= 1 or self.batch_examples < 1 or self.splice < 1:
            raise ValueError("a batch needs at least one frame and one example, and splice is 1 or more")
        if not 0 <= self.token_weight < np.inf:
            raise ValueError(f"token_weight is {self.token_weight}; it is 0 or more")

    def cost(self, examples: np.ndarray, longest: np.ndarray, most_tokens: np.ndarray) -> np.ndarray:
        """Float64, of batches of so many examples."""
        frames = np.multiply(examples, longest, dtype=np.float64)
        return frames * (1 + most_tokens * self.token_weight) if self.token_weight else frames


@dataclass(frozen=True)
class Examples:
    """Examples in chunks, almost from short to long within each. Example e is `rows[starts[e] : starts[e + 1]]`."""

    rows: np.ndarray  # int32
    starts: np.ndarray | None  # int64; None: each row is an example
    frames: np.ndarray  # int32 [examples]
    tokens: np.ndarray  # int32 [examples]
    chunk_starts: np.ndarray  # int64 [chunks + 1]: of examples


def arrange(chunks: Iterator[np.ndarray], lengths: Lengths, budget: Budget, rng: np.random.Generator) -> Examples:
    """`chunks` are shuffled rows, neighbours in which may be spliced. What lies in a chunk stays in it."""
    rows, starts, frames, tokens, sizes = [], [], [], [], [0]
    taken = 0
    for chunk in chunks:
        chunk_frames, chunk_tokens = lengths.frames[chunk], lengths.tokens[chunk]
        if budget.splice > 1:
            first = splice(chunk_frames, chunk_tokens, budget, rng)
            chunk_frames, chunk_tokens = (np.add.reduceat(x, first) for x in (chunk_frames, chunk_tokens))
            order = almost_by_length(chunk_frames, rng)
            lens = np.diff(first, append=len(chunk))[order]
            rows.append(chunk[ranges(first[order], lens)])
            starts.append(taken + np.cumsum(lens) - lens)
        else:
            order = almost_by_length(chunk_frames, rng)
            rows.append(chunk[order])
        frames.append(chunk_frames[order])
        tokens.append(chunk_tokens[order])
        sizes.append(len(order))
        taken += len(chunk)
    return Examples(np.concatenate(rows), np.concatenate([*starts, [taken]]) if starts else None,
                    np.concatenate(frames), np.concatenate(tokens), np.cumsum(sizes))  # fmt: skip


def almost_by_length(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions from short to long, where up to 0.5 % more or less do not count.

    A corpus of one window would else have almost the same batches in each epoch: of the pairs in a batch, 84 % were
    together again in the next epoch (4,000 utterances of 13 s, 240 s a batch), with this 49 %, for 0.3 % more padding.
    """
    share = rng.random(len(frames), np.float32).astype(np.float64) - 0.5
    return np.argsort(frames * (1 + SHUFFLED_SHARE * share), kind="stable")


def splice(frames: np.ndarray, tokens: np.ndarray, budget: Budget, rng: np.random.Generator) -> np.ndarray:
    """Where examples start: runs of 1 to `splice` neighbours, no longer than `splice_frames` and within the budget."""
    sizes = rng.integers(1, budget.splice + 1, len(frames)).tolist()
    weight = budget.token_weight
    starts: list[int] = []
    length = said = taken = 0
    for i, (n, u) in enumerate(zip(frames.tolist(), tokens.tolist(), strict=True)):
        joined = (length + n) * (1 + (said + u) * weight)
        full = taken == 0 or taken >= sizes[len(starts) - 1]
        if full or length + n > budget.splice_frames or joined > budget.batch_frames:
            starts.append(i)
            length = said = taken = 0
        length, said, taken = length + n, said + u, taken + 1
    return np.array(starts)


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... (sizes[0] of them), starts[1], ...: int64."""
    shift = starts - (np.cumsum(sizes) - sizes)
    return np.arange(int(sizes.sum())) + np.repeat(shift, sizes)


def cut(examples: Examples, budget: Budget) -> tuple[np.ndarray, np.ndarray]:
    """Each chunk's examples, in their order, to the widest batches that the budget allows.

    (first example of each batch, and the batches' chunks as where they start: [chunks + 1]). The k-th batches of many
    chunks are found at once.
    """
    firsts, counts = [], []
    bounds = examples.chunk_starts
    for lane in range(0, len(bounds) - 1, LANES):
        found = _cut_lanes(examples, bounds[lane : lane + LANES + 1], budget)
        firsts.append(found)
        counts.append(np.searchsorted(found, bounds[lane : lane + LANES + 1]))
    sizes = np.concatenate([np.diff(count) for count in counts])
    return np.concatenate(firsts), np.concatenate([[0], np.cumsum(sizes)])


def _cut_lanes(examples: Examples, bounds: np.ndarray, budget: Budget) -> np.ndarray:
    first, end = bounds[:-1], bounds[1:]
    found = []
    while len(first):
        found.append(first)
        # A batch costs at least as much as if all were like its first, so that no more than this can fit.
        alone = budget.cost(np.ones(1), examples.frames[first], examples.tokens[first])
        most_examples = min(budget.batch_examples, int((budget.batch_frames // alone).max()))
        size = np.arange(1, min(most_examples, int((end - first).max())) + 1)
        at = np.minimum(first[:, None] + (size - 1), len(examples.frames) - 1)
        longest = np.maximum.accumulate(examples.frames[at], axis=1)
        most = np.maximum.accumulate(examples.tokens[at], axis=1) if budget.token_weight else longest
        fits = budget.cost(size, longest, most) <= budget.batch_frames
        assert fits[:, 0].all(), "an example alone is within the budget"
        first = first + fits.sum(1)  # behind the chunk's end when all that is left fits: the next chunk starts itself
        going = first < end
        first, end = first[going], end[going]
    return np.sort(np.concatenate(found))
