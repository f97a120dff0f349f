"""All figures of a report in one record."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.leaks import Leaks
from pipelines.reporting import counts, samples, text
from pipelines.reporting.counts import Breakdown, Extreme, Lost, Spread, Tally, Values
from pipelines.reporting.samples import Sample
from pipelines.reporting.text import LanguageText

HISTOGRAMS = 6  # of the largest splits


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report says of a manifest. `split_rows` gives the rows of each split, the one with most hours first."""

    utterances: int
    hours: float
    speakers: int
    split_rows: dict[str, npt.NDArray[np.int64]]
    groups: dict[str, Breakdown]  # by the name of the column
    speaker_seconds: npt.NDArray[np.float64]
    unnamed: Tally  # utterances of unknown speakers
    spreads: dict[str, Spread]
    relative_speed: Spread
    extremes: dict[str, list[Extreme]]
    languages: list[LanguageText]
    clipping: list[Tally]
    formats: list[Tally]
    notes: list[Tally]
    extras: dict[str, Values]
    dropped: list[Lost]
    leaks: Leaks | None
    samples: list[Sample]


def gather(table: pa.Table, dropped: pa.Table, leaks: Leaks | None) -> Facts:
    """`table` in the form of UTTERANCE_SCHEMA and `dropped` of DROPPED_SCHEMA; either may be empty."""
    cube = counts.cube(table)
    named = cube.filter(pc.not_equal(cube["speaker"], ""))
    groups = {name: counts.breakdown(cube, keys) for name, keys in _GROUPS.items()}
    groups["speaker"] = counts.breakdown(named, ("speaker", "corpus"))
    spreads = {spread.name: spread for spread in counts.spreads(table)}
    relative = counts.relative_speed(table, spreads["Speed"])
    ends = {
        "Fastest speech": (relative, True),
        "Slowest speech": (relative, False),
        "Quietest": (spreads["Loudness"], False),
        "Longest": (spreads["Length"], True),
    }
    seconds = counts.speaker_seconds(named)
    return Facts(
        utterances=len(table),
        hours=counts.hours(table),
        speakers=len(seconds),
        split_rows=_split_rows(table, groups["split"]),
        groups=groups,
        speaker_seconds=seconds,
        unnamed=counts.unnamed(cube),
        spreads=spreads,
        relative_speed=relative,
        extremes={name: counts.extremes(table, *end) for name, end in ends.items()},
        languages=text.languages(table),
        clipping=counts.clipping(table),
        formats=counts.formats(table),
        notes=counts.notes(table),
        extras=counts.extras(table),
        dropped=counts.lost(dropped),
        leaks=leaks,
        samples=samples.choose(table),
    )


_GROUPS = {
    "split": ("split",),
    "language": ("language",),
    "corpus": ("corpus",),
    "licence": ("licence",),
    "source": ("source",),
    "sample_rate": ("sample_rate",),
    "channels": ("channels", "channel"),
}


def _split_rows(table: pa.Table, splits: Breakdown) -> dict[str, npt.NDArray[np.int64]]:
    names = [group.keys[0] for group in splits.groups[:HISTOGRAMS]]
    return {name: np.flatnonzero(pc.equal(table["split"], name).to_numpy()) for name in names}
