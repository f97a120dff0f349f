"""The sections of a report that show text and single utterances, in whatever script."""

import unicodedata
from html import escape

from configs.wording import counted
from pipelines.reporting.facts import Facts
from pipelines.reporting.html import NAME, own, percent, section, span, start
from pipelines.reporting.samples import Sample
from pipelines.reporting.text import Character, LanguageText, Script

OPEN = 4  # languages whose texts are shown at once; the others unfold
SHOWN = 120  # characters of a script that are shown at once
RARE_SHOWN = 20
_DOTTED_CIRCLE = "◌"  # carries a mark that stands alone


def text_section(facts: Facts) -> str:
    parts = []
    for i, language in enumerate(facts.languages):
        name = own(language.language) if language.language else "no language stated"
        summary = f"{name}: {counted(language.utterances, 'utterance')}, {span(language.hours)}"
        parts.append(
            f'<details class="card"{" open" if i < OPEN else ""}><summary><strong>{summary}</strong></summary>'
            f"{_language(language)}</details>"
        )
    return section("text", "Text", *parts)


def _language(language: LanguageText) -> str:
    characters = language.characters
    total = sum(c.count for c in characters)
    parts = [f"<h3>{len(characters):,} different characters, {total:,} in all</h3>"]
    parts += [_script(script, total, language.language) for script in language.scripts]
    parts.append(_rare(language))
    parts.append(_words(language))
    return "".join(parts)


def _script(script: Script, total: int, language: str) -> str:
    chips = [_chip(character, language) for character in script.characters]
    said = f"{script.name}: {len(chips):,} different, {percent(script.count, total)} of the text"
    rest = ""
    if len(chips) > SHOWN:
        hidden = f'<p class="chips">{"".join(chips[SHOWN:])}</p>'
        rest = f"<details><summary>{len(chips) - SHOWN:,} more</summary>{hidden}</details>"
    return f'<p class="soft">{said}</p><p class="chips">{"".join(chips[:SHOWN])}</p>{rest}'


def _chip(character: Character, language: str) -> str:
    char = character.char
    name = unicodedata.name(char, "")
    title = f"U+{ord(char):04X}" + ("" if "IDEOGRAPH-" in name else f" {name}")
    css = ' class="rare"' if character.rare else ""
    return f'<span{css} title="{escape(title)}">{own(visible(char), language)}<small>{character.count:,}</small></span>'


def visible(char: str) -> str:
    """A character so that it can be seen by itself."""
    if char == " ":
        return "␣"
    if unicodedata.category(char)[0] == "M":
        return _DOTTED_CIRCLE + char
    return char if char.isprintable() else f"U+{ord(char):04X}"


def _rare(language: LanguageText) -> str:
    rare = [c for c in language.characters if c.rare]
    if not rare:
        return ""
    rows = "".join(
        f"<dt>{own(visible(c.char), language.language)} {c.count:,}×</dt><dd>{own(c.example)}</dd>"
        for c in sorted(rare, key=lambda c: (c.count, c.char))[:RARE_SHOWN]
    )
    more = f" The {RARE_SHOWN} rarest:" if len(rare) > RARE_SHOWN else ""
    return (
        f"<h3>{counted(len(rare), 'rare character')}</h3><p>Marked above: too few for a recogniser to learn, or no "
        f"letters of this language. Each with an utterance that has it.{more}</p><dl>{rows}</dl>"
    )


def _words(language: LanguageText) -> str:
    words = language.words
    if words is None:
        return "<h3>Words</h3><p>Not counted: this script has no spaces between words.</p>"
    chips = "".join(f"<span>{own(word, language.language)}<small>{times:,}</small></span>" for word, times in words.top)
    said = (
        f"{counted(words.running, 'word')}, {words.distinct:,} different, of which {words.once:,} occur once "
        f"({percent(words.once, words.distinct)}). The most frequent:"
    )
    return f'<h3>Words</h3><p>{said}</p><p class="chips">{chips}</p>'


def samples_section(facts: Facts) -> str:
    cards = "".join(_sample(sample) for sample in facts.samples)
    said = (
        f"<p>{counted(len(facts.samples), 'utterance')} drawn by chance, the same for the same manifest: the sound as "
        "features are made of it (16 kHz, one channel, gain applied; MP3 only here), its log-mel picture, its text.</p>"
    )
    return section("listen", "Listen", said, f'<div class="side">{cards}</div>')


def _sample(sample: Sample) -> str:
    u = sample.utterance
    about = " · ".join(
        own(part)
        for part in (
            u.split,
            u.corpus,
            u.language,
            start(u.speaker, NAME) or "speaker not known",
            f"{u.duration_s:.2f} s",
        )
        if part
    )
    rows = [("original", own(u.text_raw, u.language)), ("audio", own(u.audio))]
    if u.offset_s:
        rows.append(("from", f"{u.offset_s:.2f} s"))
    if u.gain_db:
        rows.append(("gain", f"{u.gain_db:+.1f} dB"))
    if u.notes:
        rows.append(("remarks", own(u.notes)))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return (
        f'<article class="card sample"><h3>{own(u.id)}</h3><p class="soft">{about}</p>{_heard(sample)}'
        f'<p class="said" dir="auto" lang="{escape(u.language)}">{escape(u.text)}</p><dl>{listed}</dl></article>'
    )


def _heard(sample: Sample) -> str:
    if sample.fault:
        return f"<p><strong>The audio cannot be read any more:</strong> {own(sample.fault)}</p>"
    id_ = escape(sample.utterance.id)
    cut = f'<p class="soft">The first {sample.heard_s:g} s.</p>' if sample.heard_s < sample.utterance.duration_s else ""
    picture = ""
    if sample.picture:
        alt = f"Log-mel picture of {id_}: {sample.heard_s:.2f} s from left to right, 20 Hz to 8 kHz from bottom to top"
        picture = (
            f'<div class="picture"><img src="{sample.picture}" alt="{alt}"><div class="ticks" aria-hidden="true">'
            f'<span data-first style="left:0">0 s</span><span data-last style="left:100%">{sample.heard_s:.2f} s</span>'
            "</div></div>"
        )
    return f'{picture}<audio controls preload="metadata" src="{sample.sound}" aria-label="Play {id_}"></audio>{cut}'
