"""Spoken digits of a speaker never heard: train on four speakers, count errors on the fifth, for several seeds.

usage: python tests/bench/digits.py DIGITS OUT [SEEDS] [SPEAKER]

DIGITS is a folder with fsdd.tsv (path, text, speaker) and the recordings that it names. The speaker held out
(yweweler) is used for nothing but the final count: no checkpoint is chosen by it, the last one is scored. Seeds run two
at a time, one thread each.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COPIES = ("--augment", "all", "--copies", "3")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def main() -> None:
    digits, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    seeds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    speaker = sys.argv[4] if len(sys.argv) > 4 else "yweweler"
    out.mkdir(parents=True, exist_ok=True)
    write_list(digits / "fsdd.tsv", out / "list.tsv", speaker)
    manifest, shards, vocab = out / "manifest", out / "shards", out / "vocab"
    run("pipelines.prepare", "folder", "--list", out / "list.tsv", "--root", digits, "--out", manifest)
    run("pipelines.vocab", "--manifest", manifest, "--type", "char", "--out", vocab)
    run("pipelines.featurize", "--manifest", manifest, "--frontend", "8k", "--workers", "0", "--out", shards,
        *COPIES)  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda seed: train_and_score(out, shards, vocab, seed), range(seeds)))
    print("\n| seed | WER on the unseen speaker | 95 % interval | minutes of training |\n|---|---|---|---|")
    for seed, (wer, low, high, minutes) in enumerate(found):
        print(f"| {seed} | {wer:.1%} | {low:.1%} to {high:.1%} | {minutes:.1f} |")
    print(f"\nmean of {seeds} seeds: {statistics.mean(wer for wer, *_ in found):.1%}")


def write_list(source: Path, target: Path, held_out: str) -> None:
    """The corpus's list with a split: `test` for the speaker held out, `train` for the others."""
    header, *rows = [line.split("\t") for line in source.read_text().splitlines()]
    speaker = header.index("speaker")
    lines = [[*header, "split"], *([*row, "test" if row[speaker] == held_out else "train"] for row in rows)]
    target.write_text("".join("\t".join(line) + "\n" for line in lines))


def train_and_score(out: Path, shards: Path, vocab: Path, seed: int) -> tuple[float, float, float, float]:
    """(WER, its interval, minutes) of the last checkpoint."""
    folder = out / f"run-{seed}"
    model = next(vocab.glob("char-*.model"))
    start = time.perf_counter()
    run(
        "asr.train", "--config", "digits", "--shards", shards / "urls-train.txt", "--vocab", model,
        "--out", folder, "--resume", f"seed={seed}", log=out / f"train-{seed}.log",
    )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    scores = out / f"score-{seed}"
    run("asr.evaluate", "--bundle", folder / "last", "--shards", shards / "urls-test.txt", "--out", scores)
    wer = json.loads((scores / "wer.json").read_text())["wer"]
    return wer["rate"], wer["low"], wer["high"], minutes


def run(module: str, *arguments: object, log: Path | None = None) -> None:
    code = f"from configs.start import start; start({module!r})"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE
    )
    if log is not None:
        log.write_text(done.stdout)
    if done.returncode:
        sys.exit(f"{module}: exit code {done.returncode}")


if __name__ == "__main__":
    main()
