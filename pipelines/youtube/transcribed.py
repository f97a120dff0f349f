"""The older list of videos: a CSV with the columns ID and Transcription, and perhaps start and end in seconds."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from manifests import storage
from pipelines.listings.lists import seconds


@dataclass(frozen=True, slots=True)
class Row:
    """What is said in the sound of `id` from `start_s` on, up to `end_s` (None: its end); or in `fault`, what is wrong.

    `line` is counted from 1.
    """

    line: int
    id: str
    text: str
    start_s: float = 0.0
    end_s: float | None = None
    fault: str = ""


def read(uri: str) -> Iterator[Row]:
    """Raises ValueError for a list that is missing, is not CSV, or lacks a column."""
    if not storage.exists(uri):
        raise ValueError(f"--list {uri}: no such file")
    # strict: an open quote must not swallow the rest of the list as one text
    reader = csv.reader(io.StringIO(storage.read_text(uri), newline=""), strict=True)
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        missing = [column for column in ("id", "transcription") if column not in header]
        if missing:
            raise ValueError(f"--list {uri}: has no column {' and no '.join(missing)}; it has {', '.join(header)}")
        for cells in reader:
            if cells:
                yield _row(reader.line_num, header, [cell.strip() for cell in cells])
    except csv.Error as err:
        hint = "a text with a quote in it stands in quotes, and its own are doubled"
        raise ValueError(f"{uri}, line {reader.line_num}: not CSV ({err}); {hint}") from None


def _row(line: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        return Row(line, "", "", fault=f"{len(cells)} columns where the header has {len(header)}")
    named = dict(zip(header, cells, strict=True))
    row = Row(line, named["id"], named["transcription"])
    try:
        start_s = seconds("start", named.get("start", "")) or 0.0
        end_s = seconds("end", named.get("end", ""))
    except ValueError as err:
        return Row(line, row.id, row.text, fault=str(err))
    if not row.id:
        return Row(line, row.id, row.text, fault="its ID is empty")
    if end_s is not None and end_s <= start_s:
        return Row(line, row.id, row.text, fault=f"ends at {end_s:g} s, not after its start at {start_s:g} s")
    return Row(line, row.id, row.text, start_s, end_s)
