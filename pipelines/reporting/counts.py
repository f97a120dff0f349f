"""What a report counts in a manifest: hours by this and that, spreads, extremes, what was dropped, provenance.

All of it works on Arrow's columns and numpy's arrays, with Python's loops over distinct values only. Arrow's own
threads are not used: they would add hours in another order each time, and the report is to be the same byte for byte.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.filters import numbers

TOP = 30  # rows of a table
VALUES = 10  # of what else the corpora say, under one key
EXAMPLES = 5  # of each reason, at each extreme
SLICE = 65536  # rows that are worked on at once where each would take much memory

Floats = npt.NDArray[np.float64]
_CUBE = ("split", "corpus", "language", "licence", "source", "speaker", "sample_rate", "channels", "channel")


@dataclass(frozen=True, slots=True)
class Group:
    """Utterances that have something in common. `split_hours` are those of each split in which there are some."""

    keys: tuple[str, ...]
    utterances: int
    hours: float
    speakers: int
    split_hours: dict[str, float]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The groups with the most hours, and how many there are in all."""

    groups: list[Group]
    total: int


@dataclass(frozen=True, slots=True)
class Spread:
    """A measure in figures; `values` are the finite ones, with the row that each belongs to."""

    name: str
    unit: str
    rows: npt.NDArray[np.int64]
    values: Floats

    def quantiles(self) -> list[float]:
        """The least, 5 %, the median, 95 % and the greatest."""
        return [float(q) for q in np.quantile(self.values, [0, 0.05, 0.5, 0.95, 1])]


@dataclass(frozen=True, slots=True)
class Extreme:
    """One of the least or greatest values of a measure, with its row of the manifest."""

    value: float
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something occurs, and in how much audio."""

    name: str
    utterances: int
    hours: float


def hours(table: pa.Table) -> float:
    return float(numbers(table, "duration_s").sum()) / 3600


def cube(table: pa.Table) -> pa.Table:
    """The utterances and seconds of each combination of labels: small, and all that breakdowns need."""
    grouped = table.select([*_CUBE, "duration_s"]).group_by(list(_CUBE), use_threads=False)
    counted = grouped.aggregate([("duration_s", "count"), ("duration_s", "sum")])
    return counted.rename_columns([*_CUBE, "utterances", "seconds"])


def breakdown(cube: pa.Table, keys: Sequence[str], top: int = TOP) -> Breakdown:
    """The groups of rows that have the same values in the columns `keys`, most hours first."""
    sums = _sums(cube, keys).sort_by([("seconds", "descending"), *((key, "ascending") for key in keys)])
    chosen = sums.slice(0, top)
    among = cube
    if len(sums) > top:  # a million speakers need not be looked at again for the thirty that are shown
        among = cube.join(chosen.select(keys), list(keys), join_type="inner", use_threads=False)
    named = among.filter(pc.not_equal(among["speaker"], ""))
    pairs = named.group_by(list(dict.fromkeys([*keys, "corpus", "speaker"])), use_threads=False).aggregate([])
    people = pairs.group_by(list(keys), use_threads=False).aggregate([([], "count_all")])
    speakers = dict(zip(_keys(people, keys), people["count_all"].to_pylist(), strict=True))
    by_split = _sums(among, list(dict.fromkeys([*keys, "split"])))
    split_hours: dict[tuple[str, ...], dict[str, float]] = {}
    for group, split, seconds in zip(
        _keys(by_split, keys), by_split["split"].to_pylist(), by_split["seconds"].to_pylist(), strict=True
    ):
        split_hours.setdefault(group, {})[split] = seconds / 3600
    figures = zip(_keys(chosen, keys), chosen["utterances"].to_pylist(), chosen["seconds"].to_pylist(), strict=True)
    groups = [Group(group, n, s / 3600, speakers.get(group, 0), split_hours[group]) for group, n, s in figures]
    return Breakdown(groups, len(sums))


def _sums(cube: pa.Table, keys: Sequence[str]) -> pa.Table:
    grouped = cube.group_by(list(keys), use_threads=False).aggregate([("utterances", "sum"), ("seconds", "sum")])
    return grouped.rename_columns([*keys, "utterances", "seconds"])


def _keys(table: pa.Table, keys: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*([str(value) for value in table[key].to_pylist()] for key in keys), strict=True))


def speaker_seconds(named: pa.Table) -> Floats:
    """Of each speaker in those rows of a cube that name one. The same name in two corpora is two speakers."""
    return numbers(_sums(named, ["corpus", "speaker"]), "seconds")


def unnamed(cube: pa.Table) -> Tally:
    """The utterances of which the speaker is not known."""
    of_them = cube.filter(pc.equal(cube["speaker"], ""))
    return Tally("", int(of_them["utterances"].to_numpy().sum()), float(numbers(of_them, "seconds").sum()) / 3600)


def spread(name: str, unit: str, values: Floats) -> Spread:
    rows = np.flatnonzero(np.isfinite(values))
    return Spread(name, unit, rows, values[rows])


def spreads(table: pa.Table) -> list[Spread]:
    """Length, speed, text length and levels. Levels have no values where nobody listened."""
    duration_s = numbers(table, "duration_s")
    characters = pc.utf8_length(table["text"]).to_numpy().astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # a length of 0 has no speed and is left out of it
        speed = characters / duration_s
    return [
        spread("Length", "s", duration_s),
        spread("Speed", "characters per s", speed),
        spread("Text length", "characters", characters),
        spread("Loudness", "LUFS", numbers(table, "loudness_lufs")),
        spread("Peak", "dBFS", numbers(table, "peak_dbfs")),
        spread("Gain", "dB", numbers(table, "gain_db")),
    ]


def relative_speed(table: pa.Table, speed: Spread) -> Spread:
    """Speed as a multiple of the median of the utterance's language."""
    language = codes(table, ["language"])[speed.rows]
    relative = speed.values.copy()
    for code in np.unique(language):
        of_it = language == code
        relative[of_it] /= max(float(np.median(relative[of_it])), 1e-9)
    return Spread("Speed", "times the median of its language", speed.rows, relative)


def extremes(table: pa.Table, measure: Spread, largest: bool) -> list[Extreme]:
    """The values at one end and their rows; of equal values the first row, so that the choice is always the same."""
    order = np.argsort(-measure.values if largest else measure.values, kind="stable")[:EXAMPLES]
    return [Extreme(float(measure.values[i]), table.slice(measure.rows[i], 1).to_pylist()[0]) for i in order]


def tallies(names: pa.ChunkedArray, duration_s: Floats) -> list[Tally]:
    """Each distinct name, most utterances first."""
    named = pa.table({"name": names, "seconds": duration_s})
    sums = named.group_by("name", use_threads=False).aggregate([("seconds", "count"), ("seconds", "sum")])
    order = sums.sort_by([("seconds_count", "descending"), ("name", "ascending")])
    return [Tally(str(r["name"]), r["seconds_count"], r["seconds_sum"] / 3600) for r in order.to_pylist()]


def notes(table: pa.Table) -> list[Tally]:
    """The remarks of those who listened, with `…` for their figures."""
    noted = table.filter(pc.not_equal(table["notes"], ""))
    if not len(noted):
        return []
    lists = pc.split_pattern(noted["notes"], "; ").combine_chunks()
    kinds = pc.replace_substring_regex(pc.list_flatten(lists), r"[-+]?\d+([.,]\d+)*", "…")
    return tallies(pa.chunked_array([kinds]), numbers(noted, "duration_s")[pc.list_parent_indices(lists).to_numpy()])


def formats(table: pa.Table) -> list[Tally]:
    """The endings of the audio files' names."""
    endings = pc.struct_field(pc.extract_regex(table["audio"], r"\.(?P<ending>[A-Za-z0-9]{1,5})$"), "ending")
    return tallies(pc.utf8_lower(pc.fill_null(endings, "none")), numbers(table, "duration_s"))


def clipping(table: pa.Table) -> list[Tally]:
    """Utterances by their share of clipped samples."""
    share, duration_s = numbers(table, "clipped_share"), numbers(table, "duration_s")
    kinds = {
        "none": share == 0,
        "up to 0.01 %": (share > 0) & (share <= 1e-4),
        "0.01 to 0.1 %": (share > 1e-4) & (share <= 1e-3),
        "0.1 to 1 %": (share > 1e-3) & (share <= 1e-2),
        "more than 1 %": share > 1e-2,
        "not listened to": np.isnan(share),
    }
    return [Tally(kind, int(of.sum()), float(duration_s[of].sum()) / 3600) for kind, of in kinds.items() if of.any()]


@dataclass(frozen=True, slots=True)
class Values:
    """What the corpora say under one key: how many utterances have it, how many different values, the first of them."""

    utterances: int
    distinct: int
    top: list[Tally]


def extras(table: pa.Table) -> dict[str, Values]:
    """What else the corpora know, by key; most utterances first."""
    stated = table.select(["extra", "duration_s"]).filter(pc.not_equal(table["extra"], ""))
    found: dict[str, list[pa.Table]] = {}
    distinct = _summed(stated.rename_columns(["value", "seconds"]).append_column("utterances", _ones(len(stated))))
    for start in range(0, len(distinct), SLICE):
        part = distinct.slice(start, SLICE)
        objects = json.loads(
            f"[{','.join(part['value'].to_pylist())}]"
        )  # one call: a call for each takes 3.5 times as long
        for key in set().union(*objects):
            values = pa.array([_words(each.get(key)) for each in objects], pa.string())
            counted = pa.table({"value": values, "seconds": part["seconds"], "utterances": part["utterances"]})
            found.setdefault(key, []).append(_summed(counted.filter(pc.is_valid(values))))
    return {key: _values(_summed(pa.concat_tables(found[key]))) for key in sorted(found)}


def _ones(rows: int) -> pa.Array:
    return pa.array(np.ones(rows, np.int64))


def _summed(table: pa.Table) -> pa.Table:
    sums = table.group_by("value", use_threads=False).aggregate([("seconds", "sum"), ("utterances", "sum")])
    return sums.rename_columns(["value", "seconds", "utterances"])


def _words(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _values(sums: pa.Table) -> Values:
    top = sums.sort_by([("utterances", "descending"), ("value", "ascending")]).slice(0, VALUES).to_pylist()
    tallies = [Tally(each["value"], each["utterances"], each["seconds"] / 3600) for each in top]
    return Values(int(sums["utterances"].to_numpy().sum()), len(sums), tallies)


def joined(column: pa.ChunkedArray, separator: str) -> Iterator[str]:
    """The texts of a column, each followed by `separator`, some thousand in one string."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), SLICE):
            part = chunk.slice(start, SLICE)
            whole = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), part)
            yield pc.binary_join(whole, separator)[0].as_py() + separator


def shuffled(table: pa.Table) -> npt.NDArray[np.int64]:
    """All rows in an order that only the ids decide."""
    digest = hashlib.sha256()
    for text in joined(table["id"], "\n"):
        digest.update(text.encode())
    return np.random.default_rng(list(digest.digest())).permutation(len(table))


def codes(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.int64]:
    """A number from 0 on for each row, the same where the values in all of the columns are."""
    group = np.zeros(len(table), np.int64)
    for column in columns:
        values = table[column].dictionary_encode().unify_dictionaries().combine_chunks().indices.to_numpy()
        group = np.unique(group * (len(table) + 1) + values, return_inverse=True)[1]
    return group


def turns(order: npt.NDArray[np.int64], group: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each place in an order of rows how many rows of the same group come before it."""
    by_group = np.argsort(group[order], kind="stable")
    sizes = np.bincount(group)
    turn = np.empty(len(order), np.int64)
    turn[by_group] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return turn


@dataclass(frozen=True, slots=True)
class Lost:
    """A reason, what it cost, and some of its utterances, of as many kinds of `detail` as there are."""

    tally: Tally
    examples: list[dict[str, str]]


def lost(dropped: pa.Table) -> list[Lost]:
    """What was dropped, by reason, most utterances first."""
    reasons = []
    for tally in tallies(dropped["reason"], numbers(dropped, "duration_s")):
        of_it = dropped.filter(pc.equal(dropped["reason"], tally.name))
        order = shuffled(of_it)
        rows = order[np.argsort(turns(order, codes(of_it, ["detail"])), kind="stable")][:EXAMPLES]
        reasons.append(Lost(tally, of_it.take(rows).to_pylist()))
    return reasons
