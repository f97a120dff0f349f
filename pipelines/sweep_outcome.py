"""The figures of a sweep: what one training has reached, and what a point has over its seeds."""

import json
import math
import statistics
from dataclasses import dataclass
from typing import Any

from manifests import storage

NO_FIGURE = "–"


@dataclass(frozen=True, slots=True)
class Wer:
    """Of a point, over its seeds."""

    mean: float
    low: float  # of the interval; nan where there is none
    high: float
    spread: float  # standard deviation over seeds; nan for one


@dataclass(frozen=True, slots=True)
class Outcome:
    """A point of the table. Without results `reason` says why."""

    label: str
    vocab: str
    vocab_size: int
    settings: tuple[str, ...]
    parameters: dict[str, int]  # total, encoder, predictor; empty for a model that cannot be
    left_out: int  # utterances that this point does not train on
    results: tuple[dict[str, Any], ...]  # of the seeds that are done
    seeds: int
    reason: str = ""
    failed: bool = False

    @property
    def wer(self) -> Wer | None:
        """Mean over seeds. The interval is the mean of theirs, made wider where a seed lies outside."""
        found = [result["wer"] for result in self.results if result["wer"]["rate"] is not None]
        if not found:
            return None
        rates = [wer["rate"] for wer in found]
        spread = statistics.stdev(rates) if len(rates) > 1 else math.nan
        low = high = math.nan
        if all(wer["low"] is not None for wer in found):
            low = min(statistics.mean(wer["low"] for wer in found), *rates)
            high = max(statistics.mean(wer["high"] for wer in found), *rates)
        return Wer(statistics.mean(rates), low, high, spread)

    @property
    def rate(self) -> float:
        """The mean of a point that has results."""
        assert self.wer is not None
        return self.wer.mean

    def mean(self, name: str) -> float | None:
        found = [result[name] for result in self.results if result[name] is not None]
        return statistics.mean(found) if found else None

    @property
    def encoder_share(self) -> float:
        return self.parameters["encoder"] / self.parameters["total"]

    @property
    def ratio(self) -> float:
        """Of the encoder's parameters to the predictor's."""
        return self.parameters["encoder"] / (self.parameters["predictor"] or math.nan)

    def to_json(self) -> dict[str, Any]:
        wer = self.wer
        figures = None if wer is None else {
            "mean": wer.mean, "low": _or_none(wer.low), "high": _or_none(wer.high), "spread": _or_none(wer.spread)
        }  # fmt: skip
        return {
            "label": self.label, "vocab": self.vocab, "vocab_size": self.vocab_size, "settings": list(self.settings),
            "parameters": self.parameters, "left_out": self.left_out, "seeds": self.seeds, "wer": figures,
            "reason": self.reason, "failed": self.failed, "results": list(self.results),
        }  # fmt: skip


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def measured(run: str, wer_json: str, hours_an_epoch: float, spent_s: float) -> dict[str, Any]:
    """The result of a training from the folder that train-asr left and the file that evaluate-asr wrote.

    Raises ValueError for a training of an earlier version, which did not say how many epochs are done.
    """
    training = json.loads(storage.read_bytes(storage.join(run, "last", "training.json")))
    if "epochs" not in training:
        raise ValueError(f"{run}: was trained by an earlier version of this program; delete "
                         f"{storage.parent(run)} and the same command trains it again")  # fmt: skip
    lines = storage.read_text(storage.join(run, "metrics.jsonl")).splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]
    losses = [record["loss"] for record in records if "loss" in record]
    report = json.loads(storage.read_bytes(wer_json))
    return {
        "steps": training["position"]["total"],
        "epochs": training["epochs"],
        "hours": training["epochs"] * hours_an_epoch,
        "minutes": spent_s / 60,
        "loss": losses[-1] if losses else None,
        "wer": {key: report["wer"][key] for key in ("rate", "low", "high", "reference_length")},
        "cer": report["cer"]["rate"],
        "speakers": _speakers(report),
        "curve": [[r["epoch"] * hours_an_epoch, r["step"], r["dev_wer"]] for r in records if "dev_wer" in r],
    }


def _speakers(report: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Name, word errors and words of each; none where there are too few to draw from them."""
    if report["resampled"] != "speakers":
        return []
    edits = [(f"{group['corpus']}/{group['name']}", group["wer"]) for group in report["by_speaker"]]
    return [
        (name, wer["substitutions"] + wer["deletions"] + wer["insertions"], wer["reference_length"])
        for name, wer in edits
    ]


def percent(value: float | None) -> str:
    return NO_FIGURE if value is None or math.isnan(value) else f"{100 * value:.2f} %"


def interval(wer: Wer | None) -> str:
    if wer is None or math.isnan(wer.low):
        return NO_FIGURE
    return f"{100 * wer.low:.2f} – {100 * wer.high:.2f} %"


def signed(value: float) -> str:
    """A difference of rates."""
    return f"{100 * value:+.2f}"
