"""Trainings of a tiny model on a few utterances made here, with one rank or more, and what they were on.

The logs of --log-utterances say it.
"""

import json
import multiprocessing
import os
import socket
import sys
from collections import Counter
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import TEXTS, Toy, row_features, write_toys

from asr import train
from asr.tokenizer import Tokenizer
from asr.training import step
from shards.spec import FrontendSpec

UTTERANCES = 30
ONCE = Counter(f"u{i}" for i in range(UTTERANCES))
CONFIG = """
frontend: {folder}/frontend.yaml
epochs: 1
shortest_first: 0
log_steps: 1
save_steps: 3
model:
  encoder: lstm
  encoder_options: {{layers: 1, hidden: 8, projection: 8, stack: 2, reduce_after: []}}
  embedding: 4
  predictor_hidden: 8
  predictor_projection: 8
  joint: 8
data: {{batch_s: 3, batch_examples: 1}}
optim: {{warmup_steps: 4}}
"""


def make_inputs(folder: Path, vocab: Tokenizer) -> None:
    """Six shards of two corpora, a vocabulary and a config."""
    lengths = np.random.default_rng(2).integers(60, 90, UTTERANCES).tolist()
    toys = [
        Toy(f"u{i}", TEXTS[i % len(TEXTS)], row_features(i, n), corpus="small" if i >= 20 else "large")
        for i, n in enumerate(lengths)
    ]
    write_toys(folder / "s", toys, FrontendSpec(mels=8), "logmel", per_shard=5)
    (folder / "frontend.yaml").write_text("mels: 8\n")
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    (folder / "vocab.model").write_bytes(vocab.model_bytes)


def arguments(toy: Path, out: Path, *more: str) -> list[str]:
    return ["--config", f"{toy}/config.yaml", "--shards", f"{toy}/s", "--vocab", f"{toy}/vocab.model",
            "--out", str(out), "--log-utterances", "--resume", *more]  # fmt: skip


def train_with(count: int, command: list[str]) -> list[int]:
    """The exit codes of so many ranks: this process, or copies of it."""
    if count == 1:
        return [train.main(command)]
    processes = start_ranks(count, command)
    for process in processes:
        process.join()
    return [process.exitcode or 0 for process in processes]


def start_ranks(count: int, command: list[str]) -> list[ForkProcess]:
    """Copies of this process, which have torch loaded already. `{rank}` in an argument is each one's own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [
        multiprocessing.get_context("fork").Process(target=_rank, args=(rank, count, port, command))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def _rank(rank: int, count: int, port: int, command: list[str]) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    sys.exit(train.main([argument.replace("{rank}", str(rank)) for argument in command]))


def steps_of(run: Path) -> list[dict]:
    """What each rank was trained on, step by step."""
    return [json.loads(line) for path in sorted(run.glob("trained-rank*.jsonl")) for line in path.open()]


def trained(run: Path, epoch: int = 1) -> Counter[str]:
    """How often each utterance was trained on in an epoch."""
    return Counter(id_ for step in steps_of(run) if step["epoch"] == epoch for id_ in step["ids"])


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Let every rank die before it takes one step more."""
    take, taken = step.take, []

    def die(*args: Any) -> dict[str, float]:
        if len(taken) == steps:
            raise ValueError("killed")
        taken.append(1)
        return take(*args)

    patch.setattr(step, "take", die)
