"""Unbuffered files that the door to bytes opens: a part of another file, an object in a store, an upload to one."""

import io
import os
from typing import Any

from manifests import remote
from manifests.storefaults import os_errors


class _Seekable(io.RawIOBase):
    """A readable file of `length` bytes that knows its position."""

    def __init__(self, length: int) -> None:
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

    def readall(self) -> bytes:
        """With as few reads as can be: RawIOBase's own asks for 8 kB at a time, a request each."""
        pieces = []
        while piece := self.read(max(0, self._length - self._position)):
            pieces.append(piece)
        return b"".join(pieces)


class Remote(_Seekable):
    """The first `length` bytes of an object: each read is a request, repeated at the byte where it breaks.

    `head`: its first bytes, where they have come already.
    """

    def __init__(self, url: str, length: int, head: bytes = b"") -> None:
        super().__init__(length)
        self._url = url
        self._head = head

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._length)
        if end <= self._position:
            return 0
        data = self._head[self._position : end] or remote.read(self._url, self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class Window(_Seekable):
    """`length` bytes from `offset` of an unbuffered file, as a file of its own."""

    def __init__(self, whole: io.RawIOBase, offset: int, length: int) -> None:
        super().__init__(length)
        self._whole = whole
        self._offset = offset

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


class Upload(io.RawIOBase):
    """An obstore writer that closing does not complete: Arrow closes what it has written to, whole or not."""

    def __init__(self, writer: Any, uri: str) -> None:
        self._writer = writer
        self._uri = uri

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with os_errors(self._uri, writes=True):
            return int(self._writer.write(data))
