"""What the measurements of compare-runtimes say of one runtime, precision and chunk."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asr.evaluation import scoring
from asr.evaluation.scoring import Measure, Scored
from asr.evaluation.spoken import Spoken

RUNTIMES = ("torch", "onnx", "openvino")


@dataclass(frozen=True, slots=True)
class Candidate:
    chunk_ms: int
    runtime: str
    precision: str

    @property
    def name(self) -> str:
        """Of files and folders."""
        return f"{self.runtime}-{self.precision}-{self.chunk_ms}ms"

    @property
    def order(self) -> tuple[int, int, str]:
        """By chunk, PyTorch first, the most exact precision first."""
        return self.chunk_ms, RUNTIMES.index(self.runtime), {"fp32": "0", "fp16": "1"}.get(self.precision, "2")

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision} at {self.chunk_ms} ms"


@dataclass(frozen=True, slots=True)
class Figures:
    """Times are of CPU, as on a core that does nothing else; medians of the repetitions."""

    wer: Measure
    words_differ: int | None  # edits from what PyTorch says with this chunk; None for PyTorch itself, or without it
    encoder_ms: float  # for each call
    decoder_ms: float | None  # None for a CTC model, which has neither
    joint_ms: float
    audio_per_s: float  # seconds of audio recognised in a second
    spread: float  # of that between repetitions: largest less smallest, divided by the median
    first_word_s: float | None  # median over utterances: from the start of the audio
    final_ms: float  # median over utterances: from the end of the audio to the last words
    final_p95_ms: float
    peak_bytes: int
    repeatable: bool  # whether each repetition gave the same words


@dataclass(frozen=True, slots=True)
class Outcome:
    """`figures`, or the `reason` why there are none."""

    candidate: Candidate
    figures: Figures | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = asdict(self.candidate) | {"reason": self.reason or None}
        if self.figures is None:
            return values
        wer = self.figures.wer
        plain = {name: None if math.isnan(value) else value
                 for name, value in (("rate", wer.edits.rate), ("low", wer.low), ("high", wer.high))}  # fmt: skip
        return values | asdict(self.figures) | {"wer": asdict(wer.edits) | plain}


def outcome(
    candidate: Candidate, reason: str, found: Sequence[dict[str, Any]], utterances: Sequence[Spoken],
    torch: Sequence[str] | None,
) -> Outcome:  # fmt: skip
    """`found` is what asr.comparing.one gave each time, `torch` what PyTorch recognised with the same chunk."""
    if reason or not found:
        return Outcome(candidate, None, reason or "was not measured")
    texts = found[0]["texts"]
    rates = [one["audio_s"] / one["cpu_s"] for one in found]
    differ = None if torch is None or candidate.runtime == "torch" else sum(
        scoring.count_edits(theirs, ours).errors for theirs, ours in zip(torch, texts, strict=True)
    )  # fmt: skip
    firsts = [_quantile(one["first_word_s"], 0.5) for one in found if one["first_word_s"]]
    figures = Figures(
        wer=wer(utterances, texts, found[0]["audio_s"]),
        words_differ=differ,
        encoder_ms=_median(found, lambda one: _per_call(one, "encoder")),
        decoder_ms=_median(found, lambda one: _per_call(one, "decoder")) if _calls(found[0], "decoder") else None,
        joint_ms=_median(found, lambda one: _per_call(one, "joint")),
        audio_per_s=statistics.median(rates),
        spread=(max(rates) - min(rates)) / statistics.median(rates),
        first_word_s=statistics.median(firsts) if firsts else None,
        final_ms=_median(found, lambda one: 1000 * _quantile(one["last_word_s"], 0.5)),
        final_p95_ms=_median(found, lambda one: 1000 * _quantile(one["last_word_s"], 0.95)),
        peak_bytes=round(_median(found, lambda one: one["peak_bytes"])),
        repeatable=all(one["texts"] == texts for one in found),
    )
    return Outcome(candidate, figures, "")


def wer(utterances: Sequence[Spoken], texts: Sequence[str], audio_s: float) -> Measure:
    """With its interval. `audio_s` is of all, which a rate of words does not depend on."""
    each_s = audio_s / len(utterances)
    pairs = zip(utterances, texts, strict=True)
    scored = [Scored(u.id, u.corpus, u.split, u.speaker, each_s, u.text, text) for u, text in pairs]
    return scoring.score(scored).total.wer


def _calls(one: dict[str, Any], part: str) -> int:
    return int(one["spending"][part]["calls"])


def _per_call(one: dict[str, Any], part: str) -> float:
    return 1000 * float(one["spending"][part]["cpu_s"]) / max(1, _calls(one, part))


def _median(found: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(of(one) for one in found)


def _quantile(values: Sequence[float], share: float) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]
