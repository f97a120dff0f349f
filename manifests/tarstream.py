"""Where the members of a tar lie, found while its bytes pass by once and are never looked at again.

Sources: POSIX.1-2008, pax, "pax Interchange Format" and "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
A tar is data from strangers. What a reader of members could be fooled by is refused: paths that leave the archive, two
members of one name, sparse files, headers that do not add up. Links are never followed on a disk: one to a file or a
folder of the same archive becomes a second name of the same bytes. What else is no file is counted and left out.
"""

import bisect
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator

BLOCK = 512  # bytes: headers are one, data is padded to whole ones
HEADER_LIMIT_BYTES = 1 << 20  # of an extended header; it holds a path and a few numbers
HOPS = 40  # links that are followed one after the other, as in Linux
FOLDER_LINKED = 8  # names that links to folders may add for each file: a tar can hold a link for every 512 bytes

_ZEROS = bytes(BLOCK)
_SIZE = re.compile("[0-9]{1,20}")
_FILES = (b"0", b"\0", b"7")  # regular, regular in old tars, contiguous
_LINKS = (b"1", b"2")  # hard, symbolic
_EXTENDED = (b"x", b"X", b"g", b"L", b"K")  # pax for one member, Solaris's, pax for all; GNU long name, long link
_NO_DATA = {b"3": "character device", b"4": "block device", b"6": "named pipe", b"V": "volume label"}
_REFUSED = {b"S": "a sparse file", b"M": "a part of a file that began in another volume"}


class Damaged(ValueError):
    """The archive itself is not what it should be; asking for the same bytes again will not help."""


class TarStream:
    """Feed it the tar's bytes in any pieces, then call `finish`. Both raise Damaged; its text leaves out which tar."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.offsets = array("q")  # bytes: where the data of each begins
        self.lengths = array("q")
        self.left_out: Counter[str] = Counter()
        self.position = 0  # bytes fed
        self.next_header = 0  # where it begins; beyond `position` while data of a member passes by
        self.ended = False  # the end mark, a block of zeros, was seen
        self._row: dict[str, int] = {}
        self._links: dict[str, str] = {}
        self._partial = b""  # of a header that pieces cut
        self._extended = b""  # the type of the extended header whose body is next, b"" before a plain header
        self._wanted = BLOCK  # bytes of the header or of the body of an extended one
        self._own: dict[str, str] = {}  # what extended headers say about the next member

    def feed(self, piece: memoryview) -> None:
        begin = self.position
        self.position += len(piece)
        while self.next_header < self.position:
            at = max(0, self.next_header - begin)
            if self.ended:
                if bytes(piece[at:]).strip(b"\0"):
                    raise Damaged("data follows its end mark; are there two tars in one?")
                return
            block = self._partial + bytes(piece[at : at + self._wanted - len(self._partial)])
            if len(block) < self._wanted:
                self._partial = block
                return
            self._partial = b""
            self.next_header += self._wanted
            if self._extended:
                self._read_extended(block)
            else:
                self._read_header(block)

    def finish(self) -> None:
        """To be called after the last byte. Adds the links' names."""
        if self.position < self.next_header or self._partial or self._extended:
            raise Damaged(f"it was cut short: it ends inside a member, after {self.position} bytes")
        for name, offset, length in self._linked():
            self._add(name, offset, length)

    def _read_header(self, block: bytes) -> None:
        if block == _ZEROS:
            self.ended = True
            return
        start = self.next_header - BLOCK
        _check_sum(block, start)
        kind = block[156:157]
        size = _number(block[124:136], start)
        if kind in _EXTENDED:
            if not 0 < size <= HEADER_LIMIT_BYTES:
                raise Damaged(f"the extended header at byte {start} has {size} bytes")
            self._extended, self._wanted = kind, -(-size // BLOCK) * BLOCK
            self._body_bytes = size
            return
        if kind in _REFUSED:
            raise Damaged(f"it holds {_REFUSED[kind]} ({_header_name(block)!r}); pack it again without")
        if (size := int(self._own.get("size", size))) >= 1 << 62:
            raise Damaged(f"the header at byte {start} speaks of {size} bytes")
        raw = self._own.get("path") or _header_name(block)
        self._member(kind, raw, self._own.get("linkpath") or _text(block[157:257]), size)
        self._own = {}

    def _member(self, kind: bytes, raw: str, target: str, size: int) -> None:
        name = _clean(raw)
        is_folder = kind == b"5" or (kind in _FILES and raw.endswith("/") and not size)  # so in old tars
        if not name and not is_folder:
            raise Damaged(f"it holds a member without a name at byte {self.next_header - BLOCK}")
        if is_folder:
            return
        if kind in _LINKS:
            if name in self._links:
                raise Damaged(f"it holds {name!r} twice")
            folder = name.rpartition("/")[0]
            self._links[name] = f"{folder}/{target}" if kind == b"2" and folder and target[:1] != "/" else target
            return
        if kind in _NO_DATA:
            self.left_out[_NO_DATA[kind]] += 1
            return
        if kind in _FILES:
            self._add(name, self.next_header, size)
        else:
            self.left_out[f"member of unknown type {_text(kind)!r}"] += 1
        self.next_header += -(-size // BLOCK) * BLOCK

    def _add(self, name: str, offset: int, length: int) -> None:
        if self._row.setdefault(name, len(self.names)) != len(self.names):
            raise Damaged(f"it holds {name!r} twice")
        self.names.append(name)
        self.offsets.append(offset)
        self.lengths.append(length)

    def _read_extended(self, block: bytes) -> None:
        body, kind = block[: self._body_bytes], self._extended
        self._extended, self._wanted = b"", BLOCK
        if kind in (b"L", b"K"):
            self._own["path" if kind == b"L" else "linkpath"] = _text(body)
            return
        for key, value in _records(body, self.next_header - len(block)):
            if key.startswith("GNU.sparse."):
                raise Damaged("it holds a sparse file; pack it again without --sparse")
            if key in ("path", "linkpath", "size"):
                if kind == b"g" or (key == "size" and not _SIZE.fullmatch(value)):
                    raise Damaged(f"a header at byte {self.next_header - len(block)} sets {key}={value[:40]!r}")
                self._own[key] = value

    def _linked(self) -> Iterator[tuple[str, int, int]]:
        """(name, offset, length) of each file that a link, or a link to a folder, gives another name."""
        if not self._links:
            return
        ordered = sorted(self.names)
        most = left = FOLDER_LINKED * len(ordered) + 1000
        for link, target in self._links.items():
            real = self._resolve(target)
            if real is None:
                self.left_out["link to outside the archive"] += 1
                continue
            row = self._row.get(real)
            if row is not None:
                if real != link:  # GNU tar writes a file that was named twice as a link to itself
                    yield link, self.offsets[row], self.lengths[row]
                continue
            below = _below(ordered, real)
            if not below:
                self.left_out["link to nothing in the archive"] += 1
            left -= len(below)
            if left < 0:
                raise Damaged(f"its links to folders give its {len(ordered)} files more than {most} other names")
            for name in below:
                row = self._row[name]
                yield link + name[len(real) :], self.offsets[row], self.lengths[row]

    def _resolve(self, path: str) -> str | None:
        """The path without links and dots, or None where it leaves the archive or goes round in a circle."""
        ahead = path.split("/")[::-1]
        if path.startswith("/"):
            return None
        there: list[str] = []
        hops = 0
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not there:
                    return None
                there.pop()
                continue
            there.append(part)
            if (target := self._links.get("/".join(there))) is not None and "/".join(there) not in self._row:
                hops += 1
                if hops > HOPS or target.startswith("/"):
                    return None
                there = []  # targets are kept from the root on
                ahead += target.split("/")[::-1]
        return "/".join(there)


def _below(ordered: list[str], folder: str) -> list[str]:
    """The names inside a folder, of a sorted list of them."""
    if not folder:
        return ordered
    return ordered[bisect.bisect_left(ordered, folder + "/") : bisect.bisect_left(ordered, folder + "0")]


def _check_sum(block: bytes, start: int) -> None:
    field = block[148:156]
    said = _number(field, start) + sum(field) - 8 * 32  # the sum's own field counts as spaces
    # Adler-32's lower half is one more than the sum of the bytes modulo 65521; Python's own sum takes ten times as long
    if (said + 1) % 65521 != zlib.adler32(block) & 0xFFFF:
        negative = sum(byte > 127 for byte in block) * 256  # some old tars summed signed bytes
        if said != sum(block) - negative:
            raise Damaged(f"the header at byte {start} is damaged" if start else "it is no tar")


def _number(field: bytes, start: int) -> int:
    """An octal number, or a binary one as GNU tar writes those that are too large."""
    digits = field.strip(b" \0")
    if digits.isdigit() and b"8" not in digits and b"9" not in digits:
        return int(digits, 8)
    if not digits:
        return 0
    if field[0] != 0x80:
        raise Damaged(f"the header at byte {start} is damaged" if start else "it is no tar")
    return int.from_bytes(field[1:], "big")


def _header_name(block: bytes) -> str:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    """Up to the first zero byte. Bytes that are no UTF-8 are written as \\xNN, so that nothing is lost."""
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _records(body: bytes, start: int) -> Iterator[tuple[str, str]]:
    """The `length key=value` lines of a pax header."""
    at = 0
    while at < len(body) and body[at]:
        length, space, _ = body[at : at + 20].partition(b" ")
        end = at + int(length) if space and length.isdigit() else 0
        key, equals, value = body[at + len(length) + 1 : end - 1].partition(b"=")
        if not at < end <= len(body) or not equals or body[end - 1 : end] != b"\n" or b"\0" in value:
            raise Damaged(f"the extended header at byte {start} is damaged")
        yield _text(key), value.decode("utf-8", "backslashreplace")
        at = end


def _clean(raw: str) -> str:
    """The member's name without `./`, `//` and a final slash."""
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if raw.startswith("/") or ".." in parts:
        raise Damaged(f"it holds {raw!r}, a path that leads out of the archive")
    return "/".join(parts)
