"""Any folder of audio files with a list of them: TSV, CSV or JSON Lines, told by the list's extension."""

import argparse
import csv
import io
import json
import math
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests import storage
from manifests.schema import Dropped, safe_id
from pipelines.candidates import Candidate, write_toy

HELP = "audio files anywhere, named in a TSV, CSV or JSONL list with their texts"

REQUIRED = ("path", "text")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the list, `line` counted from 1; or a row that makes no sense and, in `fault`, why."""

    line: int
    cells: dict[str, str]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a file; `duration_s` None: up to its end."""

    uri: str
    offset_s: float
    duration_s: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--list",
        required=True,
        help="a .tsv, .csv or .jsonl with path and text; speaker, split, language, offset_s, duration_s, licence and "
        "source are taken too",
    )
    parser.add_argument("--root", required=True, help="the folder that the paths start from")
    parser.add_argument("--language", default="en", help="of rows that do not say theirs (default: %(default)s)")


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    """Raises ValueError for a missing root, a list that cannot be read, and a list without its columns."""
    root, name = storage.absolute(args.root), storage.name(args.list)
    if not storage.is_folder(root):
        raise ValueError(f"--root {args.root}: no such folder")
    corpus = safe_id(storage.name(root))
    rows: list[tuple[Row, Span]] = []
    for row in read_list(args.list):
        try:
            if row.fault:
                raise ValueError(row.fault)
            rows.append((row, _span(row.cells, root)))
        except ValueError as err:
            raw = {key: row.cells.get(key, "") for key in ("path", "text", "split")}
            detail = f"{name}, line {row.line}: {err}"
            yield Dropped(f"line-{row.line}", corpus, raw["split"], raw["path"], 0.0, raw["text"], "bad row", detail)
    ids = _ids([(row.line, span) for row, span in rows], root)
    sizes = _Sizes(root)
    for row, span in rows:
        size_bytes = sizes(span.uri)
        split = row.cells.get("split") or "train"
        if size_bytes is None:
            detail = f"{name}, line {row.line}: no such file below {args.root}"
            text = row.cells["text"]
            yield Dropped(ids[span], corpus, split, span.uri, span.duration_s or 0.0, text, "missing file", detail)
            continue
        yield Candidate(
            id=ids[span],
            corpus=corpus,
            split=split,
            language=row.cells.get("language") or args.language,
            speaker=row.cells.get("speaker", ""),
            audio=span.uri,
            size_bytes=size_bytes,
            offset_s=span.offset_s,
            duration_s=span.duration_s,
            text_raw=row.cells["text"],
            licence=row.cells.get("licence", ""),
            source=row.cells.get("source") or name,
        )


class _Sizes:
    """Bytes of files, None for one that is not there. Each is asked for once, those of an object store all at once."""

    def __init__(self, root: str) -> None:
        self.known: dict[str, int | None] = {} if storage.is_local(root) else dict(storage.list_files(root))

    def __call__(self, uri: str) -> int | None:
        if uri not in self.known:
            is_file = storage.exists(uri) and not (storage.is_local(uri) and storage.is_folder(uri))
            self.known[uri] = storage.size_bytes(uri) if is_file else None
        return self.known[uri]


def read_list(uri: str) -> Iterator[Row]:
    """Raises ValueError for another extension, another encoding than UTF-8, broken quoting, a missing column."""
    if not storage.exists(uri):
        raise ValueError(f"--list {uri}: no such file")
    readers = {"tsv": _read_tsv, "csv": _read_csv, "jsonl": _read_jsonl}
    extension = uri.rpartition(".")[2].lower()
    if extension not in readers:
        raise ValueError(f"--list {uri}: its name must end in .tsv, .csv or .jsonl, so that its format is known")
    return readers[extension](uri, storage.read_text(uri))


def _read_tsv(uri: str, text: str) -> Iterator[Row]:
    """Quotes have no meaning here: "'Tis" in a text is a text."""
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return _with_header(uri, ((number, line.split("\t")) for number, line in enumerate(lines, 1) if line))


def _read_csv(uri: str, text: str) -> Iterator[Row]:
    # strict: an open quote must not swallow the rest of the list as one text
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from _with_header(uri, ((reader.line_num, cells) for cells in reader if cells))
    except csv.Error as err:
        hint = "a text with a quote in it stands in quotes, and its own are doubled"
        raise ValueError(f"{uri}, line {reader.line_num}: not CSV ({err}); {hint}") from None


def _with_header(uri: str, lines: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    header = [column.strip() for column in next(lines, (0, []))[1]]
    _check_columns(uri, header)
    for number, cells in lines:
        if len(cells) == len(header):
            yield Row(number, {key: cell.strip() for key, cell in zip(header, cells, strict=True)})
        else:
            yield Row(number, {}, f"{len(cells)} columns where the header has {len(header)}")


def _read_jsonl(uri: str, text: str) -> Iterator[Row]:
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
            yield Row(number, {}, str(err))
            continue
        if not checked:
            _check_columns(uri, list(cells))
            checked = True
        yield Row(number, cells)


def _cells(line: str) -> dict[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON ({err.msg}, column {err.colno})") from None
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


def _span(cells: dict[str, str], root: str) -> Span:
    """Raises ValueError for a row without a path, and for times that are none."""
    path = cells["path"]
    if not path:
        raise ValueError("its path is empty")
    offset_s = _seconds("offset_s", cells)
    duration_s = _seconds("duration_s", cells)
    if duration_s == 0:
        raise ValueError("duration_s is 0")
    return Span(storage.absolute(path if "://" in path else storage.join(root, path)), offset_s or 0.0, duration_s)


def _seconds(column: str, cells: dict[str, str]) -> float | None:
    cell = cells.get(column, "")
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{column} is {cell!r}, not a number of seconds") from None
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{column} is {cell}; it must be 0 or more")
    return value


def _ids(rows: list[tuple[int, Span]], root: str) -> dict[Span, str]:
    """An id for each span: its path, with the start in ms for a part of a file.

    Where several would share one (a.wav and a.flac, another duration), each takes the number of its first line.
    Rows that name the same span share an id, so that all but one are dropped as duplicates.
    """
    sharing: dict[str, dict[Span, int]] = {}
    for line, span in rows:
        stem, _ = posixpath.splitext(span.uri.removeprefix(root + "/"))
        part = f"-{round(span.offset_s * 1000):07d}" if span.offset_s or span.duration_s is not None else ""
        sharing.setdefault(safe_id(stem + part), {}).setdefault(span, line)
    return {
        span: name if len(spans) == 1 else safe_id(f"{name}-line{line}")
        for name, spans in sharing.items()
        for span, line in spans.items()
    }


def tiny(folder: Path) -> list[str]:
    """A toy corpus in `folder`; returns the arguments that read it."""
    root = str(folder / "audio")
    write_toy(storage.join(root, "one.wav"), 1.0, 8000)
    write_toy(storage.join(root, "deep", "two.flac"), 3.0, 44100)
    rows = [
        ("one.wav", "Just one.", "anna", "dev", "", ""),
        ("deep/two.flac", "The first half", "ben", "train", "0", "1.5"),
        ("deep/two.flac", 'and "the second"', "ben", "train", "1.5", ""),
    ]
    lines = ["\t".join(row) for row in [("path", "text", "speaker", "split", "offset_s", "duration_s"), *rows]]
    uri = str(folder / "list.tsv")
    storage.write_text(uri, "\n".join(lines) + "\n")
    return ["--list", uri, "--root", root]
