"""Times the report of a manifest of many rows, and the memory it takes beside the table.

    OMP_NUM_THREADS=1 taskset -c 0 python -m tests.bench.report [ROWS]

The rows are made up: an English and a Chinese corpus in three splits, 25,000 speakers, sentences of a vocabulary of
60,000 words in Zipf's proportions, a remark on each tenth, accents and genders. Their audio is not there.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import storage
from manifests.schema import DROPPED_SCHEMA, UTTERANCE_SCHEMA
from pipelines import report


def words(rng: np.random.Generator, count: int) -> pa.Array:
    """Distinct pseudo-words of 2 to 12 letters, the frequent ones short."""
    letters = rng.choice(list("etaoinshrdlucmfwygpbvkxjqz"), (count, 12), p=_falling(26))
    lengths = np.clip(rng.poisson(2 + np.log1p(np.arange(count)) / 2), 2, 12)
    return pa.array(["".join(row[:n]) for row, n in zip(letters, lengths, strict=True)])


def _falling(count: int) -> np.ndarray:
    weights = 1 / (np.arange(count) + 2.7)
    return weights / weights.sum()


def sentences(rng: np.random.Generator, rows: int, vocabulary: pa.Array, separator: str) -> pa.Array:
    lengths = np.clip(rng.poisson(10, rows), 1, None)
    picked = np.searchsorted(np.cumsum(_falling(len(vocabulary))), rng.random(lengths.sum()))
    tokens = vocabulary.take(pa.array(np.minimum(picked, len(vocabulary) - 1)))
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(ends, tokens), separator)


def pick(rng: np.random.Generator, rows: int, values: list[str], shares: list[float]) -> pa.Array:
    return pa.array(values).take(pa.array(rng.choice(len(values), rows, p=shares)))


def make(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    chinese = rows // 10
    han = pa.array([chr(0x4E00 + i) for i in range(4000)])
    text = pa.concat_arrays([sentences(rng, rows - chinese, words(rng, 60_000), " "), sentences(rng, chinese, han, "")])
    numbers = pa.array(np.arange(rows)).cast(pa.string())
    language = np.where(np.arange(rows) < rows - chinese, "en", "zh-CN")
    join = pc.binary_join_element_wise
    columns = {
        "id": join("utterance", numbers, "-"),
        "corpus": np.where(language == "en", "librispeech", "commonvoice"),
        "split": pick(rng, rows, ["train", "dev", "test"], [0.9, 0.05, 0.05]),
        "language": language,
        "speaker": pa.array(np.minimum(rng.geometric(1 / 5000, rows), 25_000)).cast(pa.string()),
        "audio": join("/data/corpus/part/of/it/utterance-", numbers, ".flac", ""),
        "offset_s": np.zeros(rows),
        "duration_s": np.clip(rng.gamma(4, 1.5, rows), 0.3, 35),
        "sample_rate": np.full(rows, 16000, np.int32),
        "channels": np.ones(rows, np.int32),
        "text_raw": text,
        "text": text,
        "licence": pick(rng, rows, ["CC BY 4.0", "CC0-1.0"], [0.9, 0.1]),
        "source": pick(rng, rows, ["https://www.openslr.org/12", "https://commonvoice.mozilla.org"], [0.9, 0.1]),
        "channel": np.full(rows, -1, np.int32),
        "dc_offset": np.zeros(rows),
        "gain_db": np.zeros(rows),
        "loudness_lufs": rng.normal(-25, 5, rows),
        "peak_dbfs": rng.normal(-6, 3, rows),
        "clipped_share": np.where(rng.random(rows) < 0.01, rng.random(rows) * 0.01, 0.0),
        "notes": pick(rng, rows, ["", "offset of +0.0123 taken out"], [0.9, 0.1]),
        "extra": join('{"clip": "', numbers, '", "accent": "', pick(rng, rows, ["us", "gb"], [0.7, 0.3]), '"}', ""),
    }
    return pa.table(columns, schema=UTTERANCE_SCHEMA)


def lost(table: pa.Table, rows: int) -> pa.Table:
    part = table.slice(0, rows)
    kept = {name: part[name] for name in ("id", "corpus", "split", "audio", "duration_s", "text_raw")}
    reasons = np.resize(["undecodable", "unknown characters", "too long"], rows)
    return pa.table(kept | {"reason": reasons, "detail": part["id"]}, schema=DROPPED_SCHEMA)


def held_mb() -> float:
    """What the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    rows = parser.parse_args().rows
    table = make(rows)
    dropped = lost(table, rows // 20)
    pa.default_memory_pool().release_unused()
    before_mb = held_mb()
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        report.write(folder, table, dropped, None, "A benchmark", "python -m tests.bench.report")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = storage.size_bytes(storage.join(folder, "report.html"))
    print(f"| rows | table | CPU s | wall s | held before | peak | page |\n|{'---|' * 7}")
    print(
        f"| {rows:,} | {table.nbytes / 2**20:,.0f} MB | {cpu:.1f} | {wall:.1f} | {before_mb:,.0f} MB | "
        f"{peak_mb():,.0f} MB | {size / 2**20:.2f} MB |"
    )


if __name__ == "__main__":
    main()
