"""What the page of a report is built from: its style, the document, tables, bars, and how figures are written."""

from collections.abc import Collection, Sequence
from html import escape

START = 160  # characters of a text in a table
NAME = 20  # of a speaker's name: Common Voice's have 128

# Whatever stands in a manifest, the page loads nothing and runs nothing: browsers hold to this themselves.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1a1d21; --soft: #59626d; --line: #dfe3e8;
  --accent: #2458a6; --warn: #8a5300; --warn-bg: #fdeecf; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1d2125; --ink: #e7eaee; --soft: #9aa4af;
  --line: #343b43; --accent: #7fb0f5; --warn: #f2c26b; --warn-bg: #40310f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 78rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
.card > h3:first-child { margin-top: 0; }
p { margin: .25rem 0; }
a { color: var(--accent); }
.soft { color: var(--soft); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .5rem 0 1rem; font-size: .9rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.15rem; }
.side { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.side.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 16.5rem), 1fr)); }
.side > * { min-width: 0; }
.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 8.5rem), 1fr)); }
.tiles div { padding: .6rem .9rem; }
.tiles strong { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.look { margin: 0; padding: .5rem 1.15rem .5rem 2.1rem; }
.look li { padding: .15rem 0; }
.wide { overflow-x: auto; padding: 0; }
.wide:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .3rem .65rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .8rem; }
tbody th { color: inherit; font-weight: inherit; font-size: inherit; }
tr + tr > *, thead + tbody tr:first-child > * { border-top: 1px solid var(--line); }
.t { text-align: start; white-space: normal; min-width: 7rem; max-width: 34rem; overflow-wrap: anywhere; }
.scale { height: .6rem; min-width: 4.5rem; margin: .45rem 0; border-radius: .3rem; background: var(--line); }
.scale span { display: block; height: 100%; min-width: 1px; border-radius: .3rem; background: var(--accent); }
figure { margin: 0; }
.plot { position: relative; margin: .1rem 0 .5rem; border-bottom: 1px solid var(--soft); border-top: 1px dashed
  var(--line); }
.plot svg { display: block; width: 100%; height: 4.5rem; fill: var(--accent); }
.plot rect:hover { opacity: .6; }
.plot .median { position: absolute; top: 0; bottom: 0; border-left: 2px solid var(--warn); }
.plot .top { position: absolute; right: .2rem; top: 0; font-size: .7rem; color: var(--soft); line-height: 1.3; }
.ticks { position: relative; height: 1.2rem; margin-top: -.4rem; font-size: .75rem; color: var(--soft); }
.ticks span { position: absolute; white-space: nowrap; transform: translateX(-50%); }
.ticks span[data-first] { transform: none; }
.ticks span[data-last] { transform: translateX(-100%); }
.named { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; font-size: .875rem; }
.chips { display: flex; flex-wrap: wrap; gap: .3rem; margin: .35rem 0; }
.chips > * { border: 1px solid var(--line); border-radius: .35rem; padding: .05rem .4rem; font-size: 1.05rem; }
.chips small { color: var(--soft); font-size: .7rem; margin-inline-start: .35rem; font-variant-numeric: tabular-nums; }
.chips .rare { background: var(--warn-bg); color: var(--warn); border-color: transparent; }
.chips .rare small { color: inherit; }
details { margin: .5rem 0; }
details.card { padding: .5rem 1.15rem; }
summary + h3 { margin-top: .5rem; }
summary { cursor: pointer; padding: .2rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem .8rem; margin: .6rem 0 0;
  font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; text-align: start; }
.said { font-size: 1.1rem; margin: .6rem 0 0; text-align: start; }
.picture { position: relative; }
.picture img { display: block; width: 100%; height: 7rem; border-radius: .3rem; background: #080715; }
.picture .ticks { margin: .1rem 0 .3rem; }
audio { display: block; width: 100%; height: 2.5rem; }
pre { margin: 0; white-space: pre-wrap; font: .9rem/1.5 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; }
@media (max-width: 40rem) { .scale { min-width: 2rem; } }
@media print {
  :root { font-size: 11px; color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --accent: #2458a6; --warn: #8a5300; --warn-bg: #fdeecf; }
  body { max-width: none; padding: 0; font-size: 1rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav, audio { display: none; }
  h2, h3 { break-after: avoid; }
  .sample, figure, tr { break-inside: avoid; }
  .wide { overflow: visible; }
  th, td { white-space: normal; }
}
"""


def document(title: str, body: str) -> str:
    """`title` is text, `body` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n{body}</main></body></html>\n"
    )


def section(anchor: str, heading: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    head = f'<h2 id="{anchor}-h">{heading}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-h">{head}\n{inside}\n</section>\n'


def card(heading: str, *parts: str) -> str:
    return f'<div class="card"><h3>{heading}</h3>{"".join(parts)}</div>'


def note(text: str) -> str:
    return f'<p class="soft">{text}</p>'


def own(value: str, language: str = "") -> str:
    """A value of the manifest: in the direction of its own script, and in the glyphs of its language."""
    lang = f' lang="{escape(language)}"' if language else ""
    return f'<bdi dir="auto"{lang}>{escape(value)}</bdi>'


def start(text: str, most: int = START) -> str:
    """As much of a text as tells what it is: at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def grid(label: str, heads: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int] = (0,)) -> str:
    """A table in a box of its own, in which it scrolls. Cells are HTML; the columns `texts` hold words.

    `label` tells those who do not see the page what the box is.
    """
    if not rows:
        return ""
    head = "".join(f'<th scope="col"{_text(i, texts)}>{name}</th>' for i, name in enumerate(heads))
    lines = "\n".join(f"<tr>{''.join(_cell(i, cell, texts) for i, cell in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="card wide" tabindex="0" role="region" aria-label="{escape(label)}"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>\n{lines}\n</tbody></table></div>"
    )


def _text(column: int, texts: Collection[int]) -> str:
    return ' class="t"' if column in texts else ""


def _cell(column: int, cell: str, texts: Collection[int]) -> str:
    if column == 0:
        return f'<th scope="row" class="t">{cell}</th>'
    return f"<td{_text(column, texts)}>{cell}</td>"


def bar(share: float) -> str:
    """The figure itself stands beside it in words."""
    return f'<div class="scale" aria-hidden="true"><span style="width:{100 * min(max(share, 0), 1):.1f}%"></span></div>'


def hours(value: float) -> str:
    """Three digits after the point: an hour has 3,600 seconds, and small sets are to add up too."""
    return f"{value:,.1f}" if value >= 1000 else f"{value:,.3f}"


def span(value_h: float) -> str:
    """A length in the unit that suits it."""
    if value_h >= 1:
        return f"{value_h:,.1f} h"
    return f"{value_h * 60:.1f} min" if value_h * 60 >= 1 else f"{value_h * 3600:.1f} s"


def percent(part: float, whole: float) -> str:
    if whole <= 0:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.01:
        return "< 0.01 %"
    return f"{share:.2f} %" if 0 < share < 1 else f"{share:.1f} %"
