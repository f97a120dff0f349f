"""Times the reading of shards from an S3 server on loopback: with faults and without, and obstore alone.

usage: python -m tests.bench.remote [FOLDER]

The server (moto) runs behind proxies, in a process of their own. FOLDER (else /dev/shm) takes what is fetched. All
sides run in turn, and ratios are of two that ran in one turn. Each reads all of the shards, 60 of 5 MB: moto copies a
whole object for each request of a part of it, and with larger ones the time is moto's.

faults: none; "few": of 50 requests one is cut in the middle and one is answered with 500 or 503; "many": the connection
ends after every 8 MB of answers, and of 25 requests one is answered with 500 or 503
obstore: the bytes of each shard in memory, one after the other, with obstore's own retries; no byte is verified
fetch: manifests.transfer.fetch, one after the other: a local file, verified by its SHA-256
cache: shards.cache.Cache with prefetching, and its local files
"""

import contextlib
import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import from_url

from manifests import storage, transfer
from shards.cache import Cache
from tests.faulty_proxy import Faults, FaultyProxy, environment, s3_server

REPETITIONS = 15
SHARDS = 60
SHARD_BYTES = 5_000_000
FAULTS = {
    "none": Faults(),
    "few": Faults(cut_every=50, error_every=50),
    "many": Faults(cut_mb=8.0, error_every=25),
}


@dataclass(frozen=True, slots=True)
class File:
    url: str
    size_bytes: int
    sha256: str


def serve() -> None:
    """Print the addresses of the proxies by their faults; then, for each name of one that is read, its counts."""
    with s3_server("bench") as url, contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(FaultyProxy(url, faults)) for name, faults in FAULTS.items()}
        print(json.dumps({name: proxy.url for name, proxy in proxies.items()}), flush=True)
        for name in sys.stdin:
            counts = proxies[name.strip()].counts
            print(json.dumps(counts), flush=True)
            for kind in ("cut", "error", "bytes"):  # not the requests, which the schedule goes by
                counts.pop(kind, None)


def by_obstore(files: list[File], folder: Path) -> int:
    store = from_url("s3://bench")
    return sum(len(obstore.get(store, storage.name(file.url)).bytes()) for file in files)


def by_fetch(files: list[File], folder: Path) -> int:
    retries: list[str] = []
    for file in files:
        path = folder / storage.name(file.url)
        transfer.fetch(file.url, str(path), file.size_bytes, file.sha256, retries.append)
    return sum(path.stat().st_size for path in folder.iterdir())


def by_cache(files: list[File], folder: Path) -> int:
    cache = Cache(str(folder))
    cache.prefetch(files)
    total = sum(os.path.getsize(cache.path(file)) for file in files)
    cache.close()
    return total


SIDES = {"obstore": by_obstore, "fetch": by_fetch, "cache": by_cache}


def timed(read: Callable[[list[File], Path], int], files: list[File], folder: Path, url: str) -> float:
    os.environ.update(environment(url) | {"AWS_ALLOW_HTTP": "true"})
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        begin = time.perf_counter()
        assert read(files, Path(inner)) == SHARDS * SHARD_BYTES
        return time.perf_counter() - begin


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/dev/shm")
    argv = [sys.executable, "-m", "tests.bench.remote", "--serve"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        urls = json.loads(server.stdout.readline())
        files = uploaded(urls["none"])
        times: dict[tuple[str, str], list[float]] = {}
        faults: dict[tuple[str, str], list[int]] = {}
        for _ in range(REPETITIONS):
            for side in itertools.product(SIDES, FAULTS):
                times.setdefault(side, []).append(timed(SIDES[side[0]], files, folder, urls[side[1]]))
                print(side[1], file=server.stdin, flush=True)
                told = json.loads(server.stdout.readline())
                faults.setdefault(side, []).append(told.get("cut", 0) + told.get("error", 0))
        server.stdin.close()
    for side, values in times.items():
        median = statistics.median(values)
        ratio = statistics.median(a / b for a, b in zip(values, times[side[0], "none"], strict=True))
        text = (
            f"{median:.3f} s ({min(values):.3f} to {max(values):.3f}), {SHARDS * SHARD_BYTES / median / 1e6:,.0f} MB/s"
        )
        print(f"{side[0]:8} {side[1]:5} {text}, x {ratio:.2f}, {statistics.median(faults[side]):.0f} faults")
    ratios = (a / b for a, b in zip(times["fetch", "none"], times["obstore", "none"], strict=True))
    print(f"fetch to obstore, both without faults: x {statistics.median(ratios):.2f}")


def uploaded(url: str) -> list[File]:
    os.environ.update(environment(url))
    files = []
    for number in range(SHARDS):
        data = random.Random(number).randbytes(SHARD_BYTES)
        files.append(File(f"s3://bench/{number}.tar", SHARD_BYTES, hashlib.sha256(data).hexdigest()))
        storage.write_bytes(files[-1].url, data)
    return files


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
