"""The calls of the one door, over the local disk, over file:// URLs of it, and over a real S3 server on loopback."""

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import parquet, storage
from manifests.storage import Member


@pytest.fixture(params=["path", "file-url"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "path" else tmp_path.as_uri()


@pytest.fixture(params=["path", "file-url", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder of each kind."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return str(tmp_path) if request.param == "path" else tmp_path.as_uri()


def test_what_was_written_is_read(root: str) -> None:
    uri = storage.join(root, "deep", "down", "a.bin")
    assert not storage.exists(uri) and not storage.is_folder(storage.parent(uri))
    storage.write_bytes(uri, b"0123456789")
    assert storage.exists(uri) and storage.is_folder(storage.parent(uri)) and storage.size_bytes(uri) == 10
    assert storage.read_bytes(uri) == b"0123456789"
    with storage.open_read(uri) as file:
        file.seek(4)
        assert file.read(2) == b"45"


@given(st.integers(0, 12), st.integers(0, 12))
def test_a_range_is_those_bytes_or_an_error(tmp_path_factory: pytest.TempPathFactory, offset: int, length: int) -> None:
    uri = str(tmp_path_factory.getbasetemp() / "range.bin")
    storage.write_bytes(uri, b"0123456789")
    if length and offset + length > 10:
        with pytest.raises(EOFError, match="bytes before the end"):
            storage.read_range(uri, offset, length)
    else:
        assert storage.read_range(uri, offset, length) == b"0123456789"[offset : offset + length]


DATA = os.urandom(storage.SMALL_REMOTE_BYTES * 2 + 12345)


@pytest.mark.parametrize("length", [0, 1, storage.SMALL_BYTES, storage.SMALL_BYTES + 1, storage.SMALL_REMOTE_BYTES + 9])
def test_a_member_of_a_tar_is_read_like_a_file(anywhere: str, length: int) -> None:
    tar, offset = storage.join(anywhere, "a.tar"), 512
    storage.write_bytes(tar, DATA)
    uri = storage.member_uri(tar, offset, length, "Corpus/a b#1+2/ö.flac")
    assert storage.member(uri) == Member(tar, offset, length, "Corpus/a b#1+2/ö.flac")
    assert storage.is_local(uri) == storage.is_local(tar)
    assert (storage.name(uri), storage.parent(uri)) == ("ö.flac", tar)
    assert storage.exists(uri) and storage.size_bytes(uri) == length and not storage.is_folder(uri)
    content = DATA[offset : offset + length]
    assert storage.read_bytes(uri) == content
    with storage.open_read(uri) as file:
        assert file.read() == content and file.read() == b""
        file.seek(-(length // 2), os.SEEK_END)
        assert file.read(1 << 24) == content[length - length // 2 :]
        file.seek(length // 3)
        file.seek(1, os.SEEK_CUR)
        assert file.read(10) == content[length // 3 + 1 :][:10]
    half = length // 2
    assert storage.read_range(uri, half, length - half) == content[half:]
    with pytest.raises(EOFError, match=r"a\.tar#512\+.*: ends before byte"):
        storage.read_range(uri, half, length - half + 1)


def test_a_member_that_its_tar_does_not_reach_to_is_not_there(anywhere: str) -> None:
    tar = storage.join(anywhere, "a.tar")
    uri = storage.member_uri(tar, 1024, 10, "a")
    assert not storage.exists(uri)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)
    storage.write_bytes(tar, bytes(1030))
    assert not storage.exists(uri)
    with pytest.raises(EOFError, match="ends 4 bytes before the end"):
        storage.read_bytes(uri)
    storage.write_bytes(tar, bytes(1034))
    assert storage.exists(uri) and storage.read_bytes(uri) == bytes(10)


@settings(deadline=None)
@given(st.data())
def test_a_large_member_reads_as_its_bytes_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tar = tmp_path_factory.getbasetemp() / "large.tar"
    if not tar.exists():
        tar.write_bytes(DATA)
    content = DATA[1000 : 1000 + storage.SMALL_BYTES * 3]
    uri = storage.member_uri(str(tar), 1000, len(content), "x")
    with storage.open_read(uri) as file:
        for _ in range(data.draw(st.integers(1, 8))):
            position = data.draw(st.integers(0, len(content) + 10))
            count = data.draw(st.sampled_from([0, 1, 100, 70_000, 10**6]))
            file.seek(position)
            assert file.read(count) == content[position : position + count]
            assert file.tell() == max(position, min(position + count, len(content)))
        with pytest.raises((ValueError, OSError)):
            file.seek(-1)


def test_only_a_member_is_taken_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for uri in (
        "a.tar",
        "a.tar#1+2",
        "a.tgz#1+2/x",
        "a.tar#1/x",
        "dir#1+2/a.tar",
        "s3://b/a.tar#x+2/y",
        "a#1+2/b.flac",
    ):
        assert storage.member(uri) is None
    assert storage.member("s3://b/a.tar#5+6/http://c/d.tar#7+8/e") == Member(
        "s3://b/a.tar", 5, 6, "http://c/d.tar#7+8/e"
    )
    assert storage.is_local("a.tar#5+6/http://c/d") and not storage.is_local("s3://b/a.tar#5+6/c")
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("x/../a.tar#5+6/b/../c") == f"{tmp_path}/a.tar#5+6/b/../c"
    assert storage.absolute("file:///a%20b.tar#5+6/c%20d") == "/a b.tar#5+6/c%20d"
    assert storage.absolute("s3://b/a.tar#5+6/c/") == "s3://b/a.tar#5+6/c/"


def test_files_are_written_listed_moved_and_deleted(anywhere: str) -> None:
    uri = storage.join(anywhere, "deep", "a.bin")
    assert not storage.exists(uri) and list(storage.list_files(anywhere)) == []
    with storage.atomic_write(uri) as file:
        for start in range(0, len(DATA), 1 << 20):
            file.write(DATA[start : start + (1 << 20)])
        assert not storage.exists(uri)
    assert storage.size_bytes(uri) == len(DATA) and storage.read_bytes(uri) == DATA
    storage.write_text(storage.join(anywhere, "b"), "b")
    assert [storage.name(uri) for uri, _ in storage.list_files(anywhere)] == ["b", "a.bin"]
    assert [storage.name(uri) for uri, _ in storage.list_files(anywhere, deep=False)] == ["b"]
    storage.move_folder(storage.join(anywhere, "deep"), storage.join(anywhere, "other"))
    assert not storage.exists(uri) and storage.read_bytes(storage.join(anywhere, "other", "a.bin")) == DATA
    storage.delete_folder(storage.join(anywhere, "other"))
    assert [storage.name(uri) for uri, _ in storage.list_files(anywhere)] == ["b"]


def test_a_table_is_written_whole_or_not_at_all(anywhere: str) -> None:
    """Arrow closes the file that it writes to, also when it fails in the middle."""
    uri = storage.join(anywhere, "a.parquet")
    parquet.write(uri, pa.table({"a": [1, 2]}))
    assert parquet.read(uri).to_pydict() == {"a": [1, 2]}
    storage.delete(uri)
    with contextlib.suppress(RuntimeError), storage.atomic_write(uri) as file:
        file.write(b"half")
        file.close()
        raise RuntimeError
    assert not storage.exists(uri)


WRITES_HALF = """
import sys
from manifests import storage
with storage.atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print(flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_s_file_is_abandoned_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITES_HALF, str(tmp_path / "a.tar")]
    cwd = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd) as writer:
        assert writer.stdout and writer.stdout.readline()
        (tmp_path / f"{storage.STAGING}b.tar-{storage.HOST}-{writer.pid}").write_bytes(b"x")
        storage.delete_abandoned(str(tmp_path))
        assert storage.staged_bytes(str(tmp_path), "a.tar") == 4 and storage.staged_bytes(str(tmp_path)) == 5
        writer.kill()
    storage.delete_abandoned(str(tmp_path), "a.tar")
    assert [path.name for path in tmp_path.iterdir()] == [f"{storage.STAGING}b.tar-{storage.HOST}-{writer.pid}"]
    ours = f"{storage.STAGING}c-{storage.HOST}-{os.getpid()}"
    (tmp_path / ours).write_bytes(b"of a process that had our number, in a container")
    storage.delete_abandoned(str(tmp_path))
    storage.delete_abandoned(str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == [] and storage.staged_bytes(str(tmp_path / "nowhere")) == 0


def test_what_another_machine_writes_to_a_shared_folder_is_left_alone(tmp_path: Path) -> None:
    others = tmp_path / f"{storage.STAGING}a.tar-another{storage.HOST}-{os.getpid()}"
    others.write_bytes(b"half")
    storage.delete_abandoned(str(tmp_path))
    with storage.atomic_write(str(tmp_path / "a.tar")) as file:
        file.write(b"ours")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [others.name, f"{storage.STAGING}a.tar-{storage.HOST}-{os.getpid()}"]
        )
    assert others.read_bytes() == b"half" and (tmp_path / "a.tar").read_bytes() == b"ours"


def test_a_listing_has_every_finished_file_in_order(root: str, tmp_path: Path) -> None:
    for name in ("b/2", "a", "b/10", "c/d/e"):
        storage.write_text(storage.join(root, name), name)
    (tmp_path / "b" / f"{storage.STAGING}x").write_text("half")
    listed = [(uri.removeprefix(f"{tmp_path}/"), size) for uri, size in storage.list_files(root)]
    assert listed == [("a", 1), ("b/10", 4), ("b/2", 3), ("c/d/e", 5)]
    assert [uri for uri, _ in storage.list_files(storage.join(root, "b"), deep=False)] == [
        f"{tmp_path}/b/10",
        f"{tmp_path}/b/2",
    ]
    assert list(storage.list_files(storage.join(root, "nowhere"))) == []


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_changes_nothing(root: str, tmp_path: Path, before: bytes | None) -> None:
    uri = storage.join(root, "a.bin")
    if before is not None:
        storage.write_bytes(uri, before)
    with pytest.raises(RuntimeError), storage.atomic_write(uri) as file:
        file.write(b"half of it")
        file.flush()
        assert storage.exists(uri) == (before is not None)
        raise RuntimeError("killed")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_look_whether_a_folder_can_be_written_makes_none(root: str, tmp_path: Path) -> None:
    storage.check_writable(storage.join(root, "deep", "down"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for inside in ("file", "file/deep"):
        with pytest.raises(ValueError, match=f"file: is no folder, and .*{inside} is to be one"):
            storage.check_writable(storage.join(root, inside))


def test_what_a_killed_writer_left_can_be_deleted(tmp_path: Path) -> None:
    (tmp_path / f"{storage.STAGING}a-1").write_text("half")
    (tmp_path / "a").write_text("whole")
    storage.delete_staged(str(tmp_path))
    storage.delete_staged(str(tmp_path / "nowhere"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_deleting_what_is_not_there_is_fine(root: str) -> None:
    uri = storage.join(root, "b", "a")
    storage.write_text(uri, "x")
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)
    storage.delete_folder(storage.parent(uri))
    storage.delete_folder(storage.parent(uri))
    assert not storage.exists(storage.parent(uri))


def test_text_is_utf8_and_a_foreign_byte_is_named_with_its_line(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.txt")
    storage.write_bytes(uri, "\ufeffgrün\n".encode())
    assert storage.read_text(uri) == "grün\n"
    storage.write_bytes(uri, b"one\ntwo\ngr\xfcn\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 3: not UTF-8 \(byte 0xfc\).*iconv"):
        storage.read_text(uri)


def test_a_missing_file_is_named(root: str) -> None:
    with pytest.raises(FileNotFoundError) as err:
        storage.read_bytes(storage.join(root, "none"))
    assert err.value.errno == errno.ENOENT and err.value.filename.endswith("/none")


def test_shell_commands_are_refused() -> None:
    for call in (storage.read_bytes, storage.exists, storage.absolute, storage.size_bytes):
        with pytest.raises(ValueError, match="shell commands are not read"):
            call("pipe:cat /etc/hosts")


def test_an_unset_variable_is_not_the_current_folder() -> None:
    with pytest.raises(ValueError, match="a path is empty"):
        storage.absolute("")


def test_a_url_of_another_kind_is_an_os_error_of_one_line() -> None:
    for call in (storage.exists, storage.read_bytes, lambda uri: list(storage.list_files(uri))):
        with pytest.raises(OSError, match=r"^ftp://host/a: is not read; URLs begin with s3://, .* or https://$"):
            call("ftp://host/a")


def test_absolute_is_the_form_for_manifests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b") == os.path.join(tmp_path, "b")
    assert storage.absolute("file:///a%20b") == "/a b"
    assert storage.absolute("s3://bucket/key/") == "s3://bucket/key"
