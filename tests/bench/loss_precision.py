"""Whether the sparse gradient in bf16, or logits from bytes, cost accuracy: the same small trainings with and without.

usage: python tests/bench/loss_precision.py SHARDS VOCAB OUT [--seeds 0 1 2] [--kinds exact default int8] [--epochs N]
                                            [--config tiny]

SHARDS is a folder with urls-train.txt and urls-test.txt, VOCAB a sentencepiece model. All kinds have the same data,
batches, random weights and masks; they differ in `loss.eps`, `precision` and `loss.precision` alone. Trainings run two
at a time, one thread each. The last checkpoint is scored, no other is looked at. A training that OUT has already is
not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

from digits import ENVIRONMENT, run

KINDS = {
    "exact": ["loss.eps=0", "precision=fp32"],
    "default": ["loss.eps=1e-4", "precision=bf16"],
    "int8": ["loss.eps=1e-4", "precision=bf16", "loss.precision=int8"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--epochs", type=int, help="in place of the config's")
    parser.add_argument("--config", default="tiny")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    jobs = [(kind, seed) for seed in args.seeds for kind in args.kinds]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(jobs, pool.map(lambda job: train_and_score(args, *job), jobs), strict=True))
    print(table(found, args.kinds, args.seeds))


def train_and_score(args: argparse.Namespace, kind: str, seed: int) -> dict[str, Any]:
    """{wer: {rate, low, high}, minutes of the training in CPU time}."""
    name = f"{kind}-{seed}"
    folder, scores, result = args.out / name, args.out / f"{name}-score", args.out / f"{name}.json"
    if not result.exists():
        settings = [f"seed={seed}", *KINDS[kind], *([f"epochs={args.epochs}"] if args.epochs else [])]
        cpu_s = train(args, folder, settings)
        run("asr.evaluate", "--bundle", folder / "last", "--shards", args.shards / "urls-test.txt", "--out", scores)
        wer = json.loads((scores / "wer.json").read_text())["wer"]
        result.write_text(json.dumps({"wer": wer, "minutes": cpu_s / 60}))
    values: dict[str, Any] = json.loads(result.read_text())
    return values


def train(args: argparse.Namespace, folder: Path, settings: list[str]) -> float:
    """CPU seconds of a training. One that was broken off starts again, as its beginning would not be counted."""
    arguments = [
        "--config", args.config, "--shards", args.shards / "urls-train.txt", "--vocab", args.vocab, "--out", folder,
        "--force", *settings,
    ]  # fmt: skip
    with (args.out / f"{folder.name}.log").open("w") as log:
        command = [sys.executable, "-m", "asr.train", *map(str, arguments)]
        training = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(training.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{log.name}: exit code {code}")
    return used.ru_utime + used.ru_stime


def table(found: dict[tuple[str, int], dict[str, Any]], kinds: Sequence[str], seeds: Sequence[int]) -> str:
    lines = ["| seed | loss and precision | WER | 95 % interval | CPU minutes |", "|---|---|---|---|---|"]
    for (kind, seed), values in found.items():
        wer = values["wer"]
        interval = f"{wer['low']:.2%} to {wer['high']:.2%}"
        lines.append(f"| {seed} | {kind} | {wer['rate']:.2%} | {interval} | {values['minutes']:.1f} |")
    rates = {kind: [found[kind, seed]["wer"]["rate"] for seed in seeds] for kind in kinds}
    lines += ["", *(f"mean of {kind}: {statistics.mean(values):.2%}" for kind, values in rates.items())]
    for before, after in combinations(kinds, 2):
        differences = [b - a for a, b in zip(rates[before], rates[after], strict=True)]
        lines.append(f"{after} less {before}: {statistics.mean(differences) * 100:+.2f} points"
                     + (f", standard error {statistics.stdev(differences) / len(seeds) ** 0.5 * 100:.2f}"
                        if len(seeds) > 1 else ""))  # fmt: skip
    half = statistics.mean((v["wer"]["high"] - v["wer"]["low"]) / 2 for v in found.values())
    lines.append(f"half of an interval: {half * 100:.2f} points")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
