"""How long an epoch's plan takes and how much memory; its padding and imbalance beside those of lhotse's sampler.

    OMP_NUM_THREADS=1 taskset -c 0 python -m tests.bench.plan [ROWS ...]     (pip install lhotse first)

The lengths are made up: LibriSpeech's are mostly 12 to 16 s, Common Voice's about 5 s. Each line of the first table is
a process of its own, so that its peak is its own.
"""

import argparse
import logging
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

from shards.plan import Budget, Lengths, Plan, plan_epoch

ROWS_PER_SHARD = 3000
BLOCK_ROWS = 1 << 20
BATCH_S = 600
FRAMES_PER_S = 100
UTTERANCES = 28_539  # of LibriSpeech's train-clean-100
REPEATS = 5


def librispeech_s(rng: np.random.Generator, count: int) -> np.ndarray:
    most = np.clip(rng.normal(14.5, 1.2, count), 1.5, 17)
    return np.where(rng.random(count) < 0.72, most, rng.uniform(1.5, 13, count))


def common_voice_s(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.clip(rng.gamma(8, 0.65, count), 1, 16)


CORPORA: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "LibriSpeech": librispeech_s,
    "Common Voice": common_voice_s,
}


def make(corpus: str, rows: int) -> Lengths:
    rng = np.random.default_rng(0)
    frames, tokens = np.empty(rows, np.int32), np.empty(rows, np.int32)
    for start in range(0, rows, BLOCK_ROWS):
        lengths_s = CORPORA[corpus](rng, min(BLOCK_ROWS, rows - start))
        frames[start : start + BLOCK_ROWS] = np.round(lengths_s * FRAMES_PER_S)
        tokens[start : start + BLOCK_ROWS] = np.maximum(1, lengths_s * rng.normal(3.9, 0.6, len(lengths_s)))
    return Lengths(
        frames, tokens, np.repeat(np.arange(rows // ROWS_PER_SHARD + 1, dtype=np.int32), ROWS_PER_SHARD)[:rows]
    )


def seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speed(corpus: str, rows: int, world_size: int, token_weight: float) -> None:
    """One line of the first table."""
    lengths = make(corpus, rows)
    budget = Budget(BATCH_S * FRAMES_PER_S, 1000, token_weight)

    def planned(ranks: int, done: list[tuple[int, int]]) -> Plan:
        return plan_epoch(lengths, budget, seed=0, epoch=0, world_size=ranks, done=done)

    peaks_mb = [peak_mb()]
    steps, jump_s = _jump(planned(world_size, []))
    peaks_mb.append(peak_mb())
    repeats = REPEATS if rows < 10**7 else 1
    first_s = statistics.median(seconds(lambda: planned(world_size, [])) for _ in range(repeats))
    done = [(world_size, steps // 2)]
    changed_s = statistics.median(seconds(lambda: planned(world_size + 1, done)) for _ in range(repeats))
    peaks_mb.append(peak_mb())
    weight = "frames" if token_weight == 0 else f"frames, tokens x {token_weight:g}"
    print(f"| {rows:,} | {corpus} | {weight} | {world_size} | {first_s:.2f} | {1e3 * jump_s:.1f} | {changed_s:.2f} | "
          f"{' | '.join(f'{peak:,.0f}' for peak in peaks_mb)} |", flush=True)  # fmt: skip


def _jump(plan: Plan) -> tuple[int, float]:
    """The plan's steps, and the time until the batch in its middle and the next shard are known."""
    step = plan.steps // 2
    return plan.steps, seconds(lambda: (plan.batch(step), next(plan.shards_needed(step))))


def lhotse_batches(lengths: Lengths, batch_s: float, world_size: int) -> list[list[np.ndarray]]:
    """What DynamicBucketingSampler gives each rank: for each batch the lengths in it, in frames."""
    from lhotse import CutSet, MonoCut, SupervisionSegment
    from lhotse.dataset import DynamicBucketingSampler

    lengths_s = lengths.frames / FRAMES_PER_S
    cuts = CutSet.from_cuts(
        MonoCut(str(i), 0, d, 0, [SupervisionSegment(str(i), str(i), 0, d)]) for i, d in enumerate(lengths_s.tolist())
    ).to_eager()
    ranks = []
    for rank in range(world_size):
        sampler = DynamicBucketingSampler(
            cuts, max_duration=batch_s, num_buckets=30, shuffle=True, drop_last=False, world_size=world_size, rank=rank
        )
        ranks.append([np.array([round(cut.duration * FRAMES_PER_S) for cut in batch]) for batch in sampler])
    return ranks


def our_batches(lengths: Lengths, batch_s: float, world_size: int) -> list[list[np.ndarray]]:
    plan = plan_epoch(lengths, Budget(batch_s * FRAMES_PER_S, 1000), seed=0, epoch=0, world_size=world_size)
    return [
        [lengths.frames[plan.rows_of(step, step + 1, rank)] for step in range(plan.steps)] for rank in range(world_size)
    ]


def quality(corpus: str, batch_s: float, world_size: int) -> None:
    """A line of the second table for each side."""
    lengths = make(corpus, UTTERANCES)
    for side, batches in (("ours", our_batches), ("lhotse, 30 buckets", lhotse_batches)):
        taken = []
        taken_s = seconds(lambda: taken.append(batches(lengths, batch_s, world_size)))  # noqa: B023
        ranks = taken[0]
        cost_rs = [np.array([len(batch) * batch.max() for batch in batches]) for batches in ranks]
        steps = {len(costs) for costs in cost_rs}
        seen = sum(len(batch) for batches in ranks for batch in batches)
        padding = 1 - sum(int(batch.sum()) for batches in ranks for batch in batches) / sum(c.sum() for c in cost_rs)
        costs = np.array([costs[: min(steps)] for costs in cost_rs])
        imbalance = 1 - costs.sum() / (world_size * costs.max(0).sum())
        print(
            f"| {corpus} | {batch_s} | {world_size} | {side} | {padding:.2%} | {imbalance:.2%} | "
            f"{'-'.join(map(str, sorted(steps)))} | {seen:,} | {taken_s:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[1_000_000, 30_000_000])
    parser.add_argument("--one", nargs=4, metavar=("CORPUS", "ROWS", "RANKS", "TOKEN_WEIGHT"), help="one line alone")
    args = parser.parse_args()
    if args.one:
        corpus, rows, world_size, token_weight = args.one
        speed(corpus, int(rows), int(world_size), float(token_weight))
        return
    print("| utterances | lengths | budget of | ranks | plan, s | jump, ms | plan after a change, s | lengths, MB "
          f"| peak, MB | peak after a change, MB |\n|{'---|' * 10}", flush=True)  # fmt: skip
    for rows in args.rows:
        for corpus, ranks, weight in [
            ("LibriSpeech", 1, 0), ("LibriSpeech", 8, 0), ("LibriSpeech", 64, 0), ("LibriSpeech", 8, 0.01),
            ("Common Voice", 1, 0), ("Common Voice", 8, 0), ("Common Voice", 64, 0),
        ]:  # fmt: skip
            one = [corpus, str(rows), str(ranks), str(weight)]
            subprocess.run([sys.executable, "-m", "tests.bench.plan", "--one", *one], check=True)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print("\n| lengths | batch, s | ranks | side | padding | imbalance | steps of a rank | utterances | CPU s |\n"
          f"|{'---|' * 9}", flush=True)  # fmt: skip
    for corpus in CORPORA:
        for batch_s, ranks in [(600, 1), (600, 8), (240, 1), (240, 8)]:
            quality(corpus, batch_s, ranks)


if __name__ == "__main__":
    main()
