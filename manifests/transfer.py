"""A whole object as a local file: through broken connections, checked by its hash, and visible only when it is whole.

What has come so far lies beside the file, in `<path>.<bytes>.part`, and stays there when the transfer fails or its
process is killed: the next one goes on from there. Who writes to it holds a lock on it, so that of two processes that
want one file the second waits, and then has it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from manifests import storage
from manifests.remote import Changed, Reading
from manifests.storefaults import shown

PART = ".part"
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """An object, and what is known of it; `on_piece` is told before each piece is written, and may raise."""

    url: str
    size_bytes: int | None
    sha256: str | None
    on_retry: Callable[[str], None]
    on_piece: Callable[[], None] = lambda: None


class Wrong(OSError):
    """All has come, and it is not what it should be."""


def fetch(url: str, path: str, size_bytes: int | None, sha256: str | None, on_retry: Callable[[str], None]) -> None:
    """Bring one object of a store or a web server to the local file `path`, and nothing where that is there already.

    `on_retry` is told why a transfer broke, each time before it goes on. Raises OSError with one line that names the
    URL: when too many tries in a row bring nothing, and when size or SHA-256 are not these, twice. An earlier process's
    part is used only where there is a `sha256` to check the whole by.
    """
    assert not storage.is_local(url), "a local file is read where it lies"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    part_path = part_of(path, size_bytes)
    with storage.open_locked(part_path) as part:
        if is_there(path, size_bytes):  # another process was faster
            os.unlink(part_path)
            return
        complete(Source(url, size_bytes, sha256, on_retry), part)
        os.replace(part_path, path)


def part_of(path: str, size_bytes: int | None) -> str:
    """Where the bytes of a file of so many bytes are while they come."""
    return f"{path}{PART}" if size_bytes is None else f"{path}.{size_bytes}{PART}"


def is_there(path: str, size_bytes: int | None) -> bool:
    try:
        return os.stat(path).st_size == size_bytes or size_bytes is None
    except FileNotFoundError:
        return False


def complete(source: Source, part: IO[bytes]) -> None:
    """Fill a part, from where it ends, with what is missing; raises as `fetch` does."""
    if source.sha256 is None or (source.size_bytes is not None and os.fstat(part.fileno()).st_size > source.size_bytes):
        part.truncate(0)
    try:
        _fill(source, part)
    except (Changed, Wrong) as err:
        source.on_retry(str(err))
        part.truncate(0)
        try:
            _fill(source, part)
        except (Changed, Wrong):
            part.truncate(0)
            raise


def _fill(source: Source, part: IO[bytes]) -> None:
    digest = hashlib.sha256()
    position = 0
    part.seek(0)
    while piece := part.read(READ_BYTES):
        source.on_piece()
        digest.update(piece)
        position += len(piece)
    if source.size_bytes is None or position < source.size_bytes:
        for piece in _rest(source, position):
            source.on_piece()
            digest.update(piece)
            _write(part, piece)
            position += len(piece)
    _check_size(source, position)
    if source.sha256 not in (None, digest.hexdigest()):
        raise Wrong(f"{shown(source.url)}: has the SHA-256 {digest.hexdigest()}, and not {source.sha256}")


def _rest(source: Source, position: int) -> Iterator[bytes]:
    """What comes from `position` on. Raises Wrong when the object is not as long as it should be."""
    reading = Reading(source.url, position, None, source.on_retry)
    for piece in reading:
        _check_size(source, reading.size_bytes)
        yield piece


def _check_size(source: Source, size_bytes: int) -> None:
    if source.size_bytes not in (None, size_bytes):
        raise Wrong(f"{shown(source.url)}: has {size_bytes} bytes, and not {source.size_bytes}; it is another file now")


def _write(part: IO[bytes], piece: bytes) -> None:
    """An unbuffered file takes less than it is given when its disk is nearly full, and says so only the next time."""
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[part.write(rest) :]
    except OSError as err:
        err.filename = part.name
        raise
