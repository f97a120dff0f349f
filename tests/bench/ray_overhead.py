"""What Ray costs write-shards on one machine, and what two cores give: --workers 0, 1 and 2 in turn.

usage: python tests/bench/ray_overhead.py HOURS AUDIO...       (two cores, and a quiet machine: wall time counts)

The AUDIO files are listed again and again under other ids until they make HOURS. Start-up lasts until every worker is
there and has made features once; work is the rest of the time that workers are held, until all shards are written.
Listing, index and statistics are the command's own and the same for all.
"""

import contextlib
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import soundfile

from manifests import parquet
from manifests.schema import Utterance
from pipelines import executors, featurize
from pipelines.executors import Run

REPETITIONS = 5
WORKERS = (0, 1, 2)
SHARD_MB = 16
EMPTY_TASKS = 2000
Seconds = dict[tuple[int, str], list[float]]


def main() -> None:
    hours, paths = float(sys.argv[1]), sys.argv[2:]
    seconds: Seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        manifest, out = f"{folder}/manifest", f"{folder}/out"
        rows = listed(paths, hours * 3600)
        parquet.write_utterances(f"{manifest}/{parquet.MANIFEST}", rows)
        for repetition in range(REPETITIONS + 1):  # the first fills the page cache and makes every lazy import
            for workers in WORKERS:
                found = write_shards(manifest, out, workers)
                for what, spent_s in found.items() if repetition else ():
                    seconds.setdefault((workers, what), []).append(spent_s)
                shards = len(list(Path(out).glob("*.tar")))
                shutil.rmtree(out)
    audio_s = sum(row.duration_s for row in rows)
    print(f"{audio_s / 3600:.2f} h in {shards} shards, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors\n")
    print_tables(audio_s, shards, seconds)
    for workers in WORKERS[1:]:
        with started(workers, {}) as run:
            begin_s = time.perf_counter()
            assert len(list(run(nothing, range(EMPTY_TASKS)))) == EMPTY_TASKS
            each_ms = (time.perf_counter() - begin_s) / EMPTY_TASKS * 1000
            print(f"an empty task with {workers} workers: {each_ms:.2f} ms")


def listed(paths: Sequence[str], audio_s: float) -> list[Utterance]:
    """Rows that take the files round and round until they make `audio_s` seconds."""
    rows: list[Utterance] = []
    infos = [soundfile.info(path) for path in paths]
    while sum(row.duration_s for row in rows) < audio_s:
        for path, info in zip(paths, infos, strict=True):
            id_ = f"{Path(path).stem}-{len(rows):06d}"
            uri = str(Path(path).resolve())
            rows.append(Utterance(id_, "bench", "train", "en", "", uri, 0.0, info.duration, info.samplerate,
                                  info.channels, "SAID", "said", "", ""))  # fmt: skip
    return rows


def write_shards(manifest: str, out: str, workers: int) -> dict[str, float]:
    """Seconds of wall time, by what they went to."""
    found: dict[str, float] = {}
    original = featurize.executors.executor
    featurize.executors.executor = lambda workers, address: started(workers, found, original)
    argv = ["--manifest", manifest, "--out", out, "--workers", str(workers), "--shard-size", str(SHARD_MB)]
    begin_s = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            assert featurize.main(argv) == 0
    finally:
        featurize.executors.executor = original
    return found | {"the whole command": time.perf_counter() - begin_s}


@contextlib.contextmanager
def started(workers: int, found: dict[str, float], executor=executors.executor) -> Iterator[Run]:  # type: ignore[no-untyped-def]
    """An executor whose workers have all done something; what that took, and the work after it, goes to `found`."""
    begin_s = time.perf_counter()
    with executor(workers) as run:
        there: set[int] = set()
        while len(there) < workers:
            there |= {pid for _, pid in run(make_features, range(2 * workers))}
        ready_s = time.perf_counter()
        yield run
        done_s = time.perf_counter()
    found["start-up"], found["work"] = ready_s - begin_s, done_s - ready_s
    found["shutdown"] = time.perf_counter() - done_s


def make_features(_: int) -> int:
    from asr.frontend import logmel
    from pipelines.shard_task import write_shard
    from shards.spec import FrontendSpec

    assert callable(write_shard)
    logmel(np.zeros(16000, np.float32), FrontendSpec())
    return os.getpid()


def nothing(_: int) -> None:
    pass


def print_tables(audio_s: float, shards: int, seconds: Seconds) -> None:
    columns = ("start-up", "work", "shutdown", "the whole command")
    print(f"| workers | {' | '.join(f'{c}, s' for c in columns)} | audio-s per s of work |")
    print("|---|" + "---|" * (len(columns) + 1))
    for workers in WORKERS:
        cells = [spread(seconds[workers, column]) for column in columns]
        rates = [audio_s / s for s in seconds[workers, "work"]]
        print(f"| {workers} | {' | '.join(cells)} | {statistics.median(rates):,.0f} |")
    alone, one, two = (seconds[workers, "work"] for workers in WORKERS)
    print("\nratios of work, pair by pair, median (min to max):")
    for what, over, under in (
        ("a worker of Ray against this process", one, alone),
        ("two workers against this process, times as fast", alone, two),
        ("two workers against one, times as fast", one, two),
    ):
        ratios = [a / b for a, b in zip(over, under, strict=True)]
        print(f"- {what}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
