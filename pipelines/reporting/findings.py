"""What in a manifest deserves a look first, in sentences: each with the section that shows more."""

from collections.abc import Iterator
from html import escape

from configs.wording import counted
from pipelines.reporting.facts import Facts
from pipelines.reporting.html import hours, own, percent

RATE = 16000  # what the sound is brought to: files with less leave the upper bands empty
ODD_SPEED = 3.0  # times faster or slower than the median of the language
CLIPPED = 1e-3  # share of samples
MAIN_SPEAKER = 0.25  # of the hours
STRAY_SHARE = 0.01  # of a language's characters: less is hardly a script that it is written in


def findings(facts: Facts) -> list[tuple[str, str]]:
    """(anchor of the section, HTML)."""
    return [*_dropped(facts), *_leaks(facts), *_rights(facts), *_speakers(facts), *_audio(facts), *_texts(facts)]


def _dropped(facts: Facts) -> Iterator[tuple[str, str]]:
    if facts.dropped:
        lost = sum(d.tally.utterances for d in facts.dropped)
        first = facts.dropped[0].tally
        share = percent(lost, lost + facts.utterances)
        yield (
            "dropped",
            f"{counted(lost, 'utterance')} ({share}) dropped; most often: {own(first.name)} ({first.utterances:,}).",
        )


def _leaks(facts: Facts) -> Iterator[tuple[str, str]]:
    for leak in facts.leaks.findings if facts.leaks else ():
        if not leak.dropped:
            yield "leaks", f"Reported, not dropped: {counted(leak.utterances, 'utterance')}, {escape(leak.what)}."
    for warning in facts.leaks.warnings if facts.leaks else ():
        yield "leaks", escape(warning)


def _rights(facts: Facts) -> Iterator[tuple[str, str]]:
    for group in facts.groups["licence"].groups:
        if not group.keys[0]:
            yield "hours", f"{counted(group.utterances, 'utterance')} without a licence."


def _speakers(facts: Facts) -> Iterator[tuple[str, str]]:
    unknown = facts.unnamed.utterances
    if unknown:
        which = "All utterances" if unknown == facts.utterances else counted(unknown, "utterance")
        yield "speakers", f"{which} without a speaker: whether one is in training and test too cannot be told."
    first = next(iter(facts.groups["speaker"].groups), None)
    if first and facts.speakers > 1 and first.hours > MAIN_SPEAKER * facts.hours:
        yield "speakers", f"One speaker, {own(first.keys[0])}, has {percent(first.hours, facts.hours)} of the hours."


def _audio(facts: Facts) -> Iterator[tuple[str, str]]:
    low = [g for g in facts.groups["sample_rate"].groups if int(g.keys[0]) < RATE]
    if low:
        kept = f"up to {max(int(g.keys[0]) for g in low) / 2000:g} kHz of the {RATE / 2000:g} that features cover"
        lengths = f"{counted(sum(g.utterances for g in low), 'utterance')} ({hours(sum(g.hours for g in low))} h)"
        yield "audio", f"{lengths} with fewer than {RATE:,} samples a second: they hold sound {kept}."
    clipped = sum(t.utterances for t in facts.clipping if t.name in ("0.1 to 1 %", "more than 1 %"))
    if clipped:
        yield "audio", f"{counted(clipped, 'utterance')} with more than {100 * CLIPPED:g} % of the samples clipped."
    unheard = sum(t.utterances for t in facts.clipping if t.name == "not listened to")
    if unheard:
        yield (
            "audio",
            f"{counted(unheard, 'utterance')} not listened to: damage, clipping, loudness are not known.",
        )


def _texts(facts: Facts) -> Iterator[tuple[str, str]]:
    relative = facts.relative_speed.values
    odd = int(((relative > ODD_SPEED) | (relative < 1 / ODD_SPEED)).sum())
    if odd:
        yield (
            "shapes",
            f"{counted(odd, 'utterance')} more than {ODD_SPEED:g} times faster or slower than the language's median: "
            "does the text belong to the audio?",
        )
    for language in facts.languages:
        total = sum(s.count for s in language.scripts)
        for script in language.scripts:
            if script.letters and script.count < STRAY_SHARE * total:
                name = own(language.language or "not stated")
                yield "text", f"Language {name}: {script.count:,} of {total:,} characters are {script.name}."
    rare = sum(c.rare for language in facts.languages for c in language.characters)
    if rare:
        yield "text", f"{counted(rare, 'rare character')}."
