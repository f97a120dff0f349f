"""The page of a sweep: learning curves, final word error rates with their intervals, the table, what they show."""

import itertools
import math
from collections.abc import Sequence
from html import escape

from pipelines.reporting.charts import number, round_up
from pipelines.reporting.html import document, grid, note, section
from pipelines.sweep_config import SweepConfig
from pipelines.sweep_outcome import Outcome, Wer, interval, percent
from pipelines.sweep_result import HEADER, LEGEND, findings, reasons, row, widths

WIDTH, HEIGHT = 760, 340  # of a picture, letters of 12
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44  # margins
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # colours alone do not tell lines apart for everybody
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # lines across the learning curves

# Letters in a picture take the colours of the page, light or dark.
_STYLE = (
    "<style>text { fill: var(--soft); font-size: 12px; } .grid { stroke: var(--line); } .axis { stroke: var(--soft); } "
    ".curve { fill: none; stroke-width: 2; } .keys { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; } "
    ".keys svg { width: 2.2rem; height: .7rem; margin-right: .4rem; } .chart { overflow-x: auto; } "
    ".chart > svg { display: block; width: 100%; min-width: 32rem; height: auto; }</style>"
)


def render(config: SweepConfig, outcomes: Sequence[Outcome], facts: dict[str, str]) -> str:
    """One HTML file that loads nothing and runs nothing."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    tested = f"<p>Tested: <em>{escape(config.advice)}</em></p>" if config.advice else ""
    lines = [*findings(config, outcomes), *reasons(outcomes)]
    shown = "".join(f"<li>{escape(line)}</li>" for line in lines)
    cells = [[escape(cell) for cell in row(outcome)] for outcome in outcomes]
    made = "".join(f"<li>{escape(line)}</li>" for line in widths(config, outcomes))
    body = [
        f"<header><h1>{escape(config.title)}</h1>{tested}</header>{_STYLE}<dl>{listed}</dl>",
        section("shown", "What the figures show", f'<ul class="card look">{shown}</ul>'),
        section("final", "Word error rate at the end", _finals(config, outcomes)),
        section("curves", "Learning curves", _curves(outcomes)),
        section("table", "Table", grid("Table", HEADER, cells), note(escape(LEGEND)), f"<ul>{made}</ul>" * bool(made)),
    ]
    return document(config.title, "".join(body))


def _colour(index: int, count: int) -> str:
    """From blue over red to orange in the order of the points, which light pages and dark ones carry."""
    return f"hsl({(215 + round(175 * index / max(1, count - 1))) % 360} 70% 52%)"


def _curves(outcomes: Sequence[Outcome]) -> str:
    """Dev WER over hours of audio, a line for each seed."""
    curves = [
        (i, o, [(hours, wer) for hours, _, wer in result["curve"]]) for i, o in enumerate(outcomes)
        for result in o.results if result["curve"]
    ]  # fmt: skip
    if not curves:
        return note("No training has measured the dev set yet.")
    end = max(hours for *_, curve in curves for hours, _ in curve)
    lowest = min(wer for *_, curve in curves for _, wer in curve)
    floor = max((rate for rate in RATES if rate <= lowest), default=RATES[0])
    ceiling = max(1.0, *(wer for *_, curve in curves for _, wer in curve))

    def x(hours: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * hours / end

    def y(wer: float) -> float:
        share = math.log(max(wer, floor) / floor) / math.log(ceiling / floor) if ceiling > floor else 0.0
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    drawn = [_across(y(rate), f"{rate:.0%}") for rate in RATES if rate >= floor]
    drawn += [_below(x(tick), number(tick)) for tick in _ticks(end)]
    for i, outcome, curve in curves:
        points = " ".join(f"{x(hours):.1f},{y(wer):.1f}" for hours, wer in curve)
        title = escape(f"{outcome.label}: {percent(curve[-1][1])} after {curve[-1][0]:.2f} h")
        drawn.append(
            f'<polyline class="curve" points="{points}" {_stroke(i, outcomes)}><title>{title}</title></polyline>'
        )
        if len(curve) == 1:  # of which no line would be seen
            place = f'cx="{x(curve[0][0]):.1f}" cy="{y(curve[0][1]):.1f}" r="3.5"'
            drawn.append(f'<circle {place} fill="{_colour(i, len(outcomes))}"><title>{title}</title></circle>')
    named = dict.fromkeys(i for i, *_ in curves)
    keys = "".join(_key(outcomes[i].label, _stroke(i, outcomes)) for i in named)
    about = "Learning curves: dev WER over hours of audio heard; the last figures stand in the table"
    axes = note("Dev WER (logarithmic) over hours of audio heard, as measured during training; a line for each seed.")
    return f'{axes}<div class="card chart"><p class="keys">{keys}</p>{_svg(drawn, about, "hours of audio")}</div>'


def _stroke(index: int, outcomes: Sequence[Outcome]) -> str:
    dashes = DASHES[index % len(DASHES)]
    return f'stroke="{_colour(index, len(outcomes))}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _key(label: str, stroke: str) -> str:
    line = f'<line x1="0" y1="5" x2="36" y2="5" stroke-width="2.5" {stroke}/>'
    return f'<span><svg viewBox="0 0 36 10" aria-hidden="true">{line}</svg>{escape(label)}</span>'


def _finals(config: SweepConfig, outcomes: Sequence[Outcome]) -> str:
    """A point and its interval for each, from left to right by what the sweep is about."""
    done = [(i, o, wer) for i, o in enumerate(outcomes) if (wer := o.wer) is not None]
    if not done:
        return note("No point has a result yet.")
    highest = max(wer.mean if math.isnan(wer.high) else wer.high for *_, wer in done)
    step = _ticks(max(highest, 0.01) * 100)[1]
    ticks = [step * k for k in range(math.ceil(highest * 100 / step - 1e-9) + 1)] if highest else [0.0, step]
    end = ticks[-1] / 100
    places = _places(config, done)

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / end

    drawn = [_across(y(tick / 100), f"{number(tick)}%") for tick in ticks]
    for (i, outcome, wer), (x, name) in zip(done, places, strict=True):
        colour = _colour(i, len(outcomes))
        title = escape(f"{outcome.label}: {percent(wer.mean)}, 95 % interval {interval(wer)}")
        bar = "" if math.isnan(wer.low) else (
            f'<path d="M{x - 5:.1f} {y(wer.low):.1f}h10m-5 0V{y(wer.high):.1f}m-5 0h10" fill="none" '
            f'stroke="{colour}" stroke-width="2"/>'
        )  # fmt: skip
        seeds = "".join(
            f'<circle cx="{x + 9:.1f}" cy="{y(result["wer"]["rate"]):.1f}" r="2" fill="{colour}"/>'
            for result in outcome.results if outcome.seeds > 1 and result["wer"]["rate"] is not None
        )  # fmt: skip
        drawn.append(_below(x, name))
        drawn.append(f'<g><title>{title}</title>{bar}<circle cx="{x:.1f}" cy="{y(wer.mean):.1f}" r="4.5" '
                     f'fill="{colour}"/>{seeds}</g>')  # fmt: skip
    what = {"label": "", "parameters": "parameters (logarithmic)", "vocab": "pieces (logarithmic)"}[config.against]
    about = "Dev WER of each point with its 95 % interval; the figures stand in the table"
    text = note("Dev WER of the last checkpoint, and its 95 % interval over the dev set"
                + ("; small dots are the seeds." if any(o.seeds > 1 for _, o, _ in done) else "."))  # fmt: skip
    return f'{text}<div class="card chart">{_svg(drawn, about, what)}</div>'


def _places(config: SweepConfig, done: Sequence[tuple[int, Outcome, Wer]]) -> list[tuple[float, str]]:
    """Where each point stands, and what is written below it: as much as there is room for."""
    inner = WIDTH - LEFT - RIGHT
    if config.against == "label":
        step = inner / len(done)
        names = _shortened([o.label for _, o, _ in done], max(3, int(step / 7)))
        return [(LEFT + step * (k + 0.5), name) for k, name in enumerate(names)]
    values = [o.vocab_size if config.against == "vocab" else o.parameters["total"] for _, o, _ in done]
    low, high = math.log(min(values)), math.log(max(values))
    margin = inner * 0.06
    places, written = [], -math.inf
    for value in values:
        share = (math.log(value) - low) / (high - low) if high > low else 0.5
        x = LEFT + margin + (inner - 2 * margin) * share
        name = f"{value:,}" if config.against == "vocab" else f"{value / 1e6:.3g} M"
        if abs(x - written) < 7 * len(name) + 4:
            name = ""
        else:
            written = x
        places.append((x, name))
    return places


def _shortened(labels: list[str], room: int) -> list[str]:
    """Labels of so many letters. What all begin with goes first: points of a grid differ in the values behind it."""
    if max(map(len, labels)) <= room:
        return labels
    pairs = zip(min(labels), max(labels), strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    shared = 1 + max(labels[0].rfind(end, 0, same) for end in "=, ") if len(labels) > 1 else 0
    names = [f"…{label[shared:]}" if shared else label for label in labels]
    return [name if len(name) <= room else f"{name[: room - 1]}…" for name in names]


def _ticks(end: float) -> list[float]:
    """Round values from 0 up to `end`, which is above 0: two at least, seven at most."""
    step = round_up(end / 6)
    return [k * step for k in range(math.floor(end / step + 1e-9) + 1)]


def _across(y: float, name: str) -> str:
    return (f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{name}</text>')  # fmt: skip


def _below(x: float, name: str) -> str:
    base = HEIGHT - BOTTOM
    return (f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 5}"/>'
            f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{escape(name)}</text>')  # fmt: skip


def _svg(drawn: Sequence[str], about: str, along: str) -> str:
    base = HEIGHT - BOTTOM
    axis = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
    name = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(along)}</text>'
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(about)}">{axis}{name}'
            f"{''.join(drawn)}</svg>")  # fmt: skip
