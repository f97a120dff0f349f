"""What evaluate-asr --streaming found, as lines, as plain values, and as a part of the page."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

import numpy as np

from asr.evaluation.scoring import Difference
from asr.evaluation.streamed import Streamed
from configs.wording import counted

WIDTH, HEIGHT, BELOW = 640, 150, 34  # of the histogram; letters stand in the last part
BAR_MS = (10, 20, 50, 100, 200, 500, 1000)  # how wide its bars may be
BARS = 40  # at most


def spread(values_s: Sequence[float]) -> dict[str, float | int | None]:
    """How many there are, and in ms their mean, median, 90th and 95th percentile; None without any."""
    names = ("mean_ms", "median_ms", "p90_ms", "p95_ms")
    if not values_s:
        return {"count": 0} | dict.fromkeys(names)
    figures = [float(np.mean(values_s)), *np.quantile(values_s, [0.5, 0.9, 0.95]).tolist()]
    return {"count": len(values_s)} | {n: round(1000 * f, 1) for n, f in zip(names, figures, strict=True)}


def to_json(found: Streamed) -> dict[str, Any]:
    """The figures beside the streamed rates; what does not exist is None."""
    costs, timing, delays = found.costs, found.timing, found.timing.delays
    offline = found.offline.to_json()
    delay = None if delays is None else {
        "shown": spread(delays.shown_s), "final": spread(delays.final_s), "only_at_end_of_file": delays.unseen,
        "first_word": spread(delays.first_word_s),
        "endpoint": spread(delays.endpoint_s) | {"none_came": delays.no_endpoint, "inside": delays.cut},
    }  # fmt: skip
    return {
        "chunk_ms": found.chunk_ms,
        "offline": {"wer": offline["wer"], "cer": offline["cer"]},
        "difference": {k: None if math.isnan(v) else v for k, v in asdict(found.difference).items()},
        "alignment": {"aligner": timing.aligner or None, "reason": timing.reason or None, "aligned": timing.aligned,
                      "not_aligned": dict(timing.not_aligned)},
        "delay": delay,
        "stability": {
            "final_words": costs.words, "partial_words": costs.partial_words, "changed_words": costs.changed_words,
            "changed_share": _ratio(costs.changed_words, costs.partial_words), "revisions": costs.revisions,
            "grown": costs.grown, "revisions_per_word": _ratio(costs.revisions, costs.words),
        },
        "cost": {
            "audio_s": costs.audio_s, "cpu_s": costs.cpu_s, "wall_s": costs.wall_s,
            "cpu_per_audio_s": _ratio(costs.cpu_s, costs.audio_s),
            "wall_per_audio_s": _ratio(costs.wall_s, costs.audio_s), "peak_bytes": costs.peak_bytes,
        },
        "left_out": [list(pair) for pair in found.left_out],
    }  # fmt: skip


def lines(found: Streamed) -> list[str]:
    """For the terminal: whole files beside it, delays, stability, costs."""
    return [f"{name}: {value}" for name, value in _rows(found)]


def section(found: Streamed) -> str:
    """HTML that stands behind the rates of score_page.render."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _rows(found))
    return f'<h2>As it streams</h2>\n<div class="card"><dl>{listed}</dl>{_histogram(found)}</div>\n'


def _rows(found: Streamed) -> list[tuple[str, str]]:
    offline, costs = found.offline.total.wer, found.costs
    whole = _percent(offline.edits.rate)
    if not math.isnan(offline.low):
        whole += f" (95 % interval {100 * offline.low:.2f} – {100 * offline.high:.2f} %)"
    rows = [
        ("WER of whole files", whole),
        ("streamed minus whole", _difference(found.difference)),
        *_delay_rows(found),
        ("partial results", _stability(found)),
        ("real-time factor", f"{_of(costs.cpu_s, costs.audio_s)} CPU seconds a second of audio, "
                             f"{_of(costs.wall_s, costs.audio_s)} as time passed"),
        ("memory", f"{costs.peak_bytes / 1e6:,.0f} MB at most, with all that measures (compare-runtimes: without)"),
    ]  # fmt: skip
    if found.left_out:
        first = f"{found.left_out[0][0]} ({found.left_out[0][1]})"
        rows.append(("left out", f"{counted(len(found.left_out), 'utterance')}; the first: {first}"))
    return rows


def _difference(difference: Difference) -> str:
    if math.isnan(difference.value):
        return "there are no reference words"
    text = f"{100 * difference.value:+.2f} points"
    if not math.isnan(difference.low):
        text += f" (95 % interval {100 * difference.low:+.2f} to {100 * difference.high:+.2f}, paired)"
    return f"{text}; {counted(difference.changed, 'utterance')} came out differently"


def _delay_rows(found: Streamed) -> list[tuple[str, str]]:
    timing, delays = found.timing, found.timing.delays
    if delays is None:
        return [("delays", f"none: {timing.reason}")]
    lost = ", ".join(f"{reason} ({count:,})" for reason, count in timing.not_aligned.most_common())
    aligned = f"{counted(timing.aligned, 'utterance')} with {timing.aligner}"
    if lost:
        aligned += f"; not aligned: {lost}"
    unseen = counted(delays.unseen, "right word")
    end = f"; {unseen} came only at the end of a file" if delays.unseen else ""
    endpoint = _spread_text(delays.endpoint_s, "utterances") + (
        f"; none came after {delays.no_endpoint:,}" if delays.no_endpoint else ""
    ) + (f"; {delays.cut:,} came between words" if delays.cut else "")  # fmt: skip
    return [
        ("aligned", aligned),
        ("delay of words, shown", _spread_text(delays.shown_s, "right words") + end),
        ("delay of words, final", _spread_text(delays.final_s, "right words")),
        ("first word, from its start", _spread_text(delays.first_word_s, "utterances")),
        ("endpoint, from the last word's end", endpoint),
    ]


def _spread_text(values_s: Sequence[float], things: str) -> str:
    if not values_s:
        return f"none, over 0 {things}"
    s = spread(values_s)
    figures = (
        f"mean {s['mean_ms']:,.0f} ms, median {s['median_ms']:,.0f}, p90 {s['p90_ms']:,.0f}, p95 {s['p95_ms']:,.0f}"
    )
    return f"{figures}, over {len(values_s):,} {things}"


def _stability(found: Streamed) -> str:
    costs = found.costs
    if not costs.partial_words:
        return "none were shown"
    share = f"{100 * costs.changed_words / costs.partial_words:.1f} % of {costs.partial_words:,} words shown in them"
    grown = f", {100 * costs.grown / costs.revisions:.0f} % of them a word that grew" if costs.revisions else ""
    return f"{share} changed later; {_of(costs.revisions, costs.words)} revisions for each final word{grown}"


def _histogram(found: Streamed) -> str:
    """The delays with which right words were shown."""
    delays = found.timing.delays
    if delays is None or not delays.shown_s:
        return ""
    values = np.array(delays.shown_s) * 1000
    low, high = float(values.min()), float(values.max())
    width = next((w for w in BAR_MS if (high - low) / w < BARS - 1), BAR_MS[-1])
    first = math.floor(low / width)
    counts = np.bincount(np.floor(values / width).astype(int) - first)
    wide, inner = WIDTH / len(counts), HEIGHT - BELOW
    bars = "".join(
        f'<rect x="{i * wide:.1f}" y="{inner * (1 - count / counts.max()):.1f}" width="{max(1.0, wide - 1):.1f}" '
        f'height="{inner * count / counts.max():.1f}"><title>{(first + i) * width} to {(first + i + 1) * width} ms: '
        f"{count:,} words</title></rect>"
        for i, count in enumerate(counts.tolist())
    )
    every = max(1, math.ceil(len(counts) / 8))
    ticks = "".join(
        f'<text x="{min(max(i * wide, 4), WIDTH - 4):.1f}" y="{inner + 16}" '
        f'text-anchor="{"start" if i == 0 else "middle"}">{(first + i) * width}</text>'
        for i in range(0, len(counts), every)
    )
    about = f"Delay with which {len(values):,} right words were shown, in bars of {width} ms"
    return (
        f"<style>.delays {{ display: block; width: 100%; margin-top: 1rem; fill: var(--accent); }} "
        f".delays text {{ fill: var(--soft); font-size: 12px; }}</style>"
        f'<svg class="delays" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">{bars}{ticks}'
        f'<text x="{WIDTH}" y="{HEIGHT - 2}" text-anchor="end">ms from the end of a word to when it was shown</text>'
        f"</svg>"
    )


def _percent(rate: float) -> str:
    return "none: there are no reference words" if math.isnan(rate) else f"{100 * rate:.2f} %"


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _of(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "no"
