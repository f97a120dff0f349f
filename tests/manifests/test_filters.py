"""Which rows a limit takes away, and what a user reads about each."""

from argparse import ArgumentParser
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import filters
from manifests.filters import Limits
from manifests.schema import DROPPED_SCHEMA, UTTERANCE_SCHEMA, Utterance, to_table

ROW = Utterance("a", "c", "train", "en", "s", "/a.flac", 0.0, 2.0, 16000, 1, "A word", "a word", "CC0", "here")


def apply(table: pa.Table, *limits: Any) -> tuple[pa.Table, pa.Table]:
    """(kept, dropped)."""
    rows, reasons, details = filters.unfit(table, *limits)
    kept = np.delete(np.arange(len(table)), rows)
    return table.take(kept), filters.as_dropped(table.take(rows), reasons, details)


def table(*rows: Utterance) -> pa.Table:
    return to_table([replace(row, id=str(i)) for i, row in enumerate(rows)], UTTERANCE_SCHEMA)


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"duration_s": 0.05}, "too short", "0.05 s is below 0.1"),
        ({"duration_s": 60.5}, "too long", "60.5 s is above 60"),
        ({"duration_s": 30.0}, "too little text", "0.2 characters a second is below 0.25"),
        ({"duration_s": 0.12}, "too much text", "50 characters a second is above 40"),
        ({"loudness_lufs": -71.25}, "too quiet", "-71.2 LUFS is below -60"),
        ({"clipped_share": 0.25}, "clipped", "0.25 of the samples is above 0.05"),
        ({"duration_s": 0.05, "loudness_lufs": -90.0}, "too short", "0.05 s is below 0.1"),
    ],
)
def test_each_limit_names_what_it_measured(changes: dict, reason: str, detail: str) -> None:
    kept, dropped = apply(table(ROW, replace(ROW, **changes)), Limits())
    assert kept["id"].to_pylist() == ["0"]
    assert dropped.schema.equals(DROPPED_SCHEMA, check_metadata=True)
    (row,) = dropped.to_pylist()
    assert (row["id"], row["reason"], row["detail"], row["text_raw"]) == ("1", reason, detail, "A word")


def test_what_was_not_measured_is_not_judged() -> None:
    rows = table(ROW, replace(ROW, loudness_lufs=None, clipped_share=None))
    kept, dropped = apply(rows, Limits(min_loudness_lufs=0.0, max_clipped_share=0.0, max_pieces_per_s=0.1))
    assert len(kept) == 2 and len(dropped) == 0


def test_pieces_are_limited_where_they_are_counted() -> None:
    kept, dropped = apply(table(ROW, ROW), Limits(max_pieces_per_s=3.0), np.array([6, 7]))
    assert kept["id"].to_pylist() == ["0"]
    assert dropped["detail"].to_pylist() == ["3.5 pieces a second is above 3"]


LENGTHS = st.floats(0.01, 100)


@given(st.lists(st.tuples(LENGTHS, st.text("ab c", max_size=80), st.none() | st.floats(-100, 0)), max_size=20))
def test_every_row_is_kept_or_dropped_and_what_is_kept_keeps_the_limits(
    rows: list[tuple[float, str, float | None]],
) -> None:
    given_rows = table(*(replace(ROW, duration_s=s, text=text, loudness_lufs=db) for s, text, db in rows))
    kept, dropped = apply(given_rows, Limits())
    assert sorted(kept["id"].to_pylist() + dropped["id"].to_pylist()) == sorted(given_rows["id"].to_pylist())
    for row in kept.to_pylist():
        assert 0.1 <= row["duration_s"] <= 60
        assert 0.25 <= len(row["text"]) / row["duration_s"] <= 40
        assert row["loudness_lufs"] is None or row["loudness_lufs"] >= -60
    again, none = apply(kept, Limits())
    assert again.equals(kept) and len(none) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-duration-s", "nan"], "--max-duration-s nan: must be above 0"),
        (["--min-chars-per-s", "-1"], "--min-chars-per-s -1: must be 0 or more"),
        (["--min-duration-s", "9", "--max-duration-s", "8"], "--min-duration-s 9: is above --max-duration-s 8"),
    ],
)
def test_limits_that_no_row_can_keep_are_refused(argv: list[str], message: str) -> None:
    parser = ArgumentParser()
    filters.add_arguments(parser, "max_pieces_per_s")
    with pytest.raises(ValueError) as err:
        filters.from_arguments(parser.parse_args(argv))
    assert str(err.value) == message
