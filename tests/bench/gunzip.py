"""Times gunzip implementations, and archive.receive (gunzip, SHA-256, index, write) against the fastest of them.

usage: python tests/bench/gunzip.py SPEECH_DATA     (pip install isal deflate rapidgzip first)

SPEECH_DATA is a folder with LibriSpeech and CommonVoice in it. Two .tar.gz of gzip level 6 are made: `speech`, the
FLACs of LibriSpeech again and again, and `text`, the tables of Common Voice joined to one, likewise; a copy is farther
from the one before it than the 32 kB that gzip looks back. All sides run in turn in one process. The first tables throw
the bytes away, the others write to /dev/shm, and the last ones use two cores, the second one for the hash: their wall
time counts only where no other process ran beside it, which on a busy machine takes a while.
"""

import contextlib
import gzip
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deflate
import rapidgzip
from isal import igzip, isal_zlib
from zlib_ng import gzip_ng, zlib_ng

from manifests import archive

REPETITIONS = 7
CHUNK_BYTES = 1 << 20
TAR_BYTES = 150_000_000
QUIET_S = 0.025
Gunzip = Callable[[bytes], int]


def chunks(packed: bytes, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    for start in range(0, len(packed), size):
        yield packed[start : start + size]


def through_file(opened: Callable[[io.BytesIO], Any]) -> Gunzip:
    """As a file object that is read piece by piece."""

    def run(packed: bytes) -> int:
        count = 0
        with opened(io.BytesIO(packed)) as file:
            while piece := file.read(CHUNK_BYTES):
                count += len(piece)
        return count

    return run


def through_object(module: Any) -> Gunzip:
    """As a decompression object that is fed chunks of 64 kB; with larger ones some are slower by half."""

    def run(packed: bytes) -> int:
        one = module.decompressobj(wbits=31)
        return sum(len(one.decompress(chunk)) for chunk in chunks(packed, 64 << 10))

    return run


SIDES: dict[str, Gunzip] = {
    "zlib, object": through_object(zlib),
    "gzip.GzipFile": through_file(lambda f: gzip.GzipFile(fileobj=f)),
    "zlib-ng, object": through_object(zlib_ng),
    "zlib_ng.gzip_ng.GzipNGFile": through_file(lambda f: gzip_ng.GzipNGFile(fileobj=f, mode="rb")),
    "isal, object": through_object(isal_zlib),
    "isal.igzip.IGzipFile": through_file(lambda f: igzip.IGzipFile(fileobj=f, mode="rb")),
    "deflate (libdeflate), all in memory": lambda packed: len(deflate.gzip_decompress(packed)),
    "rapidgzip, 1 thread": through_file(lambda f: rapidgzip.RapidgzipFile(f, parallelization=1)),
}


def main() -> None:
    root = Path(sys.argv[1])
    flacs = [(path.name, path.read_bytes()) for path in sorted((root / "LibriSpeech").rglob("*.flac"))]
    tables = b"".join(path.read_bytes() for path in sorted((root / "CommonVoice").rglob("*.tsv")))
    materials = {"speech": material(flacs), "text": material([("validated.tsv", tables)])}
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores[:1])
    for name, (packed, tar_bytes) in materials.items():
        print(f"\n{name}: {len(packed) / 1e6:.0f} MB, {tar_bytes / 1e6:.0f} MB of tar, CPU time\n")
        table(SIDES, packed, tar_bytes, time.process_time)
    for what, used, clock in (
        ("CPU time", cores[:1], time.process_time),
        ("two cores, wall time", cores, time.monotonic),
    ):
        os.sched_setaffinity(0, used)
        for name, (packed, tar_bytes) in materials.items():
            print(f"\n{name}, to a file, {what}\n")
            with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
                table(written(Path(folder)), packed, tar_bytes, clock, Path(folder))


def material(files: list[tuple[str, bytes]]) -> tuple[bytes, int]:
    """A .tar.gz, and how long the tar is."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        copy = 0
        while plain.tell() < TAR_BYTES:
            for name, content in files:
                member = tarfile.TarInfo(f"{copy}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            copy += 1
    return gzip.compress(plain.getvalue(), compresslevel=6), len(plain.getvalue())


def written(folder: Path) -> dict[str, Gunzip]:
    """Plain gunzip by the same library, and ours."""

    def to_file(packed: bytes) -> int:
        with gzip_ng.GzipNGFile(fileobj=io.BytesIO(packed), mode="rb") as file, (folder / "a").open("wb") as out:
            while piece := file.read(CHUNK_BYTES):
                out.write(piece)
            return out.tell()

    def ours(packed: bytes) -> int:
        tar = str(folder / "a.tar")
        return archive.receive(chunks(packed), tar, name="a", size_bytes=None, sha256=None, md5=None).tar_bytes

    return {"plain gunzip": to_file, "archive.receive: gunzip, SHA-256, index": ours}


def table(
    sides: dict[str, Gunzip], packed: bytes, tar_bytes: int, clock: Callable[[], float], folder: Path | None = None
) -> None:
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repetition in range(REPETITIONS + 1):
        for side, run in sides.items():
            took = timed(run, packed, tar_bytes, clock, folder)
            if repetition:  # the first round warms imports and caches
                seconds[side].append(took)
    best = min(statistics.median(found) for found in seconds.values())
    print("| side | MB of tar per s, median | min to max | of the fastest |\n|---|---|---|---|")
    for side, found in seconds.items():
        median, low, high = (tar_bytes / 1e6 / x for x in (statistics.median(found), max(found), min(found)))
        print(f"| {side} | {median:,.0f} | {low:,.0f} to {high:,.0f} | {best / statistics.median(found):.0%} |")


def timed(run: Gunzip, packed: bytes, tar_bytes: int, clock: Callable[[], float], folder: Path | None) -> float:
    while True:
        for left in folder.iterdir() if folder else []:
            left.unlink()
        others_begin_s, start = others_s(), clock()
        assert run(packed) == tar_bytes
        took = clock() - start
        if clock is not time.monotonic or others_s() - others_begin_s <= QUIET_S:
            return took
        time.sleep(0.2)


def others_s() -> float:
    """CPU time of all other processes, to the 10 ms that Linux counts in."""
    user, nice, system, *_ = (int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:5])
    ours = os.times()
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - ours.user - ours.system


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
