"""combine-manifests over a million rows: filtered, searched for leaks, summarised, rewritten, with its report.

usage: python tests/bench/million.py [ROWS]        (1,000,000; pin it to one core: taskset -c 0)

The rows are made up: two corpora, three languages, 50,000 speakers, sentences of random words, some of them too long,
too quiet or said in a test split too. The command is a process of its own; its wall time, CPU time and peak memory are
what the system says of it. A second run gives every row a fingerprint as dense as real speech has them.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import parquet
from manifests.schema import UTTERANCE_SCHEMA

WORDS_PER_S = 2.5
FINGERPRINT_WORDS_PER_S = 8


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print("| manifests | rows | wall s | CPU s | peak GB |\n|---|---|---|---|---|")
    for listened in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            for number, corpus in enumerate(("one", "two")):
                write(Path(folder) / corpus, corpus, rows // 2, listened, np.random.default_rng(number))
            wall_s, cpu_s, peak_gb = run(folder)
        what = "with fingerprints" if listened else "headers only"
        print(f"| {what} | {rows:,} | {wall_s:.1f} | {cpu_s:.1f} | {peak_gb:.2f} |", flush=True)


def write(out: Path, corpus: str, rows: int, listened: bool, rng: np.random.Generator) -> None:
    duration_s = rng.gamma(4.0, 1.5, rows) + 0.05
    ids = pc.binary_join_element_wise(corpus, pa.array(np.arange(rows)).cast(pa.string()), "-")
    letters = np.array(list("abcdefghijklmnoprstuvwy"))
    vocabulary = np.array(["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(20000)])
    counts = np.maximum(1, (duration_s * WORDS_PER_S).astype(int))
    words = pa.array(vocabulary).take(pa.array(rng.zipf(1.3, counts.sum()) % len(vocabulary)))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    text = pc.binary_join(pa.ListArray.from_arrays(offsets, words), " ")
    split = pa.array(np.array(["train", "dev", "test"])[rng.choice(3, rows, p=[0.98, 0.01, 0.01])])
    is_train = pc.equal(split, "train")
    speaker = pc.binary_join_element_wise(
        pc.if_else(is_train, "s", "held"), pa.array(rng.integers(0, 25000, rows)).cast(pa.string()), ""
    )
    columns = {
        "id": ids,
        "corpus": pa.array([corpus] * rows),
        "split": split,
        "language": pa.array(np.array(["en", "de", "es"])[rng.integers(0, 3, rows)]),
        "speaker": speaker,
        "audio": pc.binary_join_element_wise("/nowhere/", ids, ".flac", ""),
        "offset_s": pa.array(np.zeros(rows)),
        "duration_s": pa.array(duration_s),
        "sample_rate": pa.array(np.full(rows, 16000, np.int32)),
        "channels": pa.array(np.ones(rows, np.int32)),
        "text_raw": text,
        "text": text,
        "licence": pa.array(["CC0"] * rows),
        "source": pa.array(["made up"] * rows),
        "channel": pa.array(np.full(rows, -1, np.int32)),
        "dc_offset": pa.array(np.zeros(rows)),
        "gain_db": pa.array(np.zeros(rows)),
        "loudness_lufs": pa.array(rng.normal(-25, 12, rows)) if listened else pa.nulls(rows, pa.float64()),
        "peak_dbfs": pa.array(rng.normal(-6, 3, rows)) if listened else pa.nulls(rows, pa.float64()),
        "clipped_share": pa.array(rng.exponential(0.002, rows)) if listened else pa.nulls(rows, pa.float64()),
        "notes": pa.array([""] * rows),
        "extra": pa.array([""] * rows),
    }
    out.mkdir()
    parquet.write(str(out / parquet.MANIFEST), parquet.in_order(pa.table(columns, schema=UTTERANCE_SCHEMA)))
    if listened:
        write_fingerprints(out, ids, duration_s, rng)


def write_fingerprints(out: Path, ids: pa.Array, duration_s: np.ndarray, rng: np.random.Generator) -> None:
    from pipelines.fingerprint import STEP_S, to_table
    from pipelines.manifest import FINGERPRINTS

    schema = to_table([]).schema
    counts = np.maximum(1, (duration_s * FINGERPRINT_WORDS_PER_S).astype(int))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    gap_steps = 2 / FINGERPRINT_WORDS_PER_S / STEP_S  # on average half of it
    values = {
        "words": rng.integers(0, 2**32, counts.sum(), np.uint32),
        "gaps": rng.integers(0, int(gap_steps), counts.sum(), np.uint32),
    }
    lists = {
        name: pa.ListArray.from_arrays(offsets, pa.array(array), type=schema.field(name).type)
        for name, array in values.items()
    }
    columns = {"id": ids} | lists | {"duration_s": pa.array(duration_s, pa.float32())}
    table = pa.table(columns, schema=schema)
    parquet.write(str(out / FINGERPRINTS), table.sort_by("id"))


def run(folder: str) -> tuple[float, float, float]:
    command = [sys.executable, "-c", "import sys; from pipelines.combine import main; sys.exit(main(sys.argv[1:]))"]
    command += ["--manifest", f"{folder}/one", f"{folder}/two", "--out", f"{folder}/both", "--keep-leaks", "speaker"]
    start_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    return time.monotonic() - start_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
