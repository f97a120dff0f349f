"""The calls of the one door, over the local disk and over file:// URLs of it."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import storage


@pytest.fixture(params=["path", "file-url"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
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


def test_a_listing_has_every_finished_file_in_order(root: str, tmp_path: Path) -> None:
    for name in ("b/2", "a", "b/10", "c/d/e"):
        storage.write_text(storage.join(root, name), name)
    (tmp_path / "b" / f"{storage.STAGING}x").write_text("half")
    listed = [(uri.removeprefix(f"{tmp_path}/"), size) for uri, size in storage.list_files(root)]
    assert listed == [("a", 1), ("b/10", 4), ("b/2", 3), ("c/d/e", 5)]
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


def test_what_an_object_store_says_is_an_os_error_of_one_line() -> None:
    for call in (storage.exists, storage.read_bytes, lambda uri: list(storage.list_files(uri))):
        with pytest.raises(OSError, match=r"ftp://host/a: .*Unable to recognise URL") as err:
            call("ftp://host/a")
        assert "\n" not in str(err.value)


def test_absolute_is_the_form_for_manifests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b") == os.path.join(tmp_path, "b")
    assert storage.absolute("file:///a%20b") == "/a b"
    assert storage.absolute("s3://bucket/key/") == "s3://bucket/key"
