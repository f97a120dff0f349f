"""The one door to bytes: local paths and object-store URLs behind the same calls.

A URI is a plain path (`data/a.flac`) or a URL that obstore knows (`s3://`, `gs://`, `az://`, `http(s)://`, `file://`).
A member of an uncompressed tar is a URI too, for reading: `<tar>#<byte offset>+<byte length>/<member name>`. The offset
is that of its data, so one ranged read gets it, from a disk or an object store, and the tar is never unpacked.
Every write appears whole under its name or not at all. Shell commands in URIs (`pipe:`) are refused. What is done with
objects in stores is in manifests/remote.py; what it raises is an OSError or ValueError of one line.
"""

import contextlib
import fcntl
import io
import os
import posixpath
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from urllib.parse import unquote, urlsplit

import numpy as np

from manifests import remote
from manifests.rawfile import Remote, Upload, Window
from manifests.storefaults import os_errors, shown

STAGING = ".writing-"  # start of the name of a file that is not finished; readers and listings pass it over
HOST = re.sub(r"[^\w.]", ".", socket.gethostname())[-24:]  # in the name of such a file: machines may share a folder
# Of a member of a local tar, at most this much is read at once when it is opened: about what Linux reads ahead anyway.
SMALL_BYTES = 128 << 10
SMALL_REMOTE_BYTES = 1 << 20  # one request for all of it, where opening it to read parts costs two or more

_MEMBER = re.compile(r"(.*?\.tar)#(\d+)\+(\d+)/(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an uncompressed tar: `length` bytes from byte `offset` of `tar`."""

    tar: str
    offset: int
    length: int
    name: str


def member_uri(tar: str, offset: int, length: int, name: str) -> str:
    """The URI of a tar's member; `offset` in bytes is where its data begins, past its header."""
    return f"{tar}#{offset}+{length}/{name}"


def member(uri: str) -> Member | None:
    """What a member's URI says, or None for any other URI."""
    if "#" not in uri or (match := _MEMBER.fullmatch(uri)) is None:
        return None
    tar, offset, length, name = match.groups()
    return Member(tar, int(offset), int(length), name)


def is_local(uri: str) -> bool:
    """True for a path on this machine. Raises ValueError for a URI that names a shell command."""
    if uri.startswith("pipe:"):
        raise ValueError(f"{uri}: shell commands are not read; give a path or a URL such as s3://bucket/key")
    if "://" in uri and (inside := member(uri)):  # the member's name may hold anything
        uri = inside.tar
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str | Path) -> str:
    """The URI in the form that is kept in manifests: an absolute path, or the URL without a final slash.

    Raises ValueError for nothing at all, which is what an unset shell variable leaves: it is not the current folder.
    Nor is `s3://`, which it makes of `s3://$BUCKET`, a folder of that name.
    """
    uri = str(uri)
    if not uri:
        raise ValueError("a path is empty; give a path or a URL")
    if inside := member(uri):
        return member_uri(absolute(inside.tar), inside.offset, inside.length, inside.name)
    if not is_local(uri):
        if not uri.partition("://")[2].strip("/"):
            raise ValueError(f"{uri}: names no bucket or host; give a URL such as s3://bucket/key")
        return uri.rstrip("/")
    if uri.startswith("file://"):
        uri = unquote(urlsplit(uri).path)
    return os.path.abspath(os.path.expanduser(uri))


def join(uri: str, *names: str) -> str:
    return posixpath.join(uri, *names)


def parent(uri: str) -> str:
    """The folder that a file lies in; of a member of a tar: the tar."""
    if inside := member(uri):
        return inside.tar
    return posixpath.dirname(uri)


def name(uri: str) -> str:
    return posixpath.basename(uri)


def exists(uri: str) -> bool:
    """True when a file (local: or a folder) of that name is there; a member: when its tar reaches to its end."""
    if inside := member(uri):
        return exists(inside.tar) and size_bytes(inside.tar) >= inside.offset + inside.length
    if is_local(uri):
        return os.path.exists(absolute(uri))
    return remote.exists(uri)


def is_file(uri: str) -> bool:
    """`exists` for what can be read to its end: no local folder, device or pipe (`/dev/zero` has none)."""
    if is_local(uri) and not member(uri):
        return os.path.isfile(absolute(uri))
    return exists(uri)


def is_folder(uri: str) -> bool:
    """True for a local folder, or for a prefix under which an object store holds something; never on a web server."""
    if is_local(uri):
        return os.path.isdir(absolute(uri))
    return not remote.is_web(uri) and remote.is_prefix(uri)


def size_bytes(uri: str) -> int:
    """Raises FileNotFoundError. Of a member of a tar it is what its URI says; the tar is not looked at."""
    if inside := member(uri):
        return inside.length
    if is_local(uri):
        return os.stat(absolute(uri)).st_size
    return remote.size_bytes(uri)


def list_files(folder: str, deep: bool = True) -> Iterator[tuple[str, int]]:
    """(URI, bytes) of every finished file below `folder` (not `deep`: right in it), in name order.

    Nothing for a folder that is not there. Raises ValueError for a web server's, which cannot be listed.
    """
    if is_local(folder):
        yield from _list_local(absolute(folder), deep)
        return
    depth = len(folder)
    yield from ((uri, size) for uri, size in remote.find(folder) if deep or "/" not in uri[depth:].lstrip("/"))


def _list_local(folder: str, deep: bool) -> Iterator[tuple[str, int]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            if deep:
                yield from _list_local(entry.path, deep)
        elif not entry.name.startswith(STAGING) and entry.is_file():
            yield entry.path, entry.stat().st_size


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    if inside := member(uri):
        return read_range(inside.tar, inside.offset, inside.length)
    if is_local(uri):
        with open(absolute(uri), "rb") as file:
            return file.read()
    return remote.read(uri)


def read_range(uri: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`. Raises EOFError when the file ends before."""
    if inside := member(uri):
        if offset + length > inside.length:
            raise EOFError(f"{uri}: ends before byte {offset + length}")
        return read_range(inside.tar, inside.offset + offset, length)
    if is_local(uri):
        with open(absolute(uri), "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
    elif not length:  # no range of HTTP is empty
        data = b""
    else:
        data = remote.read(uri, offset, offset + length)
    if len(data) != length:
        raise EOFError(f"{shown(uri)}: ends {length - len(data)} bytes before the end of the part at byte {offset}")
    return data


def open_read(uri: str) -> IO[bytes]:
    """A seekable binary file; of a member of a tar, one that begins and ends with it."""
    if inside := member(uri):
        return _open_member(inside)
    if is_local(uri):
        return open(absolute(uri), "rb")
    return _open_remote(uri)


def _open_member(inside: Member) -> IO[bytes]:
    local = is_local(inside.tar)
    if inside.length <= (SMALL_BYTES if local else SMALL_REMOTE_BYTES):
        return io.BytesIO(read_range(inside.tar, inside.offset, inside.length))
    end = inside.offset + inside.length
    whole = io.FileIO(absolute(inside.tar)) if local else Remote(inside.tar, end)
    window = Window(whole, inside.offset, inside.length)
    return cast(IO[bytes], io.BufferedReader(window, buffer_size=(64 << 10) if local else SMALL_REMOTE_BYTES))


def _open_remote(uri: str) -> IO[bytes]:
    """One request tells the size, and brings all of a small file; of a server that knows no ranges, of any file."""
    start = remote.Reading(uri, 0, SMALL_REMOTE_BYTES)
    data = b"".join(start)
    if start.size_bytes <= len(data):
        return io.BytesIO(data)
    if not start.ranges:
        return io.BytesIO(remote.read(uri))
    return cast(IO[bytes], io.BufferedReader(Remote(uri, start.size_bytes, data), buffer_size=SMALL_REMOTE_BYTES))


def read_text(uri: str) -> str:
    """The file as UTF-8 (a byte-order mark is dropped). Raises ValueError that names the line of a foreign byte."""
    data = read_bytes(uri)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data[: err.start].count(b"\n") + 1
        raise ValueError(
            f"{shown(uri)}, line {line}: not UTF-8 (byte 0x{data[err.start]:02x}); "
            f"convert it first, for instance: iconv -f latin1 -t utf-8 {name(uri)}"
        ) from None


@contextlib.contextmanager
def atomic_write(uri: str) -> Iterator[IO[bytes]]:
    """A binary file for writing that appears under `uri` when the block ends well, and never otherwise."""
    if not is_local(uri):
        writer = remote.writer(uri)
        yield cast(IO[bytes], Upload(writer, uri))
        with os_errors(uri, writes=True):
            writer.close()
        return
    path = absolute(uri)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    staged = os.path.join(os.path.dirname(path), f"{STAGING}{os.path.basename(path)}-{HOST}-{os.getpid()}")
    try:
        with open(staged, "wb") as file:
            yield file
        os.replace(staged, path)
    except BaseException as err:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        if isinstance(err, OSError) and err.filename in (None, staged):  # a full disk does not say which file it was
            err.filename = path
        raise


def write_bytes(uri: str, data: bytes) -> None:
    with atomic_write(uri) as file:
        file.write(data)


def write_text(uri: str, text: str) -> None:
    write_bytes(uri, text.encode())


def check_writable(folder: str) -> None:
    """Makes a file in a folder of this machine that goes again: for work that is long before it writes. Of a folder
    that is not there yet it takes the nearest one above, and makes none: the work may be refused.

    Raises OSError, and ValueError for a web server and where a file is. Of a store nothing is known before something
    is written there.
    """
    remote.check_store(folder, "written")
    if is_local(folder):
        there = absolute(folder)
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            raise ValueError(f"{there}: is no folder, and {folder} is to be one")
        probe = os.path.join(there, f"{STAGING}probe-{HOST}-{os.getpid()}")
        write_bytes(probe, b"")
        delete(probe)


def delete(uri: str) -> None:
    """Delete one file; one that is not there is fine."""
    if is_local(uri):
        Path(absolute(uri)).unlink(missing_ok=True)
        return
    remote.delete(uri)


def delete_folder(folder: str) -> None:
    """Delete a folder, or every object under a prefix; one that is not there is fine."""
    if is_local(folder):
        shutil.rmtree(absolute(folder), ignore_errors=not os.path.exists(absolute(folder)))
        return
    remote.delete_below(folder.rstrip("/") + "/")


def delete_staged(folder: str) -> None:
    """Delete what killed writers left in a local folder. An object store drops unfinished uploads by itself."""
    if is_local(folder) and os.path.isdir(absolute(folder)):
        for entry in os.scandir(absolute(folder)):
            if entry.name.startswith(STAGING):
                os.unlink(entry.path)


def delete_abandoned(folder: str, start: str = "") -> None:
    """Delete what killed writers of files whose names begin with `start` left in a local folder.

    A writer that still runs on this machine keeps its own, and one on another machine is not judged: commands may have
    the same folder.
    """
    if not is_local(folder) or not os.path.isdir(absolute(folder)):
        return
    for entry in list(os.scandir(absolute(folder))):
        if entry.name.startswith(STAGING + start):
            *_, host, pid = entry.name.split("-")
            if host == HOST and pid.isdigit() and (int(pid) == os.getpid() or not _runs(int(pid))):
                Path(entry.path).unlink(missing_ok=True)


def staged_bytes(folder: str, start: str = "") -> int:
    """How much of files whose names begin with `start` was written so far; 0 in an object store, which does not say."""
    if not is_local(folder) or not os.path.isdir(absolute(folder)):
        return 0
    return sum(e.stat().st_size for e in os.scandir(absolute(folder)) if e.name.startswith(STAGING + start))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def move_folder(folder: str, to: str) -> None:
    """Give a folder, or every object under a prefix, another name in the same place; what was there is deleted."""
    delete_folder(to)
    if is_local(folder):
        os.replace(absolute(folder), absolute(to))
        return
    for uri, _ in remote.find(folder + "/"):
        remote.move(uri, to + uri[len(folder) :])


@contextlib.contextmanager
def open_locked(path: str, wait: bool = True) -> Iterator[IO[bytes]]:
    """A local file for reading and writing that no other process or thread of this machine has open like this.

    It is made where it is not there, and may be renamed or deleted by who has it; one that is left empty is deleted.
    Raises BlockingIOError when another has it and we shall not `wait`.
    """
    while True:
        with open(path, "r+b", buffering=0, opener=lambda p, _: os.open(p, os.O_RDWR | os.O_CREAT, 0o666)) as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is_still(path, file):
                continue
            try:
                yield cast(IO[bytes], file)
            finally:
                if not os.fstat(file.fileno()).st_size and _is_still(path, file):
                    os.unlink(path)
            return


def _is_still(path: str, file: IO[bytes]) -> bool:
    """False when the file was renamed or deleted by who had it before."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def memory_map(path: str) -> np.memmap:
    """A local file as bytes that the system reads when they are touched."""
    return np.memmap(absolute(path), np.uint8, mode="r")
