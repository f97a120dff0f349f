"""Which rows of a manifest are fit for use, judged column by column: a million rows take about a second."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.schema import DROPPED_SCHEMA


@dataclass(frozen=True, slots=True)
class Limits:
    """Both ends are allowed. What was not measured (audio that nobody listened to, no vocab) is not judged.

    The defaults only catch what is plainly wrong: text that belongs to other audio is spoken at impossible speed or
    hardly at all, and below -60 LUFS there is a microphone that was off.
    """

    min_duration_s: float = 0.1  # less holds no word, and hardly a frame after the encoder's subsampling
    max_duration_s: float = 60.0
    min_chars_per_s: float = 0.25
    max_chars_per_s: float = 40.0
    max_pieces_per_s: float = float("inf")
    min_loudness_lufs: float = -60.0
    max_clipped_share: float = 0.05


@dataclass(frozen=True, slots=True)
class _Check:
    reason: str
    values: np.ndarray
    low: float
    high: float
    unit: str


HELP = {
    "min_duration_s": "leave out what is shorter",
    "max_duration_s": "leave out what is longer",
    "min_chars_per_s": "leave out text that is too short for its audio",
    "max_chars_per_s": "leave out text that is too long for its audio",
    "max_pieces_per_s": "leave out what has more pieces of --vocab a second",
    "min_loudness_lufs": "leave out what is quieter (EBU R 128)",
    "max_clipped_share": "leave out what has a larger share of its samples clipped",
}


def add_arguments(parser: argparse.ArgumentParser, *leave_out: str) -> None:
    """An option for each limit, but for those named."""
    for limit in fields(Limits):
        if limit.name not in leave_out:
            flag = "--" + limit.name.replace("_", "-")
            parser.add_argument(
                flag, type=float, default=limit.default, metavar="N", help=f"{HELP[limit.name]} (default: %(default)g)"
            )


def from_arguments(args: argparse.Namespace) -> Limits:
    """Raises ValueError for limits that no row can keep."""
    limits = Limits(**{f.name: getattr(args, f.name) for f in fields(Limits) if f.name in args})
    for name in ("max_duration_s", "max_chars_per_s", "max_pieces_per_s"):
        if not getattr(limits, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(limits, name):g}: must be above 0")
    for name in ("min_duration_s", "min_chars_per_s", "max_clipped_share"):
        if not getattr(limits, name) >= 0:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(limits, name):g}: must be 0 or more")
    for what in ("duration_s", "chars_per_s"):
        low, high = getattr(limits, f"min_{what}"), getattr(limits, f"max_{what}")
        if low > high:
            flag = what.replace("_", "-")
            raise ValueError(f"--min-{flag} {low:g}: is above --max-{flag} {high:g}")
    return limits


def unfit(table: pa.Table, limits: Limits, pieces: np.ndarray | None = None) -> tuple[np.ndarray, list[str], list[str]]:
    """The rows that break a limit, in ascending order, with reason and detail of each.

    `pieces` are counts of vocab pieces, row by row.
    """
    why = np.full(len(table), -1)
    checks = list(_checks(table, limits, pieces))
    for number, check in reversed(list(enumerate(checks))):  # so that the first check a row fails gives the reason
        with np.errstate(invalid="ignore"):  # NaN, not measured, is neither below nor above
            why[(check.values < check.low) | (check.values > check.high)] = number
    rows = np.flatnonzero(why >= 0)
    reasons = [checks[why[row]].reason for row in rows]
    return rows, reasons, [_detail(checks[why[row]], row) for row in rows.tolist()]


def as_dropped(table: pa.Table, reasons: list[str], details: list[str]) -> pa.Table:
    """Rows of a manifest as rows of dropped.parquet."""
    columns = {name: table[name] for name in DROPPED_SCHEMA.names if name in table.column_names}
    return pa.table(columns | {"reason": reasons, "detail": details}, schema=DROPPED_SCHEMA)


def _checks(table: pa.Table, limits: Limits, pieces: np.ndarray | None) -> Iterator[_Check]:
    duration_s = numbers(table, "duration_s")
    infinite = float("inf")
    yield _Check("too short", duration_s, limits.min_duration_s, infinite, "s")
    yield _Check("too long", duration_s, -infinite, limits.max_duration_s, "s")
    chars_per_s = pc.utf8_length(table["text"]).to_numpy().astype(np.float64) / np.maximum(duration_s, 1e-9)
    yield _Check("too little text", chars_per_s, limits.min_chars_per_s, infinite, "characters a second")
    yield _Check("too much text", chars_per_s, -infinite, limits.max_chars_per_s, "characters a second")
    if pieces is not None:
        pieces_per_s = pieces / np.maximum(duration_s, 1e-9)
        yield _Check("too many pieces", pieces_per_s, -infinite, limits.max_pieces_per_s, "pieces a second")
    yield _Check("too quiet", numbers(table, "loudness_lufs"), limits.min_loudness_lufs, infinite, "LUFS")
    yield _Check("clipped", numbers(table, "clipped_share"), -infinite, limits.max_clipped_share, "of the samples")


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """A column as float64, NaN where it says nothing."""
    return np.asarray(pc.fill_null(table[column], float("nan")).to_numpy(), np.float64)


def _detail(check: _Check, row: int) -> str:
    value = check.values[row]
    side, limit = ("below", check.low) if value < check.low else ("above", check.high)
    return f"{value:.3g} {check.unit} is {side} {limit:g}"
