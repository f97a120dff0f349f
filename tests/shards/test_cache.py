"""The cache of shards, between a real S3 server behind a failing proxy and a real folder, with several processes."""

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.missing import Missing
from manifests import remote, storage, storefaults
from shards.cache import Cache
from shards.index import ShardFile
from tests.faulty_proxy import Fault, Faults, FaultyProxy, environment, s3_server, until

ROOT = Path(__file__).resolve().parents[2]
SIZE = 400_000


@dataclass(frozen=True, slots=True)
class File:
    """As much of shards.index.ShardFile as the cache looks at."""

    url: str
    size_bytes: int
    sha256: str


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[File]]]:
    """A server with six shards."""
    with s3_server("cached") as url, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(url).items():
            patch.setenv(name, value)
        files = []
        for number in range(6):
            data = random.Random(number).randbytes(SIZE)
            files.append(File(f"s3://cached/a-{number}.tar", SIZE, hashlib.sha256(data).hexdigest()))
            storage.write_bytes(files[-1].url, data)
        yield url, files


@pytest.fixture
def files(server: tuple[str, list[File]]) -> list[File]:
    return server[1]


@pytest.fixture
def proxy(server: tuple[str, list[File]], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(storefaults, "PAUSE_S", 0.001)
    with FaultyProxy(server[0]) as proxy:
        for name, value in environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


def got(cache: Cache, file: File) -> None:
    """Ask for a shard, and check its bytes."""
    assert hashlib.sha256(Path(cache.path(file)).read_bytes()).hexdigest() == file.sha256


def kept(folder: Path, files: list[File]) -> list[int]:
    """Which of the shards lie in the folder; nothing else does."""
    there = {path.name for path in folder.rglob("*") if path.is_file()}
    names = [f"{file.sha256}.tar" for file in files]
    assert there <= set(names)
    return [number for number, name in enumerate(names) if name in there]


def test_a_shard_is_fetched_once_and_whole_through_faults(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    proxy.faults = Faults(cut_every=2, error_every=3)
    cache = Cache(str(tmp_path))
    for file in files * 2:
        got(cache, file)
    assert kept(tmp_path, files) == [0, 1, 2, 3, 4, 5]
    assert cache.retries == proxy.counts["cut"] + proxy.counts["error"] > 5
    assert proxy.counts["bytes"] < 6 * SIZE + proxy.counts["cut"] * SIZE
    requests = proxy.counts["requests"]
    got(Cache(str(tmp_path)), files[0])
    assert proxy.counts["requests"] == requests


def test_the_one_used_least_recently_goes_first_and_its_readers_do_not_notice(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    cache = Cache(str(tmp_path), 3 * SIZE + 10)
    for file in files[:3]:
        got(cache, file)
    mapped = storage.memory_map(cache.path(files[1]))
    got(cache, files[0])
    got(cache, files[3])
    assert kept(tmp_path, files) == [0, 1, 3]
    got(cache, files[4])
    assert kept(tmp_path, files) == [0, 3, 4]
    assert hashlib.sha256(mapped).hexdigest() == files[1].sha256
    got(cache, files[1])
    assert kept(tmp_path, files) == [1, 3, 4]


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.integers(0, 5), max_size=12), room=st.integers(1, 4))
def test_any_order_of_asking_leaves_the_last_ones_asked_for(
    files: list[File], tmp_path_factory: pytest.TempPathFactory, proxy: FaultyProxy, asked: list[int], room: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = Cache(str(folder), room * SIZE)
    last: list[int] = []
    for number in asked:
        got(cache, files[number])
        last = [n for n in last if n != number] + [number]
    assert kept(folder, files) == sorted(last[-room:])


def test_a_limit_below_one_shard_is_refused(files: list[File], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"399999 bytes, less than the {SIZE} of the one shard s3://cached/a-0\.tar"):
        Cache(str(tmp_path), SIZE - 1).path(files[0])
    with pytest.raises(ValueError, match="has no SHA-256"):
        Cache(str(tmp_path)).path(File(files[0].url, SIZE, "../../etc/passwd"))
    with pytest.raises(ValueError, match="s3://bucket/x: a cache is a folder on this machine"):
        Cache("s3://bucket/x")


def test_the_folder_is_that_of_the_environment(
    files: list[File], tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHMILL_CACHE", str(tmp_path / "here"))
    assert Cache().path(files[0]).startswith(f"{tmp_path}/here/{files[0].sha256[:2]}/")
    monkeypatch.delenv("SPEECHMILL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Cache().folder == f"{tmp_path}/home/.cache/speechmill"


def test_a_cached_file_of_the_wrong_length_is_fetched_anew(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    cache = Cache(str(tmp_path))
    path = Path(cache.path(files[0]))
    for damaged in (path.read_bytes()[:-1], path.read_bytes() + b"x", b""):
        path.write_bytes(damaged)
        got(cache, files[0])
    assert kept(tmp_path, files) == [0]


FETCHES = """
import sys
from dataclasses import dataclass
from shards.cache import Cache
from tests.shards.test_cache import File
folder, limit, *rest = sys.argv[1:]
cache = Cache(folder, int(limit))
for url, size, sha256 in zip(rest[::3], rest[1::3], rest[2::3]):
    cache.path(File(url, int(size), sha256))
"""


def fetching(folder: Path, limit: int, files: list[File]) -> "subprocess.Popen[bytes]":
    """A process that asks for these shards."""
    rest = [text for file in files for text in (file.url, str(file.size_bytes), file.sha256)]
    return subprocess.Popen([sys.executable, "-c", FETCHES, str(folder), str(limit), *rest], cwd=ROOT)


def test_processes_that_want_the_same_shards_fetch_each_once(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    proxy.faults = Faults(delay_s=0.01)
    with fetching(tmp_path, 10 * SIZE, files) as one, fetching(tmp_path, 10 * SIZE, files[::-1]) as two:
        assert (one.wait(60), two.wait(60)) == (0, 0)
    assert kept(tmp_path, files) == [0, 1, 2, 3, 4, 5]
    assert proxy.counts["bytes"] == 6 * SIZE


def test_processes_with_room_for_one_shard_both_come_to_their_end(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    with fetching(tmp_path, SIZE, files * 3) as one, fetching(tmp_path, SIZE, files[::-1] * 3) as two:
        assert (one.wait(60), two.wait(60)) == (0, 0)
    left = kept(tmp_path, files)
    assert len(left) <= 2
    another = min({0, 1, 2} - set(left))
    got(Cache(str(tmp_path), SIZE), files[another])
    assert kept(tmp_path, files) == [another]


def test_a_killed_fetch_is_continued_or_its_room_is_taken(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    for number in (0, 1):
        proxy.queue.append(Fault("stall", 0.8))
        with fetching(tmp_path, 2 * SIZE, files[number : number + 1]) as killed:
            proxy.wait_for("stall", number + 1)
            until(lambda number=number: part(tmp_path, files[number]).stat().st_size == int(SIZE * 0.8))
            with pytest.raises(BlockingIOError), storage.open_locked(str(part(tmp_path, files[number])), wait=False):
                pass
            killed.kill()
    proxy.counts.clear()
    cache = Cache(str(tmp_path), 2 * SIZE)
    got(cache, files[1])
    assert proxy.counts["bytes"] == SIZE - int(SIZE * 0.8)
    got(cache, files[2])
    assert kept(tmp_path, files) == [1, 2]


def part(folder: Path, file: File) -> Path:
    return folder / file.sha256[:2] / f"{file.sha256}.tar.{SIZE}.part"


def test_what_is_prefetched_comes_in_order_and_is_not_fetched_again(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    proxy.faults = Faults(cut_every=3)
    cache = Cache(str(tmp_path))
    cache.prefetch(files)
    for file in files:
        got(cache, file)
    cache.close()
    assert cache.retries == proxy.counts["cut"] > 0
    assert kept(tmp_path, files) == [0, 1, 2, 3, 4, 5]
    assert proxy.counts["requests"] == 6 + proxy.counts["cut"]


def test_prefetching_is_ahead_by_half_of_the_limit_and_goes_on_as_shards_are_used(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    cache = Cache(str(tmp_path), 4 * SIZE)
    cache.prefetch(files)
    until(lambda: whole(tmp_path, files) == [0, 1])
    for number in range(6):
        got(cache, files[number])
        there = list(range(number + 1, 6))[:2]
        until(lambda there=there: set(there) <= set(whole(tmp_path, files)))
        assert not set(range(number + 3, 6)) & set(whole(tmp_path, files))
    cache.close()
    assert proxy.counts["requests"] == 6


def test_shards_that_are_there_take_nothing_of_the_room_for_prefetching(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    """Their reader has them open, and asks for them no more."""
    cache = Cache(str(tmp_path), 4 * SIZE)
    for file in files[:2]:
        got(cache, file)
    cache.prefetch(files)
    until(lambda: whole(tmp_path, files) == [0, 1, 2, 3])
    cache.close()


def whole(folder: Path, files: list[File]) -> list[int]:
    """Which shards are there, beside some that are coming."""
    return [n for n, file in enumerate(files) if (folder / file.sha256[:2] / f"{file.sha256}.tar").exists()]


def test_an_error_of_prefetching_is_raised_for_its_file_only(
    files: list[File], tmp_path: Path, proxy: FaultyProxy
) -> None:
    missing = File("s3://cached/none.tar", SIZE, "0" * 64)
    wrong = File(files[1].url, SIZE, "1" * 64)
    cache = Cache(str(tmp_path))
    cache.prefetch([files[0], missing, wrong, files[2]])
    got(cache, files[0])
    with pytest.raises(FileNotFoundError, match=r"^s3://cached/none\.tar: there is no such file$"):
        cache.path(missing)
    with pytest.raises(OSError, match=rf"^s3://cached/a-1\.tar: has the SHA-256 {files[1].sha256}, and not 1111"):
        cache.path(wrong)
    got(cache, files[2])
    cache.close()


def test_closing_ends_a_prefetch_in_the_middle(
    files: list[File], tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STALL_S", 0.3)
    proxy.queue.append(Fault("stall"))
    cache = Cache(str(tmp_path))
    cache.prefetch(files[:1])
    proxy.wait_for("stall")
    until(lambda: part(tmp_path, files[0]).stat().st_size == SIZE // 2)
    cache.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetches ahead")]
    got(Cache(str(tmp_path)), files[0])
    assert proxy.counts["bytes"] == SIZE


ENDS_AT_ONCE = """
import sys
from shards.cache import Cache
from tests.shards.test_cache import File
cache = Cache(sys.argv[1])
cache.prefetch([File(sys.argv[2], int(sys.argv[3]), sys.argv[4])])
"""


def test_a_process_may_end_while_it_prefetches(files: list[File], tmp_path: Path, proxy: FaultyProxy) -> None:
    argv = [sys.executable, "-c", ENDS_AT_ONCE, str(tmp_path), files[0].url, str(SIZE), files[0].sha256]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Room for three shards."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={3 * SIZE + 100_000}"
    mounted = (
        os.getuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_old_shards_and_is_named_when_there_are_none(
    files: list[File], small_disk: Path, proxy: FaultyProxy
) -> None:
    cache = Cache(str(small_disk / "cache"))
    for file in files[:5]:
        got(cache, file)
    assert kept(small_disk / "cache", files) == [2, 3, 4]
    full = Cache(str(small_disk / "other"))
    with pytest.raises(OSError, match=r"the disk is full, .* for s3://cached/a-5\.tar; free some space") as told:
        full.path(files[5])
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(small_disk / "other"))
    missing = Missing([ShardFile(files[5].url, SIZE, files[5].sha256)], allowed=1)
    with pytest.raises(OSError, match="the disk is full"):  # of this machine: the shard is not missing
        missing.add(0, told.value)
    assert not missing.lost.any()
    assert kept(small_disk / "other", files) == []
