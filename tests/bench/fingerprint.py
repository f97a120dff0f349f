"""How fast fingerprints are made and matched, how large they are, which copies they find and what they confuse.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 taskset -c 0 python -m tests.bench.fingerprint SPEECH_FOLDER

Speeds are of CPU time, the median of REPETITIONS, log-mel features by turns with fingerprints. Copies are encoded here.
The million utterances are made up: forty words each, of 2**24 that are not equally frequent, so that two agree as often
as in real speech (once in 2**21.4); one in a hundred is a copy of another that has 45 % of the words.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from asr import audio
from asr.frontend import Floats, logmel
from manifests import parquet
from pipelines import fingerprint, leaks, matching
from pipelines.fingerprint import SAMPLE_RATE, Fingerprint, to_table
from shards.spec import FrontendSpec
from tests.pipelines.test_fingerprint import COPIES, encode

REPETITIONS = 5
LENGTHS_S = ((0, 0.6), (0.6, 1.5), (1.5, 2), (2, 3), (3, 6), (6, 60))
KINDS: dict[str, Callable[[Floats], Floats]] = COPIES | {
    "mp3 at 64 kbit/s and 44.1 kHz": lambda x: encode(x, "libmp3lame", "mp3", 44100, 64000),
    "opus at 12 kbit/s": lambda x: encode(x, "libopus", "webm", 48000, 12000),
}
CORPORA = {  # a pattern, and every how many of its files are copied
    "LibriSpeech/*/*/*/*.flac": 2,
    "CommonVoice/*/*/clips/*.mp3": 5,
    "speechocean762/WAVE/*/*.opus": 30,
    "digits/fsdd/*/*.flac": 25,
}
OTHERS = ("an4/**/*.sph", "LJSpeech-1.1/wavs/*.wav", "other/yesno/*.flac", "other/sentences/*", "other/zh/*")


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)])


def seconds(recordings: list[Floats]) -> float:
    return sum(map(len, recordings)) / SAMPLE_RATE


def speeds(recordings: list[Floats]) -> list[str]:
    """Times real time: fingerprints, and log-mel features of 80 bins every 10 ms."""
    functions = (fingerprint.fingerprint, lambda samples: logmel(samples, FrontendSpec()))
    taken_s: list[list[float]] = [[] for _ in functions]
    for _ in range(REPETITIONS + 1):
        for function, times_s in zip(functions, taken_s, strict=True):
            start_s = time.process_time()
            for samples in recordings:
                function(samples)
            times_s.append(time.process_time() - start_s)
    return [f"{seconds(recordings) / statistics.median(times_s[1:]):,.0f}" for times_s in taken_s]


def file_bytes(prints: list[Fingerprint]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fingerprints.parquet"
        parquet.write(str(path), to_table((f"utterance-{i:08d}", p) for i, p in enumerate(prints)))
        return path.stat().st_size


def corpora(folder: Path) -> Iterator[tuple[str, int, list[Floats]]]:
    for pattern in (*CORPORA, *OTHERS):
        files = [file for file in sorted(folder.glob(pattern)) if file.is_file() and file.suffix != ".txt"]
        yield pattern.partition("/")[0], CORPORA.get(pattern, 10**9), [audio.read(str(file)) for file in files]


def real(folder: Path) -> None:
    originals: list[Floats] = []
    chosen: list[int] = []
    rows = []
    for name, step, recordings in corpora(folder):
        chosen += range(len(originals) + step // 2, len(originals) + len(recordings), step)
        originals += recordings
        if step < 10**9:
            prints = [fingerprint.fingerprint(samples) for samples in recordings]
            size = file_bytes(prints)
            rows.append(
                [name, f"{len(prints):,}", f"{seconds(recordings) / len(prints):.1f}", *speeds(recordings[::5]),
                 f"{sum(len(p.words) for p in prints) / seconds(recordings):.1f}", f"{size / seconds(recordings):.0f}",
                 f"{size / len(prints):.0f}"]
            )  # fmt: skip
    head = ["corpus", "utterances", "mean s", "fingerprint, x real time", "log-mel, x real time", "words/s", "bytes/s"]
    print(table([*head, "bytes/utterance"], rows), "\n")
    copies(originals, chosen)


def copies(originals: list[Floats], chosen: list[int]) -> None:
    """Which of the chosen recordings are found among all by each kind of copy, in per cent by length."""
    prints = [fingerprint.fingerprint(samples) for samples in originals]
    lengths_s = np.array([len(originals[i]) / SAMPLE_RATE for i in chosen])
    bins = [(lengths_s >= low) & (lengths_s < high) for low, high in LENGTHS_S]
    rows, wrong = [], 0
    for kind, copy in KINDS.items():
        copied = [fingerprint.fingerprint(copy(originals[i])) for i in chosen]
        pairs = matching.find_duplicates(to_table((str(i), p) for i, p in enumerate([*prints, *copied])))
        pairs = pairs.take(pairs.second >= len(prints))
        right = pairs.first == np.array(chosen)[pairs.second - len(prints)]
        wrong += int((~right).sum())
        found = np.isin(np.arange(len(chosen)), pairs.second[right] - len(prints))
        rows.append([kind, *(f"{found[some].mean():.0%}" for some in bins)])
    head = [
        "copy",
        *(f"{low:g} to {high:g} s ({some.sum()})" for (low, high), some in zip(LENGTHS_S, bins, strict=True)),
    ]
    print(table(head, rows))
    among = matching.find_duplicates(to_table((str(i), p) for i, p in enumerate(prints)))
    print(f"\nof {len(prints):,} recordings {len(among.first)} pairs were taken for copies, of the copies {wrong}\n")


def made_up(count: int) -> pa.Table:
    rng = np.random.default_rng(0)
    frequency = np.cumsum(np.exp(1.34 * rng.standard_normal(2**24)))
    vocabulary = rng.integers(0, 2**32, 9 * 2**24, dtype=np.uint32)
    vocabulary = vocabulary[~fingerprint.is_fine(vocabulary)][: 2**24]
    frequency = frequency[: len(vocabulary)]
    sizes = rng.poisson(40, count)
    ends = np.cumsum(sizes)
    words = np.empty(ends[-1], np.uint32)
    for start in range(0, len(words), 2**22):
        at = rng.random(min(2**22, len(words) - start)) * frequency[-1]
        words[start : start + len(at)] = vocabulary[np.minimum(np.searchsorted(frequency, at), len(vocabulary) - 1)]
    gaps = rng.geometric(1 / 25, len(words)).astype(np.uint32)
    for i in range(50, count - 60, 100):
        size = min(sizes[i], sizes[i + 50])
        one, other = slice(ends[i] - sizes[i], None), slice(ends[i + 50] - sizes[i + 50], None)
        kept = rng.random(size) < 0.45
        words[other][:size][kept] = words[one][:size][kept]
        gaps[other][:size] = gaps[one][:size]
    starts = pa.array(np.concatenate(([0], ends)).astype(np.int32))
    lists = [
        pa.ListArray.from_arrays(starts, pa.array(a), type=fingerprint.SCHEMA.field(1).type) for a in (words, gaps)
    ]
    ids = pa.array([f"utterance-{i:08d}" for i in range(count)])
    return pa.Table.from_arrays([ids, *lists, pa.array(np.full(count, 5, np.float32))], schema=fingerprint.SCHEMA)


def many(count: int) -> None:
    """Each measured in a process of its own, which reads the file first."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "fingerprints.parquet")
        if not os.fork():
            parquet.write(path, made_up(count))
            os._exit(0)
        os.wait()
        for task in (match_all, leaks_in_all):
            if not (child := os.fork()):
                task(path)
                os._exit(0)
            os.waitpid(child, 0)


def match_all(path: str) -> None:
    prints = parquet.read(path)
    start_s = time.process_time()
    pairs = matching.find_duplicates(prints)
    taken_s = time.process_time() - start_s
    planted = np.arange(50, len(prints) - 60, 100)
    found = np.isin(planted, pairs.first[pairs.second - pairs.first == 50]).mean()
    print(
        f"{len(prints):,} fingerprints, {Path(path).stat().st_size / 1e6:,.0f} MB, matched in {taken_s:.0f} s, {peak()}"
    )
    print(f"{found:.0%} of the copies found and {(pairs.second - pairs.first != 50).sum()} other pairs", flush=True)


def leaks_in_all(path: str) -> None:
    rng, count = np.random.default_rng(0), len(parquet.read(path))
    words = np.array(["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(20_000)])
    texts = [" ".join(words[rng.integers(0, len(words), n)]) for n in rng.integers(1, 15, count // 2)] * 2
    splits = np.array(["train", "validated", "dev", "test"])[np.maximum(0, rng.integers(-60, 4, count))]
    rows = pa.table(
        {"id": [f"utterance-{i:08d}" for i in range(count)], "corpus": np.array(["a", "b"])[rng.integers(0, 2, count)],
         "split": splits, "language": ["en"] * count, "speaker": [f"s{i}" for i in rng.integers(0, count // 5, count)],
         "duration_s": rng.uniform(1, 9, count), "text": texts}
    )  # fmt: skip
    start_s = time.process_time()
    found = leaks.find(rows, to_table([]))
    told = ", ".join(f"{f.utterances:,} {f.what}" for f in found.findings)
    print(
        f"{count:,} rows: texts and speakers compared in {time.process_time() - start_s:.1f} s, {peak()}; {told}",
        flush=True,
    )


def peak() -> str:
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB in all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of corpora that the tests use")
    parser.add_argument("--utterances", type=int, default=1_000_000, help="made-up ones (default: %(default)s)")
    args = parser.parse_args()
    many(args.utterances)
    print()
    real(args.folder)


if __name__ == "__main__":
    main()
