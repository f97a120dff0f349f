"""The table of compare-runtimes in Markdown, and as a page with bars that loads nothing and runs nothing."""

import math
from collections.abc import Callable, Sequence
from html import escape

from asr.comparing.result import Figures, Outcome
from asr.evaluation.score_page import STYLE

HEADER = ("chunk ms", "runtime", "precision", "WER %", "95 % interval", "other words", "encoder ms",
          "decoder ms", "joint ms", "audio s / s", "first word s", "last word ms", "memory MB")  # fmt: skip
LEGEND = (
    "Encoder, decoder (predictor) and joint: CPU milliseconds of one call, on average. Audio s / s: seconds of audio "
    "recognised in a second of CPU, all included. First word: from the start of an utterance until a word is shown; "
    "last word: from the end of its audio until all is; both are medians over utterances, whose audio arrives at the "
    "speed of speech, a step at a time. Memory: the most that a process had that does nothing else. Other words: edits "
    "from what PyTorch says with the same chunk."
)
WIDTH, ROW, LEFT, RIGHT = 760, 24, 190, 76  # of a picture with bars


def markdown(outcomes: Sequence[Outcome], about: dict[str, str]) -> str:
    """A title, what was measured, the table, and what its columns are."""
    rows = [HEADER, ["---"] * 3 + ["---:"] * (len(HEADER) - 3), *map(cells, outcomes)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    listed = "\n".join(f"- {name}: {value}" for name, value in about.items())
    notes = "".join(f"\n\n{note}" for note in [LEGEND, *reasons(outcomes)])
    return f"# Runtimes compared\n\n{listed}\n\n{table}{notes}\n"


def cells(outcome: Outcome) -> list[str]:
    """A row of the table, in the order of HEADER."""
    candidate, figures = outcome.candidate, outcome.figures
    head = [str(candidate.chunk_ms), candidate.runtime, candidate.precision]
    if figures is None:
        return head + ["–"] * (len(HEADER) - len(head))
    wer = figures.wer
    return [
        *head,
        "–" if math.isnan(wer.edits.rate) else f"{100 * wer.edits.rate:.2f}",
        "–" if math.isnan(wer.low) else f"{100 * wer.low:.2f} – {100 * wer.high:.2f}",
        "–" if figures.words_differ is None else f"{figures.words_differ:,}",
        f"{figures.encoder_ms:.3f}",
        "–" if figures.decoder_ms is None else f"{figures.decoder_ms:.3f}",
        f"{figures.joint_ms:.3f}",
        f"{figures.audio_per_s:.1f}",
        "–" if figures.first_word_s is None else f"{figures.first_word_s:.2f}",
        f"{figures.final_ms:.1f}",
        f"{figures.peak_bytes / 1e6:,.0f}",
    ]


def reasons(outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences on rows without figures, or with figures that one should know more of."""
    said = [f"{o.candidate}: {o.reason}." for o in outcomes if o.reason]
    said += [f"{o.candidate}: did not give the same words each time." for o in outcomes
             if o.figures and not o.figures.repeatable]  # fmt: skip
    spreads = [o.figures.spread for o in outcomes if o.figures]
    if spreads:
        said.append(f"Between repetitions, audio s / s differed by {100 * max(spreads):.0f} % at most.")
    return said


def render(outcomes: Sequence[Outcome], about: dict[str, str]) -> str:
    """One HTML file, in the style of the other reports."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about.items())
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    rows = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(o))}</tr>" for o in outcomes)
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in [LEGEND, *reasons(outcomes)])
    pictures = "".join(
        _bars(outcomes, title, of, unit)
        for title, of, unit in (
            ("Seconds of audio recognised in a second", lambda f: f.audio_per_s, ""),
            ("Encoder, one call", lambda f: f.encoder_ms, " ms"),
            ("From the end of the audio to the last word", lambda f: f.final_ms, " ms"),
            ("Memory", lambda f: f.peak_bytes / 1e6, " MB"),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Runtimes compared</title><style>{STYLE}"
        ".bars { display: block; width: 100%; height: auto; fill: var(--accent); } "
        ".bars text { fill: var(--ink); font-size: 13px; } body { max-width: 78rem; }</style></head><body><main>\n"
        f"<h1>Runtimes compared</h1>\n<dl>{listed}</dl>\n<h2>Table</h2>\n"
        f'<div class="card wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>\n{notes}'
        f"{pictures}</main></body></html>\n"
    )


def _bars(outcomes: Sequence[Outcome], title: str, of: Callable[[Figures], float], unit: str) -> str:
    """A bar for each row that has figures; PyTorch's are lighter."""
    values = [(o.candidate, of(o.figures)) for o in outcomes if o.figures]
    if not values:
        return ""
    longest = max(value for _, value in values) or 1.0
    drawn = []
    for i, (candidate, value) in enumerate(values):
        middle, length = ROW * i + ROW / 2, (WIDTH - LEFT - RIGHT) * max(0.0, value) / longest
        shade = ' opacity=".45"' if candidate.runtime == "torch" else ""
        figure = f"{value:,.0f}" if longest >= 100 else f"{value:.1f}" if longest >= 10 else f"{value:.2f}"
        drawn.append(
            f'<text x="{LEFT - 8}" y="{middle + 5:.0f}" text-anchor="end">{escape(str(candidate))}</text>'
            f'<rect x="{LEFT}" y="{middle - 8:.0f}" width="{max(1.0, length):.1f}" height="16" rx="3"{shade}/>'
            f'<text x="{LEFT + length + 6:.1f}" y="{middle + 5:.0f}">{figure}{unit}</text>'
        )
    about = escape(f"{title}; the figures stand in the table")
    return (
        f'<h2>{escape(title)}</h2>\n<div class="card"><svg class="bars" viewBox="0 0 {WIDTH} {ROW * len(values)}" '
        f'role="img" aria-label="{about}">{"".join(drawn)}</svg></div>\n'
    )
