"""Common Voice's tables of clips: tab-separated, with a header that has changed over the releases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from manifests import storage


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table, counted from 1; or a line that makes no sense and, in `fault`, why.

    A column that the table does not have is no key of `cells`.
    """

    line: int
    cells: dict[str, str]
    fault: str = ""


def read(uri: str, required: Sequence[str]) -> Iterator[Row]:
    """The rows below the header. Raises ValueError for one without the `required` columns, and for other than UTF-8.

    Every line is a row: a quote never holds several together, as it does where an unbalanced one makes a CSV reader
    swallow the next hundred sentences. A million lines a second, as many as Arrow's CSV reader gives to Python.
    """
    name = storage.name(uri)
    header: list[str] = []
    number = 0
    with storage.open_read(uri) as file:
        try:
            for number, data in enumerate(file, 1):
                cells = data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n").split("\t")
                if number == 1:
                    header = cells
                    _check(name, header, required)
                elif len(cells) == len(header):
                    yield Row(number, dict(zip(header, cells, strict=True)))
                elif cells != [""]:
                    yield Row(number, {}, f"{len(cells)} columns where the header has {len(header)}")
        except UnicodeDecodeError as err:
            byte = err.object[err.start]
            raise ValueError(f"{uri}, line {number}: not UTF-8 (byte 0x{byte:02x}); is the archive damaged?") from None
    if not header:
        raise ValueError(f"{name}: is empty; it should begin with a header ({', '.join(required)}, ...)")


def _check(name: str, header: list[str], required: Sequence[str]) -> None:
    if missing := [column for column in required if column not in header]:
        raise ValueError(f"{name}: has no column {' and no '.join(missing)}; it has {', '.join(header)}")


def unquote(cell: str) -> str:
    '''`"""Hi,"" he said."` as `"Hi," he said.`, and every cell that is not wrapped in that way as it stands.

    Most releases were written by a program that puts a cell in quotes, with its own quotes doubled, when there are any
    in it, but not all, and not all of their cells; and sentences have lone quotes.
    '''
    if len(cell) < 4 or cell[0] != '"' or cell[-1] != '"':
        return cell
    inner = cell[1:-1].split('""')
    return cell if len(inner) == 1 or any('"' in piece for piece in inner) else '"'.join(inner)
