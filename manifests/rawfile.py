"""Unbuffered files that the door to bytes opens: a part of another file, an object in a store, an upload to one."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def os_errors(uri: str) -> Iterator[None]:
    """What obstore raises in the block becomes an OSError of one line."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as err:  # a missing object is a FileNotFoundError already
        raise OSError(f"{uri}: {str(err).splitlines()[0]}") from None


class Remote(io.RawIOBase):
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
        with os_errors(self._uri):
            data = self._reader.read(len(buffer))
        buffer[: len(data)] = memoryview(data)
        return len(data)


class Upload(io.RawIOBase):
    """An obstore writer that closing does not complete: Arrow closes what it has written to, whole or not."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return int(self._writer.write(data))


class Window(io.RawIOBase):
    """`length` bytes from `offset` of an unbuffered file, as a file of its own."""

    def __init__(self, whole: io.RawIOBase, offset: int, length: int) -> None:
        self._whole = whole
        self._offset = offset
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._length - self._position)
        if wanted <= 0:
            return 0
        self._whole.seek(self._offset + self._position)
        count = self._whole.readinto(memoryview(buffer)[:wanted])
        self._position += count
        return count

    def close(self) -> None:
        self._whole.close()
        super().close()
