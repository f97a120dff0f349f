"""Archives come whole and right, or not at all, whatever servers, networks, disks and people do: a real HTTP server."""

import argparse
import errno
import gzip
import hashlib
import io
import itertools
import os
import pty
import random
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpd
import pytest
from httpd import Fault, Site
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests import archive, storage
from pipelines import download, http, partial, progress
from pipelines.download import Archive, Task

FILES = {f"Corpus/{i}.flac": random.Random(i).randbytes(20_000 + i) for i in range(6)}
HERE = Path(__file__).parent


def packed(files: dict[str, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


TGZ = packed(FILES)
OTHER = packed({name: content[::-1] for name, content in FILES.items()})
SHA256 = hashlib.sha256(TGZ).hexdigest()
PATH = "/resources/corpus.tar.gz"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries, parts of a size for small archives, no proxy."""
    monkeypatch.setattr(http, "BACK_OFF_S", 0.0)
    monkeypatch.setattr(http, "CHUNK_BYTES", 4000)
    monkeypatch.setattr(partial, "PART_BYTES", 30_000)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    with httpd.serve() as site:
        site.files[PATH] = TGZ
        yield site


def published(site: Site, **changed: object) -> Archive:
    values = {"name": "corpus", "url": site.url + PATH, "size_bytes": len(TGZ), "sha256": SHA256, "md5": None}
    return Archive(**(values | changed))  # type: ignore[arg-type]


def unchecked(site: Site) -> Archive:
    return published(site, size_bytes=None, sha256=None)


def options(root: Path | str, **changed: object) -> argparse.Namespace:
    values = {"root": str(root), "mirror": None, "workers": 1, "ray_address": None, "json": False}
    return argparse.Namespace(**(values | changed))


def fetch(one: Archive, root: Path | str, **changed: object) -> None:
    download.fetch([one], options(root, **changed))


def held(tar: str) -> dict[str, bytes]:
    """Every member as a reader gets it: through its URI."""
    rows = archive.members(tar).to_pylist()
    return {r["name"]: storage.read_bytes(storage.member_uri(tar, r["offset"], r["length"], r["name"])) for r in rows}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def is_whole(root: Path) -> bool:
    return names(root) == ["corpus.tar", "corpus.tar.index.parquet"] and held(str(root / "corpus.tar")) == FILES


def test_an_archive_is_fetched_once(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(published(site), tmp_path / "new")
    assert is_whole(tmp_path / "new") and site.sent == len(TGZ)
    assert "corpus: 6 files, 133 kB, its hash is the published one\n" in capsys.readouterr().out
    fetch(published(site), tmp_path / "new")
    assert len(site.seen) == 1 and "corpus: is in" in capsys.readouterr().out
    fetch(unchecked(site), tmp_path / "unchecked")
    assert "no hash was published to check it by" in capsys.readouterr().out


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, len(TGZ) - 1), min_size=1, max_size=4),
    reset=st.booleans(),
    framing=st.sampled_from(["length", "chunked", "close"]),
)
def test_a_connection_cut_at_any_byte_goes_on_there(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], reset: bool, framing: str
) -> None:
    root = tmp_path_factory.mktemp("cut")
    with httpd.serve() as site:
        site.files[PATH], site.framing = TGZ, framing
        at = [0, *sorted(cuts)]
        site.faults = [Fault(cut_at=end - begin, reset=reset) for begin, end in itertools.pairwise(at)]
        fetch(published(site), root)
        assert is_whole(root) and site.sent == len(TGZ)
        assert [seen.range for seen in site.seen] == [f"bytes={begin}-" if begin else "" for begin in at]


def test_a_server_without_ranges_is_asked_from_the_start_again(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.ranges = False
    site.faults = [Fault(cut_at=50_000), Fault(), Fault(cut_at=70_000)]
    fetch(published(site), tmp_path)
    assert is_whole(tmp_path) and [seen.status for seen in site.seen] == [200] * 5
    printed = capsys.readouterr()
    assert "corpus: the server sends whole files only; fetching it from the start again" in printed.err
    assert "4 interruptions" in printed.out


@pytest.mark.parametrize("status", [429, 408, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path, status: int) -> None:
    site.faults = [Fault(status, {"Retry-After": "0"})] * 3 + [Fault(cut_at=9), Fault(status), Fault(status)]
    fetch(published(site), tmp_path)
    assert is_whole(tmp_path) and len(site.seen) == 7


def test_retry_after_is_kept_to(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = "Thu, 01 Jan 1970 00:00:00 GMT"  # has passed
    site.faults = [
        Fault(503, {"Retry-After": soon}),
        Fault(503, {"Retry-After": "1"}),
        Fault(503, {"Retry-After": "?"}),
    ]
    begin_s = time.monotonic()
    fetch(published(site), tmp_path)
    assert is_whole(tmp_path) and time.monotonic() - begin_s >= 1
    site.faults = [Fault(429, {"Retry-After": "7200"})]
    with pytest.raises(ValueError, match=r"429 Too Many Requests; the server asks to come back in 120 minutes"):
        fetch(published(site, name="later"), tmp_path)


def test_patience_ends_and_the_same_command_goes_on(site: Site, tmp_path: Path) -> None:
    site.faults = [Fault(cut_at=80_000), *[Fault(cut_at=0, reset=True)] * http.TRIES]
    with pytest.raises(ValueError, match=rf"corpus: the connection was cut; gave up after {http.TRIES} tries"):
        fetch(published(site), tmp_path)
    assert not archive.is_there(str(tmp_path / "corpus.tar")) and len(names(tmp_path)) == 1
    site.faults, site.seen = [], []
    fetch(published(site), tmp_path)
    assert is_whole(tmp_path) and [seen.range for seen in site.seen] == ["bytes=80000-"]


def test_no_answer_ends_with_the_reason(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="corpus: Connection refused; gave up"):
        fetch(published(site, url="http://127.0.0.1:9/c.tgz"), tmp_path)
    monkeypatch.setattr(http, "READ_S", 0.1)
    site.faults = [Fault(hold_at=5000)]
    fetch(published(site), tmp_path)
    assert is_whole(tmp_path) and [seen.range for seen in site.seen] == ["", "bytes=5000-"]


@pytest.mark.parametrize(
    ("status", "why"), [(404, "there is no such file"), (403, "terms"), (401, "login"), (418, "418 I'm")]
)
def test_a_refusal_is_told_at_once_without_the_secret(site: Site, tmp_path: Path, status: int, why: str) -> None:
    site.faults = [Fault(status)]
    with pytest.raises(ValueError, match=rf"^{site.url}/resources/corpus\.tar\.gz: the server answers .*{why}"):
        fetch(published(site, url=f"{site.url}{PATH}?sig=SECRET"), tmp_path)
    assert len(site.seen) == 1 and names(tmp_path) == []


def test_redirections_are_followed(site: Site, tmp_path: Path) -> None:
    site.faults = [
        Fault(302, {"Location": f"{site.url}{PATH}?sig=1"}),
        Fault(cut_at=10),
        Fault(302, {"Location": PATH}),
    ]
    fetch(published(site, url=f"{site.url}/latest"), tmp_path)
    assert is_whole(tmp_path) and site.sent == len(TGZ)
    site.faults = [Fault(302, {"Location": PATH})] * 9
    with pytest.raises(ValueError, match="leads nowhere"):
        fetch(published(site, name="round"), tmp_path)


def test_wrong_bytes_are_kept_aside_and_never_used(site: Site, tmp_path: Path) -> None:
    site.files[PATH] = OTHER[: len(TGZ)].ljust(len(TGZ), b"\0")
    digest = hashlib.sha256(site.files[PATH]).hexdigest()
    with pytest.raises(
        ValueError, match=rf"sha256 is {digest}, but {SHA256} was published; it is not used, and kept in"
    ) as err:
        fetch(published(site), tmp_path)
    assert "Repeat the command" in str(err.value) and "\n" not in str(err.value)
    assert names(tmp_path) == ["corpus.rejected"] and archive.find(str(tmp_path)) == []
    parts = sorted((tmp_path / "corpus.rejected").glob("*.part"))
    assert b"".join(part.read_bytes() for part in parts) == site.files[PATH]
    site.files[PATH] = TGZ
    fetch(published(site), tmp_path)
    assert held(str(tmp_path / "corpus.tar")) == FILES
    assert archive.find(str(tmp_path)) == [str(tmp_path / "corpus.tar")]


@pytest.mark.parametrize("kept", [0, 3, 1000, len(TGZ) - 4])
def test_an_archive_that_is_cut_on_the_server(site: Site, tmp_path: Path, kept: int) -> None:
    site.files[PATH] = TGZ[:kept]
    with pytest.raises(ValueError, match=rf"{PATH}: has {kept} bytes, but the published corpus has {len(TGZ)}"):
        fetch(published(site), tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(ValueError, match="cut short"):
        fetch(unchecked(site), tmp_path)
    assert names(tmp_path) == ["corpus.rejected"]


def test_a_hostile_archive_is_kept_aside(site: Site, tmp_path: Path) -> None:
    site.files[PATH] = packed({"../../.bashrc": b"x"})
    with pytest.raises(
        ValueError, match=r"holds '\.\./\.\./\.bashrc', a path that leads out of the archive; it is not used"
    ):
        fetch(unchecked(site), tmp_path)
    site.files[PATH] = b"<html>please log in</html>"
    with pytest.raises(ValueError, match="it is a web page"):
        fetch(unchecked(site), tmp_path)
    assert names(tmp_path) == ["corpus.rejected"]


@pytest.mark.parametrize("tags", [('"one"', '"two"'), ('W/"one"', 'W/"two"')])
@pytest.mark.parametrize("in_one_run", [True, False])
def test_a_file_that_changed_on_the_server_begins_anew(
    site: Site, tmp_path: Path, tags: tuple[str, str], in_one_run: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    site.files[PATH], site.etag = OTHER, tags[0]

    def change() -> None:
        site.files[PATH], site.etag = TGZ, tags[1]

    if in_one_run:
        site.faults = [Fault(cut_at=60_000), Fault(before=change)]
        fetch(unchecked(site), tmp_path)
    else:
        site.faults = [Fault(cut_at=60_000), *[Fault(503)] * http.TRIES]
        with pytest.raises(ValueError, match="gave up"):
            fetch(unchecked(site), tmp_path)
        change()
        fetch(unchecked(site), tmp_path)
    assert is_whole(tmp_path)
    assert "the file on the server has changed; fetching it anew" in capsys.readouterr().err


@pytest.mark.parametrize("has_hash", [True, False])
def test_a_mirror_goes_on_where_the_first_server_stopped_if_the_hash_is_known(
    site: Site, tmp_path: Path, has_hash: bool
) -> None:
    one = published(site) if has_hash else published(site, sha256=None)
    site.faults = [Fault(cut_at=60_000), *[Fault(503)] * http.TRIES]
    with pytest.raises(ValueError, match="503 Service Unavailable; gave up"):
        fetch(one, tmp_path)
    with httpd.serve() as mirror:
        mirror.files["/pub/speech/corpus.tar.gz"], mirror.etag = TGZ, '"another"'
        fetch(one, tmp_path, mirror=f"{mirror.url}/pub/speech/")
        assert is_whole(tmp_path)
        assert [seen.range for seen in mirror.seen] == ["bytes=60000-" if has_hash else ""]


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import test_download
from pipelines import http, partial
http.CHUNK_BYTES, partial.PART_BYTES = 4000, 30_000
from pipelines.download import Archive
test_download.fetch(Archive("corpus", sys.argv[2], *test_download.PUBLISHED), sys.argv[3])
"""
PUBLISHED = (len(TGZ), SHA256, None)


def test_a_killed_run_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    site.faults = [Fault(hold_at=100_000)]
    argv = [sys.executable, "-c", KILLED, str(HERE), site.url + PATH, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        assert site.held.wait(60)
        parts = tmp_path / f".fetching-corpus-{SHA256[:16]}"
        wait_for(lambda: len(list(parts.glob("*.part"))) == 3)
        process.send_signal(signal.SIGKILL)
    assert archive.find(str(tmp_path)) == [] and any(n.startswith(".writing-corpus.tar-") for n in names(tmp_path))
    have = sum(path.stat().st_size for path in parts.glob("*.part"))
    site.seen.clear()
    fetch(published(site), tmp_path)
    assert is_whole(tmp_path)
    assert [(seen.range, seen.sent) for seen in site.seen] == [(f"bytes={have}-", len(TGZ) - have)]


def wait_for(condition: Callable[[], bool]) -> None:
    pause, end_s = threading.Event(), time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        pause.wait(0.01)


def test_another_command_that_still_runs_keeps_its_files(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two commands by mistake: both end well."""
    site.faults = [Fault(hold_at=100_000)]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch, published(site), tmp_path)
        assert site.held.wait(60)
        argv = [sys.executable, "-c", KILLED, str(HERE), site.url + PATH, str(tmp_path)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        site.release.set()
        first.result()
    assert "corpus: another command has fetched it meanwhile" in capsys.readouterr().out
    assert archive.find(str(tmp_path)) == [str(tmp_path / "corpus.tar")] and held(str(tmp_path / "corpus.tar")) == FILES


@pytest.mark.parametrize("limit", [20_000, 70_000, 110_000])
def test_a_write_that_fails_leaves_nothing_half(site: Site, tmp_path: Path, limit: int) -> None:
    """The part or the tar cannot grow: as on a full disk, but without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError) as err:
            fetch(published(site), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert err.value.errno == errno.EFBIG and err.value.filename.startswith(str(tmp_path))
    assert [name for name in names(tmp_path) if not name.startswith(archive.FETCHING)] == []
    site.seen.clear()
    fetch(published(site), tmp_path)
    assert is_whole(tmp_path) and (site.sent < len(TGZ) or limit == 20_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_is_one_line_and_the_command_goes_on(site: Site, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(150_000))
    careless = published(site, expansion=0.0)  # as if the tar took no space: it is not looked at before
    with pytest.raises(OSError, match="No space left on device") as err:
        fetch(careless, small_disk)
    assert err.value.errno == errno.ENOSPC and err.value.filename.startswith(str(small_disk))
    assert [name for name in names(small_disk) if not name.startswith(archive.FETCHING)] == ["other"]
    (small_disk / "other").unlink()
    site.seen.clear()
    fetch(careless, small_disk)
    assert is_whole(small_disk) and site.sent < len(TGZ)


def test_too_little_space_is_told_before_the_first_byte(site: Site, tmp_path: Path) -> None:
    too_much = published(site, size_bytes=10**16)
    message = (
        r"21 ?PB|2.1e\+04 TB are needed \(1.1e\+04 TB for the tars, 1e\+04 TB while they arrive\), but .* are free"
    )
    with pytest.raises(ValueError, match=message):
        fetch(too_much, tmp_path / "new" / "folder")
    assert site.seen == []
    site.faults = [Fault(headers={"Content-Length": str(10**16)})]
    with pytest.raises(ValueError, match=message):
        fetch(unchecked(site), tmp_path)
    assert names(tmp_path) == []


def test_nothing_keeps_the_secret_of_a_url(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = published(site, url=f"{site.url.replace('//', '//user:SECRET@')}{PATH}?sig=SECRET")
    site.faults = [Fault(cut_at=70_000), *[Fault(503)] * http.TRIES]
    with pytest.raises(ValueError) as err:
        fetch(secret, tmp_path)
    told = [str(err.value)]
    site.files[PATH] = OTHER[: len(TGZ)].ljust(len(TGZ), b"\0")
    with pytest.raises(ValueError) as err:
        fetch(secret, tmp_path)
    told.append(str(err.value))
    site.files[PATH] = TGZ
    fetch(secret, tmp_path)
    told += [*capsys.readouterr(), str(archive.members(str(tmp_path / "corpus.tar")).schema.metadata)]
    kept = [
        path
        for path in tmp_path.rglob("*")
        if "SECRET" in str(path) or (path.is_file() and b"SECRET" in path.read_bytes())
    ]
    assert kept == [] and not any("SECRET" in text for text in told)
    assert any("?sig=SECRET" in seen.path for seen in site.seen)


def test_a_proxy_of_the_environment_is_used(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url.removeprefix("http://"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site.files["http://corpora.example/c.tgz"] = TGZ
    fetch(published(site, url="http://corpora.example/c.tgz"), tmp_path / "far")
    fetch(published(site), tmp_path / "near")
    assert is_whole(tmp_path / "far") and is_whole(tmp_path / "near")
    assert [seen.path for seen in site.seen] == ["http://corpora.example/c.tgz", PATH]


def test_an_archive_that_is_here_is_checked_and_left_as_it_is(tmp_path: Path, site: Site) -> None:
    file = tmp_path / "corpus.tar.gz"
    file.write_bytes(TGZ)
    (one,) = download.given([str(file)], [published(site)])
    fetch(one, tmp_path / "root", mirror="http://127.0.0.1:9")
    assert is_whole(tmp_path / "root") and file.read_bytes() == TGZ and site.seen == []
    file.write_bytes(TGZ[:4] + b"\1" + TGZ[5:])  # another time in its header: gunzips well
    with pytest.raises(
        ValueError, match=rf"{file}: .*{SHA256} was published; the file is left as it is, and is not used"
    ):
        fetch(one, tmp_path / "wrong")
    file.write_bytes(TGZ[:-1])
    with pytest.raises(ValueError, match=rf"{file}: has {len(TGZ) - 1} bytes, but the published corpus has {len(TGZ)}"):
        fetch(one, tmp_path / "wrong")
    assert names(tmp_path / "wrong") == [] and file.exists()


def test_given_files_are_known_by_their_names(tmp_path: Path, site: Site) -> None:
    for name in ("corpus.tar.gz", "b.tgz", "c.tar", "a/corpus.tar.gz"):
        storage.write_bytes(str(tmp_path / name), b"x")
    known = [published(site, expansion=1.5), published(site, name="b", url="https://host/x/b.tgz?k=1", md5="12")]
    found = download.given([str(tmp_path / "corpus.tar.gz"), str(tmp_path / "b.tgz")], known)
    assert [(a.name, a.url, a.expansion) for a in found] == [
        ("corpus", str(tmp_path / "corpus.tar.gz"), 1.5), ("b", str(tmp_path / "b.tgz"), 1.1),
    ]  # fmt: skip
    assert (found[0].size_bytes, found[0].sha256, found[1].md5) == (len(TGZ), SHA256, "12")
    with pytest.raises(ValueError, match=r"c\.tar: is not known by this name; known are corpus\.tar\.gz, b\.tgz"):
        download.given([str(tmp_path / "c.tar")], known)
    (free,) = download.given([str(tmp_path / "c.tar")], known, any_name=True)
    assert free == Archive("c", str(tmp_path / "c.tar"), None, None, None)
    with pytest.raises(ValueError, match=r"c\.zip: is not known"):
        download.given(["c.zip"], [], any_name=True)
    with pytest.raises(ValueError, match="corpus is given twice"):
        download.given([str(tmp_path / "corpus.tar.gz"), str(tmp_path / "a/corpus.tar.gz")], known)
    with pytest.raises(ValueError, match=r"nowhere/b\.tgz: no such file"):
        download.given(["nowhere/b.tgz"], known)


def test_the_options_are_those_of_the_help() -> None:
    parser = argparse.ArgumentParser()
    download.add_arguments(parser)
    args = parser.parse_args(["--download", "--archive", "a", "b", "--mirror", "https://m"])
    assert vars(args) == {"download": True, "archive": ["a", "b"], "mirror": "https://m"}


def test_one_that_fails_does_not_stop_the_others(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over a real Ray, each in its own process."""
    site.files["/second.tgz"] = OTHER
    wanted = [
        published(site, name="gone", url=f"{site.url}/gone.tgz"), published(site),
        published(site, name="second", url=f"{site.url}/second.tgz", size_bytes=None, sha256=None),
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"^http.*/gone\.tgz: the server answers 404 Not Found: there is no such file$"
    ):
        download.fetch(wanted, options(tmp_path, workers=2))
    assert archive.find(str(tmp_path)) == [str(tmp_path / "corpus.tar"), str(tmp_path / "second.tar")]
    assert held(str(tmp_path / "corpus.tar")) == FILES
    printed = capsys.readouterr().out
    assert "gone: failed: http" in printed and "second: 6 files" in printed
    fetch(published(site, name="gone"), tmp_path)


def test_an_object_store_gets_the_tar_and_keeps_the_parts(site: Site, bucket: str) -> None:
    root = f"{bucket}/corpora/x"
    site.faults = [Fault(cut_at=80_000), *[Fault(503)] * http.TRIES]
    with pytest.raises(ValueError, match="gave up"):
        fetch(published(site), root)
    assert archive.find(root) == [] and partial.arrived_bytes(Task(published(site), root).parts) == 80_000
    site.files[PATH] = OTHER[: len(TGZ)].ljust(len(TGZ), b"\0")
    with pytest.raises(ValueError, match=r"kept in s3://speech/corpora/x/corpus\.rejected"):
        fetch(published(site), root)
    assert {archive.is_our_own(uri) for uri, _ in storage.list_files(root)} == {True}
    storage.delete_folder(f"{root}/corpus.rejected")
    site.files[PATH], site.faults = TGZ, [Fault(cut_at=80_000)]
    fetch(published(site), root)
    assert [storage.name(uri) for uri, _ in storage.list_files(root)] == ["corpus.tar", "corpus.tar.index.parquet"]
    assert archive.find(root) == [f"{root}/corpus.tar"] and held(f"{root}/corpus.tar") == FILES
    storage.write_bytes(f"{bucket}/in/corpus.tar.gz", TGZ)
    (one,) = download.given([f"{bucket}/in/corpus.tar.gz"], [published(site)])
    fetch(one, f"{bucket}/again")
    assert held(f"{bucket}/again/corpus.tar") == FILES


def test_without_a_terminal_a_line_now_and_then(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.01)
    site.faults = [Fault(hold_at=len(TGZ) // 2)]
    thread = threading.Thread(target=fetch, args=(published(site), tmp_path))
    thread.start()
    lines = ""

    def seen() -> bool:
        nonlocal lines
        lines += capfd.readouterr().err
        return "kB of 121 kB, " in lines

    wait_for(seen)
    site.release.set()
    thread.join()
    assert "/s" in lines and is_whole(tmp_path)


def test_on_a_terminal_a_bar_with_rate_and_time_left(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        fetch(published(site), tmp_path)
        drawn = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "fetching" in drawn and "kB" in drawn and "left:" in drawn


def test_sizes_for_people() -> None:
    assert [progress.size(n) for n in (7, 2_500, 337_926_286, 54_320_173_876, 2e12)] == [
        "7 bytes", "2.5 kB", "338 MB", "54.3 GB", "2 TB",
    ]  # fmt: skip
