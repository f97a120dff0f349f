"""Opening a shard set, and reading single rows of it; float16 and uint8 as they are written.

usage: python tests/bench/open_shards.py [ROWS]        (1,000,000; pin it to one core: taskset -c 0)

The index is made up: features and audio, 3,300 utterances in a shard, 100 characters of text. Each line of the first
table is a process of its own, with its CPU time without imports and its peak memory: what open_shards does, that and a
pass over the texts, and what reading the whole index would cost. The other tables are medians of 9 rounds in which all
ways take turns, over features of 10 s.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests import parquet
from shards.content import Content, dequantise, halve, quantise
from shards.index import INDEX, SCHEMA, STATS, ShardSet, open_shards, stats_json
from shards.moments import Moments
from shards.reader import Reader
from shards.spec import FrontendSpec
from shards.writer import END, pack

IN_SHARD = 3300
GROUP_ROWS = 1 << 18
MOST_WHOLE = 2_000_000  # rows; 30 million take 20 GB
WAYS = ("open_shards", "open_shards, then all texts", "the whole index")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), rows)
        print("| way | rows | CPU s | peak MB |\n|---|---|---|---|")
        for way in WAYS if rows <= MOST_WHOLE else WAYS[:2]:
            command = [sys.executable, __file__, way, folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"| {way} | {rows:,} | {done.stdout.strip()} |", flush=True)
    kernels()
    single_rows()


def measured(way: str, folder: str) -> None:
    start = time.process_time()
    if way == WAYS[2]:
        parquet.read(f"{folder}/{INDEX}")
    else:
        shards = open_shards(folder)
        if way == WAYS[1]:
            assert sum(map(len, shards.texts())) == len(shards)
    cpu_s = time.process_time() - start
    status = Path("/proc/self/status").read_text()  # getrusage's peak begins with that of the process that forked
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    print(f"{cpu_s:.2f} | {peak_kb / 1024:.0f}")


def write_index(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ", np.uint8)
    moments = Moments.zero(80)
    letters_of_group = rng.choice(letters, 100 * GROUP_ROWS).tobytes().decode()
    texts = [letters_of_group[i : i + 100] for i in range(0, len(letters_of_group), 100)]
    hashes = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(rows // IN_SHARD + 1)]
    with pq.ParquetWriter(folder / INDEX, SCHEMA, compression="zstd") as writer:
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            frames = rng.integers(100, 2000, count).astype(np.int32)
            shard = np.arange(start, start + count) // IN_SHARD
            offsets = np.cumsum(frames.astype(np.int64)) * 320
            values = {
                "id": [f"utterance-{n:08d}" for n in range(start, start + count)],
                "text": texts[:count],
                "shard": [f"train-{n:05d}.tar" for n in shard],
                "shard_sha256": [hashes[n] for n in shard],
                "frames": frames, "feature_length": frames * np.int64(160), "audio_length": frames * np.int64(150),
                "feature_offset": offsets, "audio_offset": offsets + 1, "text_offset": offsets + 2,
                "text_length": np.full(count, 100), "duration_s": frames / 100,
            }  # fmt: skip
            columns = {
                field.name: pa.array(values[field.name], field.type)
                if field.name in values
                else same(field.type, count)
                for field in SCHEMA
            }
            writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=count)
            moments.frames += int(frames.sum())
    stats = stats_json(FrontendSpec(), {"": moments}, Content.named("logmel+audio"))
    (folder / STATS).write_text(json.dumps(stats))


def same(kind: pa.DataType, count: int) -> pa.Array:
    return pa.array([""] * count) if pa.types.is_string(kind) else pa.array(np.zeros(count)).cast(kind)


def features() -> np.ndarray:
    return np.random.default_rng(1).normal(-5, 4, (1000, 80)).astype(np.float32)


def kernels() -> None:
    feats_tf = features()
    coded = quantise(feats_tf)
    ways: dict[str, Callable[[], object]] = {
        "halve": lambda: halve(feats_tf),
        "astype(float16)": lambda: feats_tf.astype(np.float16),
        "quantise": lambda: quantise(feats_tf),
        "dequantise": lambda: dequantise(*coded),
        "Moments.of": lambda: Moments.of(feats_tf),
    }
    print("\n| of 1,000 frames | µs | x real time |\n|---|---|---|")
    for name, seconds in taking_turns(ways, 100).items():
        print(f"| {name} | {seconds * 1e6:.0f} | {10 / seconds:,.0f} |")


def single_rows() -> None:
    count = 400
    order = np.random.default_rng(0).permutation(count).tolist()
    with tempfile.TemporaryDirectory() as folder:
        readers = {name: Reader(write_set(Path(folder) / name, name, count)) for name in ("logmel", "logmel8")}
        ways: dict[str, Callable[[], object]] = {
            "logmel, features": lambda: [readers["logmel"].features(row) for row in order],
            "logmel8, features": lambda: [readers["logmel8"].features(row) for row in order],
            "logmel, text": lambda: [readers["logmel"].text(row) for row in order],
        }
        print("\n| a row of 1,000 frames | µs |\n|---|---|")
        for name, seconds in taking_turns(ways, 1).items():
            print(f"| {name} | {seconds / count * 1e6:.1f} |")


def write_set(folder: Path, name: str, count: int) -> ShardSet:
    """The same utterance `count` times."""
    folder.mkdir()
    packed = pack("a", features(), None, "", "some words", Content.named(name))
    (folder / "train-00000.tar").write_bytes(packed.data * count + END)
    places = [packed.columns(i * len(packed.data)) for i in range(count)]
    columns = {}
    for field in SCHEMA:
        if field.name in places[0]:
            columns[field.name] = pa.array([place[field.name] for place in places], field.type)
        elif field.name in ("frames", "shard"):
            columns[field.name] = pa.array([1000 if field.name == "frames" else "train-00000.tar"] * count, field.type)
        else:
            columns[field.name] = same(field.type, count)
    parquet.write(str(folder / INDEX), pa.table(columns, schema=SCHEMA))
    stats = stats_json(FrontendSpec(), {"": Moments.of(features())}, Content.named(name))
    (folder / STATS).write_text(json.dumps(stats))
    return open_shards(str(folder))


def taking_turns(ways: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Median CPU seconds of one call."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(9):
        for name, way in ways.items():
            start = time.process_time()
            for _ in range(times):
                way()
            found[name].append((time.process_time() - start) / times)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measured(sys.argv[1], sys.argv[2])
    else:
        main()
