"""What a recipe learns, in the same time from the same data, beside E4D1 as the earlier system trained it.

usage: python tests/bench/learning.py demo MANIFEST OUT [--minutes 20] [--seeds 0] [--side-by-side] [--epochs N]
       python tests/bench/learning.py digits DIGITS OUT [--minutes 20] [--seeds 0 1 2] …

demo: MANIFEST is what `prepare-corpus demo` has made; `tiny` against e4d1-origin.yaml, which lies beside this script.
digits: DIGITS is as for digits.py; yweweler is heard by nobody before the end; `digits` against e4d1-origin.yaml.

Each side makes shards and a vocabulary of its own from the same manifest, which does not count, and then trains: two
processes on two cores for so many minutes, one side after the other; or --side-by-side, one process on one core each
for twice as long. SIGTERM ends it; start-up and measuring the dev set are part of the time. The checkpoint is scored
that the side's own rule picks. Our schedule must end in the time: without --epochs a training of --calibrate minutes
finds out how many epochs that is. A seed whose result is in OUT is not trained again.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits import COPIES, ENVIRONMENT, run

HELD_OUT, DEV_EVERY = "yweweler", 20
MANY = 1000  # epochs, for a training that the clock ends
SHUT_DOWN_S = 600


@dataclass(frozen=True)
class Side:
    """One of the two trainings."""

    name: str
    config: str
    frontend: str
    vocab: Path
    shards: Path
    rule: str  # the checkpoint to score
    settings: tuple[str, ...] = ()


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    sides = demo(args.source, args.out) if args.corpus == "demo" else digits(args.source, args.out)
    if args.prepare_only:
        return
    epochs = args.epochs or calibrated(args, sides)
    found = {seed: trainings(args, sides, seed, epochs) for seed in args.seeds}
    print(table(found))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=["demo", "digits"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0, help="of both cores, for each training")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--side-by-side", action="store_true")
    parser.add_argument("--epochs", type=int, help="of ours")
    parser.add_argument("--calibrate", type=float, default=4.0, metavar="MINUTES")
    parser.add_argument("--prepare-only", action="store_true", help="stop before the first training")
    args = parser.parse_args()
    args.source, args.out = args.source.resolve(), args.out.resolve()
    args.seeds = args.seeds or ([0] if args.corpus == "demo" else [0, 1, 2])
    return args


def demo(manifest: Path, out: Path) -> list[Side]:
    small = vocab(manifest, out / "vocab", "bpe", 64)
    return [prepared(manifest, out, "tiny", "default", small, "best"), origin(manifest, out, "e4d1")]


def digits(folder: Path, out: Path) -> list[Side]:
    write_list(folder / "fsdd.tsv", out / "list.tsv")
    manifest = out / "manifest"
    # The speakers to train on are in the dev set, too: it is for the other side's schedule.
    run("pipelines.prepare", "folder", "--list", out / "list.tsv", "--root", folder, "--out", manifest,
        "--keep-leaks", "sentence", "speaker")  # fmt: skip
    letters = vocab(manifest, out / "vocab", "char", None)
    return [prepared(manifest, out, "digits", "8k", letters, "last", COPIES), origin(manifest, out, "8k")]


def origin(manifest: Path, out: Path, frontend: str) -> Side:
    config = Path(__file__).with_name("e4d1-origin.yaml")
    model = vocab(manifest, out / "vocab-origin", "bpe", 2048)
    return prepared(manifest, out, str(config), frontend, model, "best")


def prepared(
    manifest: Path, out: Path, config: str, frontend: str, model: Path, rule: str, copies: tuple[str, ...] = ()
) -> Side:
    shards = out / f"shards-{frontend}{'-copies' * bool(copies)}"
    run(
        "pipelines.featurize",
        "--manifest",
        manifest,
        "--frontend",
        frontend,
        "--workers",
        "0",
        "--out",
        shards,
        *copies,
    )
    name = Path(config).stem
    changed = [f"epochs={MANY}", f"frontend={frontend}"] if name == "e4d1-origin" else []
    return Side(name, config, frontend, model, shards, rule, tuple(changed))


def vocab(manifest: Path, out: Path, kind: str, size: int | None) -> Path:
    """A vocabulary of the size, or of the largest that the texts have pieces for."""
    wanted = [] if size is None else ["--size", str(size)]
    code = "from pipelines import commands; commands.build_vocab()"
    command = [sys.executable, "-c", code, "--manifest", str(manifest), "--type", kind, "--out", str(out), *wanted]
    done = subprocess.run(command, env=ENVIRONMENT, text=True, capture_output=True)
    largest = re.search(r"the largest possible is --size (\d+)", done.stderr)
    if largest:
        return vocab(manifest, out, kind, int(largest[1]))
    if done.returncode:
        sys.exit(done.stderr)
    return next(out.glob(f"{kind}-{size or '*'}.model"))


def write_list(source: Path, target: Path) -> None:
    """The corpus's list with a split: `test` for the speaker held out, `dev` for some of the others' takes."""
    header, *rows = [line.split("\t") for line in source.read_text().splitlines()]
    path, speaker = header.index("path"), header.index("speaker")
    lines = [[*header, "split"]]
    for row in rows:
        take = int(Path(row[path]).stem.rpartition("_")[2])
        split = "test" if row[speaker] == HELD_OUT else "train" if take % DEV_EVERY else "dev"
        lines.append([*row, split])
    target.write_text("".join("\t".join(line) + "\n" for line in lines))


def calibrated(args: argparse.Namespace, sides: list[Side]) -> int:
    """Epochs of ours that end in the time, from what a short training thinks is left of very many."""
    chosen = sides if args.side_by_side else sides[:1]
    seconds = args.calibrate * 60
    jobs = [(side, args.out / f"calibration-{side.name}", [f"epochs={MANY}", "log_steps=20"]) for side in chosen]
    together(args, jobs, seconds)
    lines = (jobs[0][1] / "metrics.jsonl").read_text().splitlines()
    left_s = [record["eta_s"] for record in map(json.loads, lines) if record.get("eta_s")]
    if not left_s:
        sys.exit(f"{args.calibrate:g} minutes are too short to say how long an epoch takes; give more, or --epochs")
    epoch_s = left_s[-1] / MANY
    epochs = math.floor(0.95 * (wall_s(args) - 20) / epoch_s)
    print(f"an epoch of {sides[0].name} takes {epoch_s:.0f} s: {epochs} epochs", flush=True)
    return max(1, epochs)


def wall_s(args: argparse.Namespace) -> float:
    return float(args.minutes) * 60 * (2 if args.side_by_side else 1)


def trainings(args: argparse.Namespace, sides: list[Side], seed: int, epochs: int) -> list[dict[str, Any]]:
    """Results of the sides for a seed."""
    results = [args.out / f"{side.name}-{seed}.json" for side in sides]
    ours, theirs = (args.out / f"run-{side.name}-{seed}" for side in sides)
    jobs = [(sides[0], ours, [f"seed={seed}", f"epochs={epochs}"]), (sides[1], theirs, [f"seed={seed}"])]
    waiting = [(job, result) for job, result in zip(jobs, results, strict=True) if not result.exists()]
    groups = [waiting] if args.side_by_side else [[one] for one in waiting]
    for group in groups:
        took_s = together(args, [job for job, _ in group], wall_s(args))
        for ((side, folder, _), result), spent_s in zip(group, took_s, strict=True):
            result.write_text(json.dumps(scored(side, folder) | {"seed": seed, "minutes": spent_s / 60}, indent=1))
    return [json.loads(result.read_text()) for result in results]


def together(args: argparse.Namespace, jobs: list[tuple[Side, Path, list[str]]], seconds: float) -> list[float]:
    """Train at the same time, for so long; seconds that each took, less when it came to its end."""
    with ThreadPoolExecutor(len(jobs) or 1) as pool:
        return list(pool.map(lambda job: train(args, *job, seconds), jobs))


def train(args: argparse.Namespace, side: Side, folder: Path, settings: list[str], seconds: float) -> float:
    arguments = [
        "--config", side.config, "--shards", side.shards / "urls-train.txt", "--vocab", side.vocab, "--out", folder,
        "--force", *side.settings, *settings,
    ]  # fmt: skip
    if side.rule == "best":
        arguments += ["--dev-shards", side.shards / "urls-dev.txt"]
    many = [] if args.side_by_side else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    if many and side.name == "e4d1-origin":
        arguments += ["data.batch_examples=16", "data.batch_s=256"]  # in each process: 32 in a step, as described
    module = ["-m", "asr.train"] if args.side_by_side else ["--module", "asr.train"]
    start_s = time.monotonic()
    with (args.out / f"{folder.name}.log").open("w") as log:
        command = [sys.executable, *many, *module, *map(str, arguments)]
        training = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
        try:
            code, stopped = training.wait(seconds), False
        except subprocess.TimeoutExpired:
            training.terminate()
            code, stopped = training.wait(SHUT_DOWN_S), True
    if code and not stopped:
        sys.exit(f"{log.name}: exit code {code}")
    return time.monotonic() - start_s


def scored(side: Side, folder: Path) -> dict[str, Any]:
    """The error rate on the test set of the checkpoint that the side would use, and how far its training has come."""
    bundle = folder / side.rule
    if not bundle.exists():  # no epoch was finished
        bundle = folder / "last"
    scores = folder.with_name(f"{folder.name}-score")
    run("asr.evaluate", "--bundle", bundle, "--shards", side.shards / "urls-test.txt", "--out", scores)
    wer = json.loads((scores / "wer.json").read_text())["wer"]
    position = json.loads((folder / "last" / "training.json").read_text())["position"]
    kept = json.loads((bundle / "bundle.json").read_text())["training"]
    return {"side": side.name, "vocab": side.vocab.stem, "wer": wer, "epochs": position["epoch"],
            "steps": position["total"], "bundle": f"{bundle.name}, epoch {kept['epoch']}"}  # fmt: skip


def table(found: dict[int, list[dict[str, Any]]]) -> str:
    lines = ["| seed | recipe | vocabulary | WER | 95 % interval | checkpoint | whole epochs, steps | minutes |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for seed, results in found.items():
        for values in results:
            wer = values["wer"]
            lines.append(f"| {seed} | {values['side']} | {values['vocab']} | {wer['rate']:.2%} "
                         f"| {wer['low']:.2%} to {wer['high']:.2%} | {values['bundle']} "
                         f"| {values['epochs']}, {values['steps']:,} | {values['minutes']:.1f} |")  # fmt: skip
    ours, theirs = (statistics.mean(results[i]["wer"]["rate"] for results in found.values()) for i in range(2))
    lines += ["", f"means: {ours:.2%} and {theirs:.2%}, ratio {ours / theirs:.2f}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
