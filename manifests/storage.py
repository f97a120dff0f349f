"""The one door to bytes: local paths and object-store URLs behind the same calls.

A URI is a plain path (`data/a.flac`) or a URL that obstore knows (`s3://`, `gs://`, `az://`, `http(s)://`, `file://`).
Every write appears whole under its name or not at all. Shell commands in URIs (`pipe:`) are refused.
"""

import contextlib
import io
import os
import posixpath
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit

import numpy as np

STAGING = ".writing-"  # start of the name of a file that is not finished; readers and listings pass it over


def is_local(uri: str) -> bool:
    """True for a path on this machine. Raises ValueError for a URI that names a shell command."""
    if uri.startswith("pipe:"):
        raise ValueError(f"{uri}: shell commands are not read; give a path or a URL such as s3://bucket/key")
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str | Path) -> str:
    """The URI in the form that is kept in manifests: an absolute path, or the URL without a final slash.

    Raises ValueError for nothing at all, which is what an unset shell variable leaves: it is not the current folder.
    """
    uri = str(uri)
    if not uri:
        raise ValueError("a path is empty; give a path or a URL")
    if not is_local(uri):
        return uri.rstrip("/")
    if uri.startswith("file://"):
        uri = unquote(urlsplit(uri).path)
    return os.path.abspath(os.path.expanduser(uri))


def join(uri: str, *names: str) -> str:
    return posixpath.join(uri, *names)


def parent(uri: str) -> str:
    return posixpath.dirname(uri)


def name(uri: str) -> str:
    return posixpath.basename(uri)


@contextlib.contextmanager
def _remote(uri: str) -> Iterator[tuple[Any, str]]:
    """The obstore store of a URL and the key inside it. What obstore raises in the block becomes an OSError."""
    from obstore.store import from_url

    parts = urlsplit(uri)
    options: Any = {"allow_http": True} if parts.scheme == "http" else None
    with _os_errors(uri):
        yield from_url(f"{parts.scheme}://{parts.netloc}", client_options=options), unquote(parts.path.lstrip("/"))


@contextlib.contextmanager
def _os_errors(uri: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as err:  # a missing object is a FileNotFoundError already
        raise OSError(f"{uri}: {str(err).splitlines()[0]}") from None


def exists(uri: str) -> bool:
    """True when a file (local: or a folder) of that name is there."""
    if is_local(uri):
        return os.path.exists(absolute(uri))
    import obstore

    with _remote(uri) as (store, key):
        try:
            obstore.head(store, key)
        except FileNotFoundError:
            return False
    return True


def is_folder(uri: str) -> bool:
    """True for a local folder, or for a prefix under which an object store holds something."""
    if is_local(uri):
        return os.path.isdir(absolute(uri))
    return next(iter(list_files(uri)), None) is not None


def size_bytes(uri: str) -> int:
    if is_local(uri):
        return os.stat(absolute(uri)).st_size
    import obstore

    with _remote(uri) as (store, key):
        return int(obstore.head(store, key)["size"])


def list_files(folder: str) -> Iterator[tuple[str, int]]:
    """(URI, bytes) of every finished file below `folder`, in name order; nothing for a folder that is not there."""
    if is_local(folder):
        yield from _list_local(absolute(folder))
        return
    import obstore

    with _remote(folder) as (store, key):
        root = folder.rstrip("/")[: len(folder.rstrip("/")) - len(key.rstrip("/"))]
        found = [(m["path"], int(m["size"])) for chunk in obstore.list(store, prefix=key or None) for m in chunk]
    yield from ((root + path, size) for path, size in sorted(found))


def _list_local(folder: str) -> Iterator[tuple[str, int]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            yield from _list_local(entry.path)
        elif not entry.name.startswith(STAGING) and entry.is_file():
            yield entry.path, entry.stat().st_size


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    if is_local(uri):
        with open(absolute(uri), "rb") as file:
            return file.read()
    import obstore

    with _remote(uri) as (store, key):
        return bytes(obstore.get(store, key).bytes())


def read_range(uri: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`. Raises EOFError when the file ends before."""
    if is_local(uri):
        with open(absolute(uri), "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
    else:
        import obstore

        with _remote(uri) as (store, key):
            data = bytes(obstore.get_range(store, key, start=offset, length=length))
    if len(data) != length:
        raise EOFError(f"{uri}: ends {length - len(data)} bytes before the end of the part at byte {offset}")
    return data


def open_read(uri: str) -> IO[bytes]:
    """A seekable binary file."""
    if is_local(uri):
        return open(absolute(uri), "rb")
    import obstore

    with _remote(uri) as (store, key):
        reader = obstore.open_reader(store, key)
    return cast(IO[bytes], io.BufferedReader(_Remote(reader, uri), buffer_size=1 << 20))


class _Remote(io.RawIOBase):
    """An obstore reader with the methods that Python's buffered file asks for."""

    def __init__(self, reader: Any, uri: str) -> None:
        self._reader = reader
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        with _os_errors(self._uri):
            data = self._reader.read(len(buffer))
        buffer[: len(data)] = memoryview(data)
        return len(data)


def read_text(uri: str) -> str:
    """The file as UTF-8 (a byte-order mark is dropped). Raises ValueError that names the line of a foreign byte."""
    data = read_bytes(uri)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data[: err.start].count(b"\n") + 1
        raise ValueError(
            f"{uri}, line {line}: not UTF-8 (byte 0x{data[err.start]:02x}); "
            f"convert it first, for instance: iconv -f latin1 -t utf-8 {name(uri)}"
        ) from None


@contextlib.contextmanager
def atomic_write(uri: str) -> Iterator[IO[bytes]]:
    """A binary file for writing that appears under `uri` when the block ends well, and never otherwise."""
    if not is_local(uri):
        yield from _remote_write(uri)
        return
    path = absolute(uri)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    staged = os.path.join(os.path.dirname(path), f"{STAGING}{os.path.basename(path)}-{os.getpid()}")
    try:
        with open(staged, "wb") as file:
            yield file
        os.replace(staged, path)
    except BaseException as err:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        if isinstance(err, OSError) and err.filename is None:
            err.filename = path  # a full disk does not say which file it was
        raise


def _remote_write(uri: str) -> Iterator[IO[bytes]]:
    """One multipart upload: obstore completes it on close, and without a close nothing becomes visible."""
    import obstore

    with _remote(uri) as (store, key):
        writer = obstore.open_writer(store, key)
        yield cast(IO[bytes], writer)
        writer.close()


def write_bytes(uri: str, data: bytes) -> None:
    with atomic_write(uri) as file:
        file.write(data)


def write_text(uri: str, text: str) -> None:
    write_bytes(uri, text.encode())


def delete(uri: str) -> None:
    """Delete one file; one that is not there is fine."""
    if is_local(uri):
        Path(absolute(uri)).unlink(missing_ok=True)
        return
    import obstore

    with _remote(uri) as (store, key), contextlib.suppress(FileNotFoundError):
        obstore.delete(store, key)


def delete_folder(folder: str) -> None:
    """Delete a folder, or every object under a prefix; one that is not there is fine."""
    if is_local(folder):
        shutil.rmtree(absolute(folder), ignore_errors=not os.path.exists(absolute(folder)))
        return
    for uri, _ in list(list_files(folder + "/")):
        delete(uri)


def delete_staged(folder: str) -> None:
    """Delete what killed writers left in a local folder. An object store drops unfinished uploads by itself."""
    if is_local(folder) and os.path.isdir(absolute(folder)):
        for entry in os.scandir(absolute(folder)):
            if entry.name.startswith(STAGING):
                os.unlink(entry.path)


def memory_map(path: str) -> np.memmap:
    """A local file as bytes that the system reads when they are touched."""
    return np.memmap(absolute(path), np.uint8, mode="r")
