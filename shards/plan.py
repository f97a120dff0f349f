"""An epoch's batches, for every rank, from the lengths in the index alone.

A plan is a pure function of (lengths, budget, seed, epoch, world size, the runs that the epoch has had): all ranks
compute it for themselves and agree, a run is resumed by a step number, and padding is known before the first step.

How: shuffle the shards; shuffle the rows within windows of neighbouring shards, so that reading stays almost
sequential; splice neighbours where asked; sort by length; cut to batches under the budget; put batches of like cost
side by side, one for each rank, as a step; shuffle the steps within their window.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from configs.wording import counted
from shards.cutting import Budget, Lengths, arrange, ranges
from shards.dealing import deal

__all__ = ["Budget", "Lengths", "Plan", "plan_epoch"]

# What is sorted together has at least so many rows, so many batches, and so many batches for each rank. With 8,192 rows
# and 600 s a batch, utterances of 13 s (174 batches) were padded by 0.9 % and such of 5 s (70 batches) by 1.6 %.
WINDOW_ROWS = 8192
WINDOW_BATCHES = 128
WINDOW_STEPS = 8
LOOK_AHEAD_STEPS = 64  # `shards_needed` looks at so many steps at once


@dataclass(frozen=True)
class Plan:
    """Batches in the order of training. Batch i = `step * world_size + rank` is that rank's at that step.

    Batch i holds the examples from `batch_starts[i]` to before `batch_starts[i] + batch_sizes[i]`; example e is the
    utterances `rows[example_starts[e] : example_starts[e + 1]]`, or `rows[e]` alone when nothing is spliced.
    """

    world_size: int
    rows: np.ndarray
    example_starts: np.ndarray | None
    batch_starts: np.ndarray
    batch_sizes: np.ndarray
    shard: np.ndarray  # of each row
    padding: float  # share of the frames in padded batches that are padding
    imbalance: float  # share of the ranks' cost that is waiting for the costliest one of the step

    @property
    def steps(self) -> int:
        return len(self.batch_starts) // self.world_size

    def batch(self, step: int, rank: int = 0) -> list[np.ndarray]:
        """The examples of one batch, each an array of rows."""
        i = step * self.world_size + rank
        start, size = int(self.batch_starts[i]), int(self.batch_sizes[i])
        if self.example_starts is None:
            return list(self.rows[start : start + size, None])
        bounds = self.example_starts[start : start + size + 1].tolist()
        return [self.rows[a:b] for a, b in itertools.pairwise(bounds)]

    def rows_of(self, first_step: int, end_step: int, rank: int | None = None) -> np.ndarray:
        """All rows of the steps from `first_step` to before `end_step`, in their order, of one rank or of all."""
        chosen = np.arange(first_step * self.world_size, end_step * self.world_size)
        if rank is not None:
            chosen = chosen[rank :: self.world_size]
        starts = self.batch_starts[chosen]
        ends = starts + self.batch_sizes[chosen]
        if self.example_starts is not None:
            starts, ends = self.example_starts[starts], self.example_starts[ends]
        return self.rows[ranges(starts, ends - starts)]

    def shards_needed(self, step: int, rank: int | None = None) -> Iterator[int]:
        """The shards that are read from `step` on, each once, in the order in which they are needed first."""
        seen: set[int] = set()
        for first in range(step, self.steps, LOOK_AHEAD_STEPS):
            shards = self.shard[self.rows_of(first, min(first + LOOK_AHEAD_STEPS, self.steps), rank)]
            found, at = np.unique(shards, return_index=True)
            new = [shard for shard in found[np.argsort(at)].tolist() if shard not in seen]
            seen.update(new)
            yield from new


def plan_epoch(
    lengths: Lengths,
    budget: Budget,
    *,
    seed: int,
    epoch: int,
    world_size: int = 1,
    done: Sequence[tuple[int, int]] = (),
    shortest_first: bool = False,
) -> Plan:
    """Each row as often as `lengths.times` says, the same number of batches for each rank.

    `done` names the runs that the epoch already had, in order, as (world size, steps taken): the plan is of what they
    left. A run that goes on with as many ranks as before goes on in the same plan, at a later step; only a change of
    the number of ranks adds to `done`. `shortest_first` orders each window's steps by length and splices nothing: an
    easy start. When other ranks, or the weights of a mix, left fewer rows than there are ranks, the last ranks' only
    batch is empty; without any row there are no steps. Raises ValueError for an utterance over the budget, fewer
    utterances than ranks where each comes once, or runs that cannot have been.
    """
    times = np.ones(len(lengths.frames), np.int32) if lengths.times is None else lengths.times
    _check(lengths, times, budget, 1 if done else world_size)
    if shortest_first:
        budget = replace(budget, splice=1)
    shards = int(lengths.shard.max()) + 1
    place_s = np.argsort(np.random.default_rng([seed, epoch]).permutation(shards)).astype(np.int32)
    for run, (ranks, steps) in enumerate(done, start=1):
        rng = np.random.default_rng([seed, epoch, run])
        plan = _plan(lengths, times, budget, place_s, rng, ranks, shortest_first)
        if not 0 <= steps <= plan.steps:
            raise ValueError(f"{steps} steps with {ranks} ranks cannot have been done: there are {plan.steps}")
        times = times - np.bincount(plan.rows_of(0, steps), minlength=len(times)).astype(np.int32)
    rng = np.random.default_rng([seed, epoch, len(done) + 1])
    return _plan(lengths, times, budget, place_s, rng, world_size, shortest_first)


def _check(lengths: Lengths, times: np.ndarray, budget: Budget, world_size: int) -> None:
    frames, tokens = (x[times > 0] for x in (lengths.frames, lengths.tokens))
    count = int(times.sum())
    if count < world_size and lengths.times is None:
        raise ValueError(f"{counted(count, 'utterance')} cannot be shared by {counted(world_size, 'rank')}; "
                         f"use {max(1, count)} or fewer")  # fmt: skip
    if not count:
        return
    cost = budget.cost(np.ones(1), frames, tokens)
    worst = int(cost.argmax())
    if cost[worst] > budget.batch_frames:
        what = f"the longest utterance has {frames[worst]} frames"
        if budget.token_weight:
            what = (f"an utterance of {frames[worst]} frames and {tokens[worst]} tokens costs as much as "
                    f"{cost[worst]:.0f} frames")  # fmt: skip
        raise ValueError(
            f"{what} and a batch may have {budget.batch_frames:.0f}; raise data.batch_s or lower data.max_s"
        )


def _plan(
    lengths: Lengths,
    times: np.ndarray,
    budget: Budget,
    place_s: np.ndarray,
    rng: np.random.Generator,
    world_size: int,
    in_order: bool,
) -> Plan:
    """What is in `times`; shards are visited in the order of `place_s`, steps go from short to long if `in_order`."""
    rows, counts = _visit(lengths.shard, times, place_s)
    if len(rows) == 0:
        none = np.empty(0, np.int64)
        return Plan(world_size, rows, None, none, none, lengths.shard, 0.0, 0.0)
    if len(rows) < world_size:
        return _last_step(lengths, rows, budget, world_size)
    least = _window_rows(lengths, rows, budget, world_size)
    windows = _windows(counts, least)
    examples = arrange(_chunks(rows, windows, least, rng), lengths, budget, rng)
    if len(examples.frames) < world_size:  # spliced to too few
        examples = arrange(_chunks(rows, windows, least, rng), lengths, replace(budget, splice=1), rng)
    frames = int(examples.frames.sum(dtype=np.int64))
    batches, examples = deal(examples, budget, world_size, None if in_order else rng)
    padded = int((batches.sizes * batches.longest).sum())
    costliest = batches.cost.reshape(-1, world_size).max(1)
    return Plan(
        world_size, examples.rows, examples.starts, batches.starts, batches.sizes, lengths.shard,
        1 - frames / padded, float(1 - batches.cost.sum() / (world_size * costliest.sum())),
    )  # fmt: skip


def _last_step(lengths: Lengths, rows: np.ndarray, budget: Budget, world_size: int) -> Plan:
    """A row for each of the first ranks and nothing for the others: what other ranks left of an epoch may be so few."""
    sizes = (np.arange(world_size) < len(rows)).astype(np.int64)
    cost = budget.cost(np.ones(1), lengths.frames[rows], lengths.tokens[rows])
    waiting = 1 - float(cost.sum() / (world_size * cost.max()))
    return Plan(world_size, rows, None, np.cumsum(sizes) - sizes, sizes, lengths.shard, 0.0, waiting)


def _visit(shard: np.ndarray, times: np.ndarray, place_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the order in which their shards are visited, as often as they come; how many at each place."""
    rows = np.flatnonzero(times).astype(np.int32)
    rows = rows[np.argsort(place_s[shard[rows]], kind="stable")]
    rows = np.repeat(rows, times[rows])
    return rows, np.bincount(place_s[shard[rows]])


def _window_rows(lengths: Lengths, rows: np.ndarray, budget: Budget, world_size: int) -> int:
    """How many rows a window has at least."""
    frames = lengths.frames[rows]
    cost = float(frames.sum(dtype=np.int64))
    if budget.token_weight:  # sums of whole numbers, which are the same on all machines
        cost += budget.token_weight * float(np.multiply(frames, lengths.tokens[rows], dtype=np.int64).sum())
    batches = max(cost / budget.batch_frames, len(rows) / budget.batch_examples)
    return max(WINDOW_ROWS, math.ceil(max(WINDOW_BATCHES, WINDOW_STEPS * world_size) * len(rows) / batches))


def _windows(counts: np.ndarray, least: int) -> list[tuple[int, int]]:
    """Neighbouring shards of at least so many rows, as (first, end) of positions."""
    ends = counts.cumsum()
    bounds = [0]
    while bounds[-1] < ends[-1]:
        place = int(np.searchsorted(ends, bounds[-1] + least))
        bounds.append(int(ends[min(place, len(ends) - 1)]))
    if len(bounds) > 2 and bounds[-1] - bounds[-2] < least:  # what is left over is no window of its own
        del bounds[-2]
    return list(itertools.pairwise(bounds))


def _chunks(
    rows: np.ndarray, windows: list[tuple[int, int]], least: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Each window's rows, shuffled; those of a window that is large because one shard is, in several pieces."""
    for first, end in windows:
        window = rng.permutation(rows[first:end])
        yield from np.array_split(window, max(1, len(window) // least))
