"""What a sweep is: trainings that differ in a few settings, as configs/sweeps/*.yaml says."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from configs import load

SWEEPS = "sweeps"  # the folder of configs
VOCAB = "vocab"  # the key of a grid that is no setting of a training
UNITS = ("epochs", "hours", "minutes")


@dataclass(frozen=True, slots=True)
class PointConfig:
    label: str
    settings: dict[str, Any] = field(default_factory=dict)  # of the training, beside those of all points
    vocab: str = ""  # as that of the sweep


@dataclass(frozen=True, slots=True)
class Balance:
    """Points of equal size, whose encoder has so many times the parameters of the predictor."""

    parameters: float  # of the whole model, in every point
    encoder: str  # the setting with the width that decides how many are the encoder's, found for each point
    predictor: str  # and the predictor's
    ratios: tuple[float, ...]
    multiple_of: int = 1  # what the encoder's width must be


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """Exactly one of `points`, `grid` and `balance` says which trainings there are."""

    title: str
    base: str  # config of train-asr, by name or as a file
    budget: str  # the same for all points: "11 epochs", "30 hours" of audio, "20 minutes" of training
    vocab: str = ""  # "char", "bpe-128": a vocabulary of build-vocab
    advice: str = ""  # the claim that is tested
    against: Literal["label", "parameters", "vocab"] = "label"  # what the plot has from left to right
    settings: dict[str, Any] = field(default_factory=dict)  # of all trainings
    points: tuple[PointConfig, ...] = ()
    grid: dict[str, Any] = field(default_factory=dict)  # setting, or "vocab", to its values; every combination is one
    balance: Balance | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    amount: float
    unit: str

    def epochs(self, hours: float) -> int | None:
        """Epochs of a shard set of so many hours; None where time ends a training."""
        if self.unit == "minutes":
            return None
        return round(self.amount if self.unit == "epochs" else max(1.0, self.amount / hours))


@dataclass(frozen=True, slots=True)
class Point:
    """One training, for each seed."""

    label: str
    settings: tuple[str, ...]  # key.sub=value
    vocab: str
    ratio: float | None = None  # of a balance

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.+=-]+", "-", self.label)


def read(name: str, overrides: list[str]) -> SweepConfig:
    """Raises ValueError for what no sweep can be."""
    return load.load(SweepConfig, name, SWEEPS, overrides)


def budget(text: str) -> Budget:
    """`20 minutes`. Raises ValueError."""
    amount, _, unit = text.strip().partition(" ")
    try:
        value = float(amount)
    except ValueError:
        value = 0.0
    if unit not in UNITS or not 0 < value < float("inf"):
        raise ValueError(f"budget is {text!r}; write, for instance, 11 epochs, 30 hours (of audio) or 20 minutes")
    if unit == "epochs" and value != int(value):
        raise ValueError(f"budget is {text!r}; it takes a whole number of epochs")
    return Budget(value, unit)


def points(config: SweepConfig) -> list[Point]:
    """All points, in the order of the plot. Raises ValueError when they do not make a sweep."""
    given = [name for name in ("points", "grid", "balance") if getattr(config, name)]
    if len(given) != 1:
        raise ValueError(f"a sweep has one of points, grid and balance; this one has {' and '.join(given) or 'none'}")
    found = list({"points": _listed, "grid": _grid, "balance": _balanced}[given[0]](config))
    _check(config, found)
    return found


def _listed(config: SweepConfig) -> Iterator[Point]:
    for point in config.points:
        settings = (*settings_of(config.settings), *settings_of(point.settings))
        yield Point(point.label, settings, point.vocab or config.vocab)


def _grid(config: SweepConfig) -> Iterator[Point]:
    for key, values in config.grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid.{key} is {values!r}; it takes a list of values")
    for values in itertools.product(*config.grid.values()):
        chosen = dict(zip(config.grid, values, strict=True))
        vocab = str(chosen.pop(VOCAB, config.vocab))
        own = settings_of(chosen)
        label = ", ".join([vocab, *own] if VOCAB in config.grid else own)
        yield Point(label, (*settings_of(config.settings), *own), vocab)


def _balanced(config: SweepConfig) -> Iterator[Point]:
    assert config.balance is not None
    if config.balance.parameters < 1 or config.balance.multiple_of < 1:
        raise ValueError("balance: parameters and multiple_of must be 1 or more")
    for ratio in config.balance.ratios:
        if not 0 < ratio < float("inf"):
            raise ValueError(f"balance.ratios: {ratio:g} must be above 0 and finite")
        yield Point(f"{ratio:g} to 1", tuple(settings_of(config.settings)), config.vocab, ratio)


def settings_of(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested keys as `key.sub=value`, the value in JSON, which is YAML too."""
    flat = []
    for key, value in values.items():
        if isinstance(value, dict):
            flat += settings_of(value, f"{prefix}{key}.")
        else:
            flat.append(f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}")
    return flat


def vocab_options(vocab: str) -> list[str]:
    """What build-vocab is to be told. Raises ValueError."""
    kind, _, size = vocab.partition("-")
    if vocab == "char":
        return ["--type", "char"]
    if kind not in ("bpe", "unigram") or not size.isdecimal():
        raise ValueError(f"vocab is {vocab!r}; write char, bpe-SIZE or unigram-SIZE, for instance bpe-128")
    return ["--type", kind, "--size", size]


def _check(config: SweepConfig, found: list[Point]) -> None:
    unit = budget(config.budget).unit
    seen: dict[str, str] = {}
    for point in found:
        if not point.folder.strip("-."):
            raise ValueError(f"points: {point.label!r} is no label; give each point one with letters or figures")
        if point.folder in seen:
            raise ValueError(f"points: {seen[point.folder]!r} and {point.label!r} would have the same folder; "
                             "give each its own label")  # fmt: skip
        seen[point.folder] = point.label
        vocab_options(point.vocab)
        for setting in point.settings:
            key = setting.partition("=")[0]
            if key == "seed":
                raise ValueError(f"point {point.label}: sets seed; --seeds N trains each point with the seeds 0 to N-1")
            if key == "epochs" and unit != "minutes":
                raise ValueError(f"point {point.label}: sets epochs, which budget: {config.budget} decides for all")
    if len(found) < 2:
        raise ValueError("a sweep compares two points or more; this one has "
                         f"{'one' if found else 'none'}")  # fmt: skip
