"""How long a resume takes: from the start of `prepare` to the first batch, in the middle of an epoch.

usage: python tests/bench/resume.py FOLDER [UTTERANCES] [SPLICE]     (pin it to one core)

The index is made here, of UTTERANCES rows (default 1,000,000) of 1 to 16 s in shards of 2,000; the shards are files
with holes, of the size that the index says, so features are zeros and texts NULs. The model has a few weights: a large
one takes as long to read back as its bytes take. Imports are outside of the clock, as is the first run of all, which
counts tokens. CPU and wall time of REPETITIONS processes, and their peaks of memory.
"""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from asr import tokenizer, train
from asr.training import resume, session
from configs.load import load
from shards import index
from shards.content import Content
from shards.moments import Moments
from shards.spec import FrontendSpec

REPETITIONS = 5
PER_SHARD = 2000
TEXT_BYTES = 60
SETTINGS = [
    "epochs=2", "shortest_first=0", "data.batch_s=240", "model.encoder_options.layers=1",
    "model.encoder_options.hidden=8", "model.encoder_options.projection=8", "model.joint=8",
    "model.predictor_hidden=8", "model.predictor_projection=8",
]  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    utterances = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    splice = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    settings = SETTINGS if splice == 1 else [*SETTINGS, f"data.splice={splice}", "data.splice_s=16"]
    if not (folder / "s" / index.STATS).exists():
        make(folder, utterances)
    run("start", folder, settings)
    found = [run("resume", folder, settings) for _ in range(REPETITIONS)]
    for name in ("prepare_s", "first_batch_s", "cpu_s", "peak_mb"):
        values = [figures[name] for figures in found]
        print(f"{name}: median {statistics.median(values):.3f}, {min(values):.3f} to {max(values):.3f}")
    print(f"{utterances:,} utterances, {found[0]['steps']:,} steps in the epoch, resumed at step {found[0]['step']:,}")


def run(what: str, folder: Path, settings: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--process", what, str(folder), *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def process(what: str, folder: Path, settings: list[str]) -> dict[str, float]:
    torch.set_num_threads(1)
    parser_arguments = [
        "--config", "tiny", "--shards", f"{folder}/s", "--vocab", f"{folder}/vocab.model", "--out", f"{folder}/run",
        "--resume", *settings,
    ]  # fmt: skip
    args = train.make_parser().parse_intermixed_args(parser_arguments)
    for module in ("pandas", "torch._dynamo"):  # which pyarrow and the optimiser load at their first use, 1.5 s
        importlib.import_module(module)

    start_cpu_s, start_s = time.process_time(), time.perf_counter()
    ready = session.prepare(args)
    prepare_s = time.perf_counter() - start_s
    assert ready.plan is not None
    next(train.batches(ready, ready.plan, None))
    figures = {
        "prepare_s": prepare_s, "first_batch_s": time.perf_counter() - start_s,
        "cpu_s": time.process_time() - start_cpu_s, "steps": ready.plan.steps, "step": ready.position.step,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip
    if what == "start":
        ready.position.step = ready.position.total = ready.plan.steps // 2
        resume.save_last(ready)
    return figures


def make(folder: Path, utterances: int) -> None:
    """Index and empty shards."""
    spec = load(FrontendSpec, "default", "frontend")
    text = ["".join(np.random.default_rng(0).choice(list("abcdefghij "), 40)) for _ in range(100)]
    size = tokenizer.smallest_size(text, byte_fallback=False) + 8
    (folder / "s").mkdir(parents=True)
    (folder / "vocab.model").write_bytes(tokenizer.train(text, "bpe", size, byte_fallback=False))
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(folder / "s" / index.INDEX, index.SCHEMA, compression="zstd") as writer:
        for table in tables(folder, utterances, spec, rng):
            writer.write_table(table)
    moments = Moments(1000, np.zeros(spec.mels), np.full(spec.mels, 1000.0))
    stats = index.stats_json(spec, {"train": moments}, Content("float16", False))
    (folder / "s" / index.STATS).write_text(json.dumps(stats))


def tables(folder: Path, utterances: int, spec: FrontendSpec, rng: np.random.Generator) -> Iterator[pa.Table]:
    """A shard's rows at a time."""
    for shard in range(-(-utterances // PER_SHARD)):
        count = min(PER_SHARD, utterances - shard * PER_SHARD)
        frames = rng.integers(100, 1600, count)
        sizes = frames * spec.mels * 2 + TEXT_BYTES
        offsets = np.cumsum(sizes) - sizes
        name = f"train-{shard:05d}.tar"
        with (folder / "s" / name).open("wb") as file:
            file.truncate(int(sizes.sum()))
        ids = [f"utterance-{shard:05d}-{i:05d}" for i in range(count)]
        columns = {
            "id": ids, "audio": [f"/data/{id_}.flac" for id_ in ids], "text": ["abc def"] * count, "frames": frames,
            "duration_s": frames / 100.0, "feature_offset": offsets, "feature_length": frames * spec.mels * 2,
            "text_offset": offsets + frames * spec.mels * 2, "text_length": [TEXT_BYTES] * count,
            "shard": [name] * count, "shard_bytes": [int(sizes.sum())] * count,
            "shard_sha256": [f"{shard:064x}"] * count, "split": ["train"] * count, "corpus": ["made"] * count,
        }  # fmt: skip
        for field in index.SCHEMA:
            if field.name not in columns:
                columns[field.name] = ["" if pa.types.is_string(field.type) else 0] * count
        yield pa.table({field.name: pa.array(columns[field.name], field.type) for field in index.SCHEMA}, index.SCHEMA)


if __name__ == "__main__":
    if sys.argv[1] == "--process":
        print(json.dumps(process(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])))
    else:
        main()
