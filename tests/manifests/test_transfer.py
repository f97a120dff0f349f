"""Whole objects as local files, from a real S3 server behind a proxy that fails, and from plain web servers."""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests import remote, storage, storefaults, transfer
from tests.faulty_proxy import BLOCK_BYTES, Fault, Faults, FaultyProxy, environment, s3_server, until

ROOT = Path(__file__).resolve().parents[2]
DATA = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("transfers") as url:
        yield url


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The store is reached through it; pauses are short."""
    monkeypatch.setattr(storefaults, "PAUSE_S", 0.001)
    with FaultyProxy(server) as proxy:
        for name, value in environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def url(tmp_path: Path, proxy: FaultyProxy) -> str:
    """An object of DATA."""
    url = f"s3://transfers/{tmp_path.name}/a.tar"
    storage.write_bytes(url, DATA)
    proxy.counts.clear()
    return url


def fetched(url: str, path: Path, size_bytes: int | None = len(DATA), sha256: str | None = SHA256) -> list[str]:
    """Fetch, check the bytes and that nothing else is left; the retries' reasons."""
    reasons: list[str] = []
    transfer.fetch(url, str(path), size_bytes, sha256, reasons.append)
    assert path.read_bytes() == DATA
    assert list(path.parent.iterdir()) == [path]
    return reasons


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("cut", 0.3), "the connection was cut"),
        (Fault("cut", 0.3, reset=True), "the connection was cut"),
        (Fault("lost"), "the connection was cut"),
        (Fault("error", status=500), "the server answers 500 (InternalError)"),
        (Fault("error", status=503), "the server answers 503 (SlowDown)"),
        (Fault("error", status=429), "the server answers 429 (Error)"),
    ],
)
def test_what_breaks_is_continued_at_the_byte_and_told(
    url: str, tmp_path: Path, proxy: FaultyProxy, fault: Fault, reason: str
) -> None:
    proxy.queue.extend([fault, fault])
    before = remote.retries()
    reasons = fetched(url, tmp_path / "out" / "a.tar")
    assert [text.startswith(f"{url}: {reason}") for text in reasons] == [True, True], reasons
    assert remote.retries() == before + 2
    assert proxy.counts["requests"] == 3
    if not fault.reset:  # with a reset the kernel throws away what it has received
        assert proxy.counts["bytes"] < len(DATA) + 2 * BLOCK_BYTES


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(3, 6),
    error=st.integers(3, 6),
    lost=st.integers(0, 4),
    mb=st.floats(0.5, 2.0),
    seed=st.integers(0, 99),
)
def test_under_any_mixture_of_faults_every_byte_is_right(
    url: str, tmp_path: Path, proxy: FaultyProxy, cut: int, error: int, lost: int, mb: float, seed: int
) -> None:
    proxy.faults = Faults(cut_every=cut, error_every=error, lost_every=lost and lost + 3, cut_mb=mb, seed=seed)
    path = tmp_path / "out" / "a.tar"
    path.unlink(missing_ok=True)
    fetched(url, path)
    assert storage.read_bytes(url) == DATA
    assert storage.read_range(url, 1_000_001, 1_500_000) == DATA[1_000_001:2_500_001]
    with storage.open_read(url) as file:
        file.seek(-100, os.SEEK_END)
        assert file.read() == DATA[-100:]
        file.seek(0)
        assert file.read() == DATA


def test_a_stalled_transfer_goes_on(
    url: str, tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STALL_S", 0.2)
    proxy.queue.append(Fault("stall"))
    assert fetched(url, tmp_path / "out" / "a.tar") == [
        f"{url}: nothing came for too long at {proxy.url} (AWS_ENDPOINT_URL)"
    ]


def test_a_server_that_brings_nothing_is_given_up_and_what_came_is_used_later(
    url: str, tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storefaults, "TRIES", 3)
    proxy.queue.extend([Fault("cut", 0.9), *[Fault("error")] * 2])
    with pytest.raises(OSError, match=r"a\.tar: the server answers 503 \(SlowDown\); gave up after 3 tries$"):
        fetched(url, tmp_path / "out" / "a.tar")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"a.tar.{len(DATA)}.part"]
    proxy.counts.clear()
    assert fetched(url, tmp_path / "out" / "a.tar") == []
    assert proxy.counts["bytes"] < 0.2 * len(DATA)


def test_progress_ends_the_row_of_failures(url: str, tmp_path: Path, proxy: FaultyProxy) -> None:
    """A connection that brings a little each time is never given up."""
    proxy.faults = Faults(cut_mb=0.05)
    assert len(fetched(url, tmp_path / "out" / "a.tar")) > 2 * storefaults.TRIES > 10


def test_a_flipped_byte_is_fetched_again_and_a_wrong_file_is_refused(
    url: str, tmp_path: Path, proxy: FaultyProxy
) -> None:
    proxy.queue.append(Fault("flip"))
    (reason,) = fetched(url, tmp_path / "out" / "a.tar")
    assert SHA256 in reason and "SHA-256" in reason
    proxy.queue.extend([Fault("flip", 0.1), Fault("flip", 0.2)])
    path = tmp_path / "other" / "a.tar"
    with pytest.raises(OSError, match=rf"a\.tar: has the SHA-256 \w{{64}}, and not {SHA256}$"):
        fetched(url, path)
    assert list(path.parent.iterdir()) == []
    with pytest.raises(OSError, match=r"has 3000000 bytes, and not 3000001; it is another file now"):
        fetched(url, path, len(DATA) + 1)
    with pytest.raises(OSError, match=r"has 3000000 bytes, and not 2999999"):
        fetched(url, path, len(DATA) - 1)
    with pytest.raises(FileNotFoundError, match=r"b\.tar: there is no such file"):
        fetched(url.replace("a.tar", "b.tar"), path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("known", [True, False])
def test_an_object_that_is_replaced_meanwhile_is_never_mixed(
    url: str, tmp_path: Path, proxy: FaultyProxy, known: bool
) -> None:
    other = bytes(len(DATA))
    replaced: list[str] = []

    def on_retry(reason: str) -> None:
        if not replaced:
            storage.write_bytes(url, other)
        replaced.append(reason)

    proxy.queue.append(Fault("cut"))
    sha256 = hashlib.sha256(other).hexdigest() if known else None
    transfer.fetch(url, str(tmp_path / "a.tar"), None, sha256, on_retry)
    assert (tmp_path / "a.tar").read_bytes() == other
    assert "was replaced by another file" in replaced[1]


def test_a_killed_fetch_is_continued_from_its_part(url: str, tmp_path: Path, proxy: FaultyProxy) -> None:
    path = tmp_path / "out" / "a.tar"
    argv = [sys.executable, "-c", FETCH, url, str(path), str(len(DATA)), SHA256]
    proxy.queue.append(Fault("stall", 0.7))
    with subprocess.Popen(argv, cwd=ROOT) as killed:
        proxy.wait_for("stall")
        until(lambda: [p.stat().st_size for p in path.parent.iterdir()] == [int(len(DATA) * 0.7)])
        killed.kill()
    assert not path.exists()
    proxy.counts.clear()
    assert fetched(url, path) == []
    assert proxy.counts["bytes"] == len(DATA) - int(len(DATA) * 0.7)


FETCH = """
import sys
from manifests import transfer
url, path, size, sha256 = sys.argv[1:]
transfer.fetch(url, path, int(size), sha256, print)
"""


def test_a_damaged_part_is_not_built_upon(url: str, tmp_path: Path, proxy: FaultyProxy) -> None:
    part = tmp_path / "out" / f"a.tar.{len(DATA)}.part"
    for junk in (bytes(1000), DATA + b"x", DATA[:-1] + b"x"):
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(junk)
        fetched(url, tmp_path / "out" / "a.tar")
        (tmp_path / "out" / "a.tar").unlink()
    part.write_bytes(DATA)  # killed between its last byte and its name
    proxy.counts.clear()
    fetched(url, tmp_path / "out" / "a.tar")
    assert proxy.counts["requests"] == 0
    (tmp_path / "out" / "a.tar").unlink()
    (tmp_path / "out" / "a.tar.part").write_bytes(DATA[:1000])  # nothing is known by which it could be checked
    fetched(url, tmp_path / "out" / "a.tar", None, None)
    assert proxy.counts["bytes"] == len(DATA)


def test_two_processes_that_want_one_file_fetch_it_once(url: str, tmp_path: Path, proxy: FaultyProxy) -> None:
    path = tmp_path / "out" / "a.tar"
    argv = [sys.executable, "-c", FETCH, url, str(path), str(len(DATA)), SHA256]
    with subprocess.Popen(argv, cwd=ROOT) as one, subprocess.Popen(argv, cwd=ROOT) as two:
        assert (one.wait(30), two.wait(30)) == (0, 0)
    assert path.read_bytes() == DATA and list(path.parent.iterdir()) == [path]
    assert proxy.counts["bytes"] == len(DATA)
