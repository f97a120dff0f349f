"""The page of a report: what stands at its top, and its sections in order."""

from html import escape

from pipelines.reporting import cards, sections
from pipelines.reporting.facts import Facts
from pipelines.reporting.findings import findings
from pipelines.reporting.html import document, note, section, span

_SECTIONS = {
    "hours": "Hours",
    "speakers": "Speakers",
    "listen": "Listen",
    "shapes": "Distributions",
    "text": "Text",
    "audio": "Audio",
    "dropped": "Dropped",
    "leaks": "Leaks",
    "provenance": "Provenance",
    "made": "How it was made",
}


def render(facts: Facts, title: str, command: str) -> str:
    """One HTML file that loads nothing and runs nothing."""
    links = " ".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in _SECTIONS.items())
    body = [
        f"<header><h1>{escape(title)}</h1>{note('A report on a manifest of speech.')}"
        f'<nav aria-label="Sections">{links}</nav></header>\n',
        _tiles(facts),
        _findings(facts),
        sections.hours_section(facts),
        sections.speakers_section(facts),
        cards.samples_section(facts),
        sections.shapes_section(facts),
        cards.text_section(facts),
        sections.audio_section(facts),
        sections.dropped_section(facts),
        sections.leaks_section(facts),
        sections.provenance_section(facts),
        section("made", "How it was made", f'<pre class="card">{escape(command)}</pre>'),
    ]
    return document(title, "".join(body))


def _tiles(facts: Facts) -> str:
    tiles = [
        (span(facts.hours), "of speech"),
        (f"{facts.utterances:,}", "utterances"),
        (f"{facts.speakers:,}" if facts.speakers else "–", "known speakers"),
        (f"{facts.groups['split'].total:,}", "splits"),
        (f"{facts.groups['language'].total:,}", "languages"),
        (f"{facts.groups['corpus'].total:,}", "corpora"),
        (f"{sum(d.tally.utterances for d in facts.dropped):,}", "dropped"),
    ]
    boxes = "".join(f'<div class="card"><strong>{value}</strong>{name}</div>' for value, name in tiles)
    return f'<div class="tiles">{boxes}</div>\n'


def _findings(facts: Facts) -> str:
    found = [f'<li>{text} <a href="#{anchor}">{_SECTIONS[anchor]}</a></li>' for anchor, text in findings(facts)]
    listed = f'<ul class="card look" role="list">{"".join(found)}</ul>' if found else "<p>Nothing stands out.</p>"
    return section("look", "Worth a look", listed)
