"""Lists of utterances as users write them: TSV, CSV or JSON Lines, told by the extension."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from manifests import storage

REQUIRED = ("path", "text")
LATEST_S = 1e9  # 30 years: a time beyond it is a slip, and 1e308 overflows where it becomes milliseconds


@dataclass(frozen=True, slots=True)
class Entry:
    """An utterance as a list names it, its file not yet looked for; or, with a `reason`, why it is none.

    `file` is the list's name, `line` counts from 1. `path` starts from the folder of the audio; `id` "": to be made
    from the path; `duration_s` None: up to the end of the file. `extra` is that of a Candidate.
    """

    file: str
    line: int
    path: str
    text: str
    id: str = ""
    offset_s: float = 0.0
    duration_s: float | None = None
    speaker: str = ""
    split: str = ""
    language: str = ""
    licence: str = ""
    source: str = ""
    extra: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """`line` is counted from 1; in `fault`, why a row makes no sense."""

    line: int
    cells: dict[str, str]
    fault: str = ""


def read(uri: str) -> Iterator[Entry]:
    """Raises ValueError for another extension, another encoding than UTF-8, broken quoting, a missing column."""
    if not storage.exists(uri):
        raise ValueError(f"--list {uri}: no such file")
    readers = {"tsv": _read_tsv, "csv": _read_csv, "jsonl": _read_jsonl}
    extension = uri.rpartition(".")[2].lower()
    if extension not in readers:
        raise ValueError(f"--list {uri}: its name must end in .tsv, .csv or .jsonl, so that its format is known")
    for row in readers[extension](uri, storage.read_text(uri)):
        yield _entry(row, storage.name(uri))


def seconds(what: str, cell: str) -> float | None:
    """None for an empty cell. Raises ValueError that begins with `what` for anything but a number from 0 on."""
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{what} is {cell!r}, not a number of seconds") from None
    if not (math.isfinite(value) and 0 <= value <= LATEST_S):
        raise ValueError(f"{what} is {cell}; it must be 0 or more, and no longer than any recording")
    return value


def _entry(row: _Row, name: str) -> Entry:
    cells = row.cells
    entry = Entry(
        name,
        row.line,
        cells.get("path", ""),
        cells.get("text", ""),
        speaker=cells.get("speaker", ""),
        split=cells.get("split", ""),
        language=cells.get("language", ""),
        licence=cells.get("licence", ""),
        source=cells.get("source", ""),
    )
    try:
        if row.fault:
            raise ValueError(row.fault)
        if not entry.path:
            raise ValueError("its path is empty")
        storage.is_local(entry.path)  # refuses shell commands
        offset_s, duration_s = (seconds(key, cells.get(key, "")) for key in ("offset_s", "duration_s"))
        if duration_s == 0:
            raise ValueError("duration_s is 0")
    except ValueError as err:
        return replace(entry, id=f"line-{row.line}", reason="bad row", detail=str(err))
    return replace(entry, offset_s=offset_s or 0.0, duration_s=duration_s)


def _read_tsv(uri: str, text: str) -> Iterator[_Row]:
    """Quotes have no meaning here: "'Tis" in a text is a text."""
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return _with_header(uri, ((number, line.split("\t")) for number, line in enumerate(lines, 1) if line))


def _read_csv(uri: str, text: str) -> Iterator[_Row]:
    # strict: an open quote must not swallow the rest of the list as one text
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from _with_header(uri, ((reader.line_num, cells) for cells in reader if cells))
    except csv.Error as err:
        hint = "a text with a quote in it stands in quotes, and its own are doubled"
        raise ValueError(f"{uri}, line {reader.line_num}: not CSV ({err}); {hint}") from None


def _with_header(uri: str, lines: Iterator[tuple[int, list[str]]]) -> Iterator[_Row]:
    header = [column.strip() for column in next(lines, (0, []))[1]]
    _check_columns(uri, header)
    for number, cells in lines:
        if len(cells) == len(header):
            yield _Row(number, {key: cell.strip() for key, cell in zip(header, cells, strict=True)})
        else:
            yield _Row(number, {}, f"{len(cells)} columns where the header has {len(header)}")


def _read_jsonl(uri: str, text: str) -> Iterator[_Row]:
    """The first line that is an object shows which columns there are."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        _check_columns(uri, [])
    checked = False
    for number, line in lines:
        try:
            cells = _cells(line)
            missing = [column for column in REQUIRED if column not in cells]
            if missing and checked:
                raise ValueError(f"has no {' and no '.join(missing)}")
        except ValueError as err:
            yield _Row(number, {}, str(err))
            continue
        if not checked:
            _check_columns(uri, list(cells))
            checked = True
        yield _Row(number, cells)


def _cells(line: str) -> dict[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON ({err.msg}, column {err.colno})") from None
    except RecursionError:
        raise ValueError("not a JSON object with columns, but brackets in brackets") from None
    if not isinstance(record, dict) or not record:
        raise ValueError("not a JSON object with columns")
    return {key: _cell(key, value) for key, value in record.items()}


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | dict | list):
        raise ValueError(f"{key} is {value!r}; it must be a text or a number")
    cell = str(value).strip()
    cell.encode()  # a lone half of a surrogate pair, which JSON can spell, is a UnicodeEncodeError: a ValueError
    return cell


def _check_columns(uri: str, header: list[str]) -> None:
    if not header:
        raise ValueError(f"--list {uri}: is empty; it needs the columns {' and '.join(REQUIRED)}")
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise ValueError(f"--list {uri}: has no column {' and no '.join(missing)}; it has {', '.join(header)}")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise ValueError(f"--list {uri}: has the column {', '.join(twice)} more than once")
