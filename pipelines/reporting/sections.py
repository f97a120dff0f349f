"""The sections of a report about hours, speakers, distributions, audio, what was dropped, leaks and provenance."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.wording import counted
from manifests.schema import MIX
from pipelines.reporting import charts
from pipelines.reporting.counts import TOP, Breakdown, Extreme, Spread, Tally, Values
from pipelines.reporting.facts import Facts
from pipelines.reporting.html import NAME, bar, card, grid, hours, note, own, percent, section, span, start

SPLIT_COLUMNS = 6  # a column for each split, where there are not more than these
_PERIODS = ((60, "up to 1 min"), (300, "1 to 5 min"), (1200, "5 to 20 min"), (3600, "20 to 60 min"))
_LONG_PERIODS = ((18000, "1 to 5 h"), (float("inf"), "more than 5 h"))


def hours_section(facts: Facts) -> str:
    names = {"split": "split", "language": "language", "corpus": "corpus", "licence": "licence"}
    return section("hours", "Hours", *(_breakdown(facts, column, name) for column, name in names.items()))


def _breakdown(facts: Facts, column: str, name: str) -> str:
    found = facts.groups[column]
    splits = list(facts.split_rows) if column != "split" and 1 < found_splits(facts) <= SPLIT_COLUMNS else []
    heads = [name, "hours", "", "share", "utterances", "speakers", *(escape(split) for split in splits)]
    rows = [
        [
            own(group.keys[0], group.keys[0] if column == "language" else "")
            if group.keys[0]
            else "<em>not stated</em>",
            hours(group.hours),
            bar(group.hours / facts.hours if facts.hours else 0),
            percent(group.hours, facts.hours),
            f"{group.utterances:,}",
            f"{group.speakers:,}" if group.speakers else "not known",
            *(hours(group.split_hours[split]) if split in group.split_hours else "–" for split in splits),
        ]
        for group in found.groups
    ]
    return f"<h3>By {name}</h3>{grid(f'Hours by {name}', heads, rows)}{_more(found, name)}"


def found_splits(facts: Facts) -> int:
    return facts.groups["split"].total


def _more(found: Breakdown, name: str) -> str:
    hidden = found.total - len(found.groups)
    return note(f"The {len(found.groups)} with the most hours; {hidden:,} more are in the manifest.") if hidden else ""


def speakers_section(facts: Facts) -> str:
    unknown = facts.unnamed
    said = f"{counted(facts.speakers, 'speaker')} known by name."
    if unknown.utterances:
        said += f" {counted(unknown.utterances, 'utterance')} ({hours(unknown.hours)} h) do not say who speaks."
    if not facts.speakers:
        return section("speakers", "Speakers", f"<p>{said}</p>")
    named = facts.groups["speaker"].groups
    several = facts.groups["corpus"].total > 1
    rows = [
        [
            own(start(group.keys[0], NAME)) + (f' <span class="soft">{own(group.keys[1])}</span>' if several else ""),
            hours(group.hours),
            bar(group.hours / named[0].hours if named[0].hours else 0),
            percent(group.hours, facts.hours),
            f"{group.utterances:,}",
            ", ".join(own(split) for split in sorted(group.split_hours)),
        ]
        for group in named
    ]
    table = grid("Speakers with the most hours", ["speaker", "hours", "", "share", "utterances", "splits"], rows)
    heading = f"The {len(rows)} with the most hours" if facts.speakers > len(rows) else "All, most hours first"
    return section(
        "speakers", "Speakers", f"<p>{said}</p>", _periods(facts.speaker_seconds), f"<h3>{heading}</h3>{table}"
    )


def _periods(seconds: npt.NDArray[np.float64]) -> str:
    """How many speakers are heard for how long."""
    rows, above = [], 0.0
    for limit, name in (*_PERIODS, *_LONG_PERIODS):
        of_it = (seconds > above) & (seconds <= limit) if above else seconds <= limit
        above = limit
        speakers = int(of_it.sum())
        if speakers:
            heard_h = float(seconds[of_it].sum()) / 3600
            share = speakers / len(seconds)
            rows.append([name, f"{speakers:,}", bar(share), percent(speakers, len(seconds)), hours(heard_h)])
    typical = f"Half of the speakers are heard for less than {span(float(np.median(seconds)) / 3600)}."
    heads = ["each is heard for", "speakers", "", "share", "hours"]
    return f"<h3>How long each is heard</h3>{grid('Speakers by how long they are heard', heads, rows)}{note(typical)}"


def shapes_section(facts: Facts) -> str:
    drawn = [facts.spreads[name] for name in ("Length", "Speed", "Text length", "Loudness")]
    figures = "".join(_figure(facts, spread) for spread in drawn)
    legend = note("Bars are shares of the split's utterances; the line is the median. Point at a bar for its figures.")
    ends = "".join(_extremes(name, found) for name, found in facts.extremes.items())
    return section(
        "shapes",
        "Distributions",
        legend,
        f'<div class="side small">{figures}</div>',
        "<h3>In figures</h3>",
        _spreads(facts),
        ends,
    )


def _figure(facts: Facts, spread: Spread) -> str:
    if not len(spread.values):
        return card(f"{spread.name} ({spread.unit})", "<p>Not measured: nobody listened to the audio.</p>")
    along = charts.axis(spread.values, from_zero=bool(spread.values.min() >= 0))
    of_splits = {
        name: spread.values[np.isin(spread.rows, rows, assume_unique=True)] for name, rows in facts.split_rows.items()
    }
    plots = "".join(_plot(spread, along, name, values) for name, values in of_splits.items() if len(values))
    hidden = found_splits(facts) - len(facts.split_rows)
    more = note(along.beyond()) if along.above or along.below else ""
    if hidden:
        more += note(f"The {len(facts.split_rows)} largest of {found_splits(facts)} splits.")
    return f'<figure class="card"><h3>{spread.name} ({spread.unit})</h3>{plots}{_ticks(along)}{more}</figure>'


def _plot(spread: Spread, along: charts.Axis, name: str, values: npt.NDArray[np.float64]) -> str:
    counts = along.counts(values)
    top = charts.top_share(counts)
    median = float(np.median(values))
    figures = f"n = {len(values):,}, median {charts.number(round(median, 2))}"
    about = f"{spread.name} in {spread.unit}, {name}: {figures}, from {values.min():.3g} to {values.max():.3g}"
    return (
        f'<div class="named"><strong>{own(name)}</strong><span>{figures}</span></div><div class="plot">'
        f"{charts.histogram(counts, along, top, spread.unit, about)}"
        f'<span class="median" style="left:{along.place(median):.2f}%"></span>'
        f'<span class="top" aria-hidden="true">{100 * top:g} %</span></div>'
    )


def _ticks(along: charts.Axis) -> str:
    marks = []
    for value in along.ticks():
        place = along.place(value)
        edge = " data-first" if place < 2 else " data-last" if place > 98 else ""
        marks.append(f'<span style="left:{place:.2f}%"{edge}>{charts.number(value)}</span>')
    return f'<div class="ticks" aria-hidden="true">{"".join(marks)}</div>'


def _spreads(facts: Facts) -> str:
    rows = [
        [f"{s.name} ({s.unit})", f"{len(s.values):,}", *(f"{value:,.2f}" for value in s.quantiles())]
        for s in (*facts.spreads.values(), facts.relative_speed)
        if len(s.values)
    ]
    return grid("Spreads", ["measure", "n", "least", "5 %", "median", "95 %", "greatest"], rows)


def _extremes(name: str, found: Sequence[Extreme]) -> str:
    unit = {"Quietest": "LUFS", "Longest": ""}.get(name, "× median")
    heads = ["utterance", "text", *([unit] if unit else []), "length (s)", "split"]
    rows = [
        [
            own(e.row["id"]),
            own(start(e.row["text"]), e.row["language"]),
            *([f"{e.value:.2f}"] if unit else []),
            f"{e.row['duration_s']:.2f}",
            own(e.row["split"]),
        ]
        for e in found
    ]
    return f"<h3>{name}</h3>{grid(name, heads, rows, texts=(0, 1))}" if rows else ""


def audio_section(facts: Facts) -> str:
    rates = [Tally(f"{int(g.keys[0]):,} Hz", g.utterances, g.hours) for g in facts.groups["sample_rate"].groups]
    channels = [Tally(_channel(*g.keys), g.utterances, g.hours) for g in facts.groups["channels"].groups]
    tables = [
        ("Sample rate of the file", rates),
        ("Channels, and which is taken", channels),
        ("Format of the file", facts.formats),
        ("Clipped samples", facts.clipping),
        ("Remarks on the audio", facts.notes),
    ]
    cards = "".join(
        f"<div><h3>{heading}</h3>{tally_table(heading, found, facts.utterances) or '<p>none</p>'}</div>"
        for heading, found in tables
    )
    return section("audio", "Audio", f'<div class="side">{cards}</div>')


def _channel(channels: str, channel: str) -> str:
    if channels == "1":
        return "1"
    return f"{channels}: their average" if int(channel) == MIX else f"{channels}: number {int(channel) + 1} alone"


def tally_table(label: str, found: Sequence[Tally], whole: int) -> str:
    rows = [[own(t.name), f"{t.utterances:,}", percent(t.utterances, whole), hours(t.hours)] for t in found[:TOP]]
    more = note(f"and {len(found) - TOP:,} more") if len(found) > TOP else ""
    return grid(label, ["", "utterances", "share", "hours"], rows) + more


def dropped_section(facts: Facts) -> str:
    if not facts.dropped:
        return section("dropped", "Dropped", "<p>Nothing was dropped.</p>")
    utterances = sum(lost.tally.utterances for lost in facts.dropped)
    lost_h = sum(lost.tally.hours for lost in facts.dropped)
    whole, whole_h = facts.utterances + utterances, facts.hours + lost_h
    said = (
        f"<p>{counted(utterances, 'utterance')} of {whole:,} ({percent(utterances, whole)}), "
        f"{hours(lost_h)} of {hours(whole_h)} hours. Audio that could not be opened counts as 0 hours.</p>"
    )
    rows = [
        [own(t.name), f"{t.utterances:,}", bar(t.utterances / utterances), percent(t.utterances, whole), hours(t.hours)]
        for t in (lost.tally for lost in facts.dropped)
    ]
    table = grid("Dropped, by reason", ["reason", "utterances", "", "share of all", "hours"], rows)
    examples = "".join(
        f"<details{' open' if i < 3 else ''}><summary>{own(lost.tally.name)}: examples</summary>"
        f"{_dropped_rows(lost.tally.name, lost.examples)}</details>"
        for i, lost in enumerate(facts.dropped)
    )
    return section("dropped", "Dropped", said, table, examples, note("All of them are in dropped.parquet."))


def _dropped_rows(reason: str, examples: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            own(e["id"]),
            own(e["detail"]),
            own(start(e["text_raw"])),
            own(e["audio"]),
            f"{e['duration_s']:.2f}",
            own(e["split"]),
        ]
        for e in examples
    ]
    heads = ["utterance", "why", "text of the corpus", "audio", "length (s)", "split"]
    return grid(f"Examples: {reason}", heads, rows, texts=(0, 1, 2, 3))


def provenance_section(facts: Facts) -> str:
    sources = facts.groups["source"]
    listed = [Tally(g.keys[0] or "not stated", g.utterances, g.hours) for g in sources.groups]
    parts = [f"<h3>Source</h3>{tally_table('Sources', listed, facts.utterances)}{_more(sources, 'source')}"]
    cards = "".join(_extra(key, values, facts.utterances) for key, values in facts.extras.items())
    if cards:
        parts.append(f'<h3>What else the corpora say</h3><div class="side">{cards}</div>')
    return section("provenance", "Provenance", *parts)


def _extra(key: str, values: Values, whole: int) -> str:
    hidden = values.distinct - len(values.top)
    said = f"Stated for {percent(values.utterances, whole)} of the utterances" + (
        f"; {hidden:,} more values." if hidden else "."
    )
    return f"<div><h3>{own(key)}</h3>{tally_table(key, values.top, whole)}{note(said)}</div>"


def leaks_section(facts: Facts) -> str:
    if facts.leaks is None:
        return section("leaks", "Leaks", "<p>Not looked for when this report was made.</p>")
    found = facts.leaks.findings
    said = "The same audio, sentence or speaker in training and in a dev or test split, and audio that is there twice."
    if not found:
        return section("leaks", "Leaks", f"<p>None found. {said}</p>")
    rows = [
        [
            escape(f.what),
            "dropped" if f.dropped else "only reported",
            f"{f.utterances:,}",
            hours(f.hours),
            "<br>".join(own(start(example)) for example in f.examples),
        ]
        for f in found
    ]
    heads = ["what", "and then", "utterances", "hours", "for instance"]
    table = grid("Leaks and duplicates", heads, rows, texts=(0, 1, 4))
    warnings = "".join(f"<p>{escape(warning)}</p>" for warning in facts.leaks.warnings)
    return section("leaks", "Leaks", f"<p>{said} An utterance may count in several rows.</p>", table, warnings)
