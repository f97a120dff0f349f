"""Audio that a data set keeps inside its tables, written once into plain tars, where every later step can read it.

A tar holds `<row>.<extension>` for each recording and at its end metadata.jsonl: a line for each row, with the name of
its file and the row's other columns. A tar is finished when it has its index; whoever continues skips those that are.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from manifests import archive, storage
from pipelines.hf.hubdata import Row
from pipelines.source import File, files
from shards.writer import END, member

PART_BYTES = 1 << 30  # of a tar, about: what a download that was killed has to do again
METADATA = "metadata.jsonl"

Content = Callable[[Row], bytes | None]


def write(rows: Callable[[int], Iterator[Row]], content: Content, folder: str, part_bytes: int = PART_BYTES) -> int:
    """Write the tars that are not there yet; returns how many there are. `rows(n)` gives the rows from n on."""
    done = parts = 0
    while archive.is_there(tar := _uri(folder, parts)):
        done += sum(1 for _ in _lines(tar))
        parts += 1
    left = _Rows(rows(done))
    while left.ahead is not None:
        tar = _uri(folder, parts)
        chunks = _part(left, content, part_bytes)
        archive.receive(chunks, tar, name=storage.name(tar), size_bytes=None, sha256=None, md5=None)
        parts += 1
    return parts


def read(folder: str) -> Iterator[tuple[dict[str, Any], File | None]]:
    """Of each row its columns and the file with its audio, if it has any."""
    for tar in archive.find(folder):
        inside = {file.path: file for file in files(tar)}
        for line in _lines(tar):
            yield line["columns"], inside.get(line["file_name"])


def _uri(folder: str, number: int) -> str:
    return storage.join(folder, f"{number:05d}.tar")


def _lines(tar: str) -> Iterator[dict[str, Any]]:
    listing = next(file for file in files(tar) if file.path == METADATA)
    with storage.open_read(listing.uri) as file:
        for line in file:
            yield json.loads(line)


class _Rows:
    """Rows with the next one known: whether there is another tar to write."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self.ahead = next(rows, None)

    def take(self) -> Row | None:
        row, self.ahead = self.ahead, next(self._rows, None) if self.ahead is not None else None
        return row


def _part(rows: _Rows, content: Content, part_bytes: int) -> Iterator[bytes]:
    """The bytes of one tar."""
    lines: list[str] = []
    size_bytes = 0
    while size_bytes < part_bytes and (row := rows.take()) is not None:
        name = None
        if (data := content(row)) is not None:
            name = f"{row.number:09d}.{_extension(row.path)}"
            chunk = member(name, data)
            size_bytes += len(chunk)
            yield chunk
        lines.append(json.dumps({"file_name": name, "columns": row.cells}, ensure_ascii=False) + "\n")
    yield member(METADATA, "".join(lines).encode("utf-8", "surrogatepass"))
    yield END


def _extension(path: str) -> str:
    """In small letters; "audio" where the name has none that could be one."""
    _, dot, extension = path.partition("::")[0].rpartition(".")
    return extension.lower() if dot and extension.isalnum() and extension.isascii() and len(extension) <= 5 else "audio"
