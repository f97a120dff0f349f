"""A report of scores for people: an HTML page that loads nothing and runs nothing, and a few lines for the terminal."""

import math
from collections.abc import Sequence
from html import escape

from asr.evaluation.scoring import Aligned, Confusion, Edits, Group, Measure, Pair, Report
from configs.wording import counted

MAX_SPEAKERS = 50  # rows of the speakers' table
NO_RATE = "none: there are no reference words"

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1a1d21; --soft: #59626d; --line: #dfe3e8;
  --accent: #2458a6; --s: #8a5300; --s-bg: #fdeecf; --d: #b0232f; --d-bg: #fde3e4; --i: #1d5fb8; --i-bg: #dfecfd; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1d2125; --ink: #e7eaee; --soft: #9aa4af;
  --line: #343b43; --accent: #7fb0f5; --s: #f2c26b; --s-bg: #40310f; --d: #ff9ba1; --d-bg: #4a1f23; --i: #93c1ff;
  --i-bg: #1b3455; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0 0 .35rem; }
p { margin: .25rem 0; }
.soft { color: var(--soft); font-size: .875rem; }
.side + p { margin-top: .6rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.15rem; }
.side { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); }
.rate { font-size: 2.4rem; font-weight: 650; line-height: 1.15; font-variant-numeric: tabular-nums; }
.second .rate { font-size: 1.6rem; }
.scale { position: relative; height: .7rem; margin: .6rem 0 .2rem; border-radius: .35rem; background: var(--line); }
.scale span { position: absolute; top: 0; bottom: 0; border-radius: .35rem; }
.scale .fill { left: 0; background: var(--accent); opacity: .45; }
.scale .band { background: var(--accent); min-width: 3px; border-radius: .2rem; }
.ends { display: flex; justify-content: space-between; }
td .scale { min-width: 4.5rem; margin: 0; }
.kinds { display: grid; gap: .5rem; grid-template-columns: repeat(3, 1fr); margin-top: .9rem; }
.kinds div { border-radius: .4rem; padding: .35rem .5rem; white-space: nowrap; }
.kinds strong { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.kinds small { display: block; line-height: 1.3; }
.S { color: var(--s); background: var(--s-bg); }
.D { color: var(--d); background: var(--d-bg); }
.I { color: var(--i); background: var(--i-bg); }
h3 b { padding: 0 .4rem; border-radius: .25rem; }
.wide { overflow-x: auto; padding: 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .4rem .55rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; font-size: .8rem; }
tr + tr td { border-top: 1px solid var(--line); }
thead + tbody tr:first-child td { border-top: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 8rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; }
article { margin-bottom: .75rem; }
.words { display: flex; flex-wrap: wrap; gap: .35rem .2rem; margin-top: .5rem; overflow-x: auto; }
.words > span { display: grid; grid-template-rows: 1.5em 1.5em 1em; justify-items: center; padding: 0 .25rem;
  border-radius: .3rem; line-height: 1.5; white-space: nowrap; }
.words > .names { justify-items: start; color: var(--soft); font-size: .8rem; padding-left: 0;
  grid-template-rows: 1.875em 1.875em; line-height: 1.875; }
.words b { font-size: .7rem; line-height: 1.2; text-decoration: none; }
.words i { font-style: normal; }
.words .S i:nth-child(2) { text-decoration: underline dotted; }
.words .D i:first-child { text-decoration: line-through; }
.words .I i:nth-child(2) { text-decoration: underline; }
ol { margin: 0; padding: 0; list-style: none; font-size: .9rem; }
li { display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; }
"""


def render(report: Report, title: str, facts: dict[str, str], more: str = "") -> str:
    """The page. `facts` are shown under the title: what was recognised, with which model and settings.

    `more` is HTML that stands behind the rates.
    """
    total = report.total
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    by_rate = sorted(report.speakers, key=_rate_first)
    corpora = _table("By corpus", report.corpora, "") + _table("By corpus and split", report.splits, "")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n"
        f"<h1>{escape(title)}</h1>\n<dl>{listed}<dt>scored</dt><dd>{_extent(total)}</dd></dl>\n"
        f'<h2>Error rates</h2>\n<div class="side">{_headline("Words (WER)", "words", total.wer, "card")}'
        f"{_headline('Characters (CER)', 'characters', total.cer, 'card second')}</div>\n{_interval_note(report)}"
        f"{more}{corpora}{_worst(report.worst)}{_confusions(report)}"
        f"{_table('By speaker', by_rate[:MAX_SPEAKERS], _speakers_note(len(by_rate)))}</main></body></html>\n"
    )


def summary_text(report: Report) -> str:
    """Plain lines: both rates with their intervals, the kinds of error, the extent, the rate of each corpus."""
    total, edits = report.total, report.total.wer.edits
    lines = [
        f"WER {_rate_text(total.wer)}",
        f"CER {_rate_text(total.cer)}",
        f"words: {edits.reference_length:,} in the references; {edits.hits:,} right, "
        f"{edits.substitutions:,} substituted, {edits.deletions:,} deleted, {edits.insertions:,} inserted",
        f"scored: {_extent(total)}; intervals over {total.resampled}",
    ]
    if len(report.corpora) > 1:
        lines.append("by corpus: " + ", ".join(f"{g.name} {_percent(g.wer.edits.rate)}" for g in report.corpora))
    if report.worst:
        worst = report.worst[0]
        lines.append(f"worst: {worst.scored.id}, {_errors_of(worst.words)}")
    return "\n".join(lines)


def _percent(rate: float) -> str:
    return "–" if math.isnan(rate) else f"{100 * rate:.2f} %"


def _range(measure: Measure) -> str:
    return "–" if math.isnan(measure.low) else f"{100 * measure.low:.2f} – {100 * measure.high:.2f} %"


def _rate_text(measure: Measure) -> str:
    if math.isnan(measure.edits.rate):
        return NO_RATE
    interval = "no interval" if math.isnan(measure.low) else f"95 % interval {_range(measure)}"
    return f"{_percent(measure.edits.rate)} ({interval})"


def _errors_of(edits: Edits) -> str:
    return f"{counted(edits.errors, 'error')} in {counted(edits.reference_length, 'word')}"


def _extent(group: Group) -> str:
    words = counted(group.wer.edits.reference_length, "word")
    speakers = f", {counted(group.speakers, 'speaker')}" if group.speakers else ""  # a list need not name them
    return f"{counted(group.utterances, 'utterance')}, {words}, {group.hours:,.2f} hours{speakers}"


def _rate_first(group: Group) -> tuple[bool, float, str, str]:
    """Highest word error rate first, those without a rate last."""
    rate = group.wer.edits.rate
    return math.isnan(rate), 0.0 if math.isnan(rate) else -rate, group.corpus, group.name


def _scale_end(measures: Sequence[Measure]) -> float:
    """A round rate at or above all that a bar has to show; bars end at 100 % however high a rate is."""
    values = [v for m in measures for v in (m.edits.rate, m.high) if not math.isnan(v)]
    return next((end for end in (0.02, 0.05, 0.1, 0.2, 0.5) if max(values, default=0) <= end), 1.0)


def _bar(measure: Measure, end: float) -> str:
    """A bar from 0 to the rate, and over it the interval, darker. The figures stand beside it in words."""
    if math.isnan(measure.edits.rate):
        return ""
    rate, low, high = (min(value / end, 1) * 100 for value in (measure.edits.rate, measure.low, measure.high))
    interval = f'<span class="band" style="left:{low:.1f}%;width:{high - low:.1f}%"></span>'
    drawn = "" if math.isnan(measure.low) else interval
    return f'<div class="scale" aria-hidden="true"><span class="fill" style="width:{rate:.1f}%"></span>{drawn}</div>'


def _headline(name: str, things: str, measure: Measure, css: str) -> str:
    edits = measure.edits
    if math.isnan(edits.rate):
        rate = f'<p class="rate">–</p><p>{NO_RATE}</p>'
    else:
        end = _scale_end([measure])
        interval = "no interval: too little data" if math.isnan(measure.low) else f"95 % interval {_range(measure)}"
        rate = (
            f'<p class="rate">{_percent(edits.rate)}</p><p>{interval}</p>{_bar(measure, end)}'
            f'<div class="ends soft" aria-hidden="true"><span>0 %</span><span>{100 * end:.0f} %</span></div>'
        )
    kinds = "".join(
        f'<div class="{mark}"><strong>{count:,}</strong><small><b>{mark}</b> {kind}</small></div>'
        for mark, kind, count in (
            ("S", "substituted", edits.substitutions),
            ("D", "deleted", edits.deletions),
            ("I", "inserted", edits.insertions),
        )
    )
    right = f"{edits.hits:,} of {edits.reference_length:,} {things} right"
    body = f'{rate}<div class="kinds">{kinds}</div><p class="soft">{right}</p>'
    return f'<section class="{css}"><h3>{name}</h3>{body}</section>'


def _interval_note(report: Report) -> str:
    return (
        '<p class="soft">The rate is the number of errors over the length of the references, everything together. '
        f"For the interval, {report.total.resampled} were drawn again {report.resamples:,} times "
        f"(bootstrap, seed {report.seed}); it is the stronger part of a bar.</p>\n"
    )


def _speakers_note(rows: int) -> str:
    if rows <= MAX_SPEAKERS:
        return "The highest word error rate first."
    return f"The {MAX_SPEAKERS} with the highest word error rate, of {rows:,}; the JSON report has all."


def _table(heading: str, groups: Sequence[Group], note: str) -> str:
    if not groups:
        return ""
    end = _scale_end([g.wer for g in groups])
    heads = ("WER", "95 % interval", f"0 to {100 * end:.0f} %", "S", "D", "I", "CER", "words", "utterances", "hours")
    head = "<th>name</th>" + "".join(f"<th>{name}</th>" for name in heads)
    rows = "\n".join(f"<tr>{_row(group, end)}</tr>" for group in groups)
    return (
        f'<h2>{heading}</h2>\n<p class="soft">{note}</p><div class="card wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>\n"
    )


def _row(group: Group, end: float) -> str:
    name = escape(group.name) or "<em>not known</em>"
    label = name if group.name == group.corpus else f'{name} <span class="soft">{escape(group.corpus)}</span>'
    edits = group.wer.edits
    cells = [
        f"<strong>{_percent(edits.rate)}</strong>",
        _range(group.wer),
        _bar(group.wer, end),
        *(f"{count:,}" for count in (edits.substitutions, edits.deletions, edits.insertions)),
        _percent(group.cer.edits.rate),
        f"{edits.reference_length:,}",
        f"{group.utterances:,}",
        f"{group.hours:,.2f}",
    ]
    return f"<td>{label}</td>" + "".join(f"<td>{cell}</td>" for cell in cells)


def _worst(worst: Sequence[Aligned]) -> str:
    if not worst:
        return "<h2>Worst utterances</h2>\n<p>There are no errors.</p>\n"
    legend = (
        '<p class="soft">What was said stands above what was recognised. S: another word was recognised, '
        "D: a word is missing, I: a word was added.</p>\n"
    )
    return f"<h2>Worst utterances</h2>\n{legend}" + "\n".join(_utterance(aligned) for aligned in worst)


def _utterance(aligned: Aligned) -> str:
    scored = aligned.scored
    speaker = scored.speaker or "speaker not known"
    about = f"{_errors_of(aligned.words)} · {scored.corpus} {scored.split} · {speaker} · {scored.duration_s:.1f} s"
    names = '<span class="names" dir="ltr"><i>said</i><i>heard</i></span>'
    # dir="auto": texts in right-to-left scripts flow from the right, and the names of the rows with them
    return (
        f'<article class="card"><h3>{escape(scored.id)}</h3><p class="soft">{escape(about)}</p>'
        f'<div class="words" dir="auto">{names}{"".join(_word(pair) for pair in aligned.pairs)}</div></article>'
    )


def _word(pair: Pair) -> str:
    said, heard = pair
    if said == heard:
        mark, kind = "", ""
    elif heard is None:
        mark, kind = "D", "deleted"
    else:
        mark, kind = ("I", "inserted") if said is None else ("S", "substituted")
    above, below = (f"<i>{'···' if word is None else escape(word)}</i>" for word in pair)
    label = f'<b title="{kind}">{mark}</b>' if mark else ""
    return f'<span class="{mark}">{above}{below}{label}</span>' if mark else f"<span>{above}{below}</span>"


def _confusions(report: Report) -> str:
    parts = [
        ("S", "Substituted", report.substitutions),
        ("D", "Deleted", report.deletions),
        ("I", "Inserted", report.insertions),
    ]
    lists = "".join(_confusion_list(*part) for part in parts)
    return f'<h2>Most frequent mistakes</h2>\n<div class="side">{lists}</div>\n'


def _confusion_list(mark: str, kind: str, found: Sequence[Confusion]) -> str:
    def words(confusion: Confusion) -> str:
        return " → ".join(escape(word) for word in (confusion.reference, confusion.hypothesis) if word is not None)

    items = "".join(f"<li><span>{words(c)}</span><span>{c.count:,} ×</span></li>" for c in found) or "<li>none</li>"
    return f'<section class="card"><h3><b class="{mark}">{mark}</b> {kind}</h3><ol>{items}</ol></section>'
