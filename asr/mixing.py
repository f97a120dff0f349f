"""Corpora mixed by weight: how often the utterances of each come in an epoch.

A weight of 1 is each utterance once an epoch, 0.3 other three tenths of them in each epoch, 2 each of them twice. A
temperature above 1 then brings the shares of the corpora nearer to each other, so that small ones come more often.
"""

from dataclasses import dataclass

import numpy as np

from shards.index import ShardSet
from shards.mixing import times_by_weight, weights_by_temperature


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """The corpora of the rows that are trained on."""

    names: tuple[str, ...]
    hours: tuple[float, ...]
    weights: tuple[float, ...]  # as they were given
    factors: tuple[float, ...]  # how often an utterance comes in an epoch, on average
    group: np.ndarray  # int [rows]: which corpus

    def times(self, seed: int, epoch: int) -> np.ndarray:
        """How often each row comes in this epoch."""
        return times_by_weight(self.group, self.factors, seed=seed, epoch=epoch)

    def lines(self) -> list[str]:
        """What to say of an epoch, a line for each corpus."""
        rows = zip(self.names, self.hours, self.weights, self.factors, strict=True)
        return [
            f"{name}: {hours:.2f} h, weight {weight:g}: each utterance {factor:.3g} times, {hours * factor:.2f} h"
            for name, hours, weight, factor in rows
        ]


def parse(text: str) -> dict[str, float]:
    """`librispeech=1,youtube=0.3` to weights. Raises ValueError."""
    weights = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ValueError(f"--mix {text}: {part!r} is not NAME=WEIGHT; write --mix librispeech=1,youtube=0.3")
        if name in weights:
            raise ValueError(f"--mix {text}: gives {name} two weights")
        weights[name] = weight
    return weights


def check(shards: ShardSet, weights: dict[str, float]) -> None:
    """Raises ValueError when weights and the corpora in the shards do not fit."""
    if weights:
        _check_names(_corpora(shards)[0], weights)


def mix(shards: ShardSet, rows: np.ndarray, weights: dict[str, float], temperature: float) -> Mix | None:
    """The mix of these rows of the index; None where each utterance comes exactly once an epoch.

    No weights are 1 for every corpus. Raises as `check` does, and ValueError for weights that leave nothing.
    """
    if not weights and temperature == 1:
        return None
    found, group = _corpora(shards)
    if weights:
        _check_names(found, weights)
    group = group[rows]
    frames = np.bincount(group, shards.frames[rows], len(found))
    given = np.array([weights.get(name, 1.0) for name in found])
    if given[group].sum() < 1:
        raise ValueError("--mix: with these weights an epoch has not one utterance; raise them")
    factors = given.copy()
    if temperature != 1:
        wanted = frames * given
        factors[wanted > 0] *= weights_by_temperature(wanted[wanted > 0].tolist(), temperature)
    if (factors == 1).all():
        return None
    hours = frames * shards.spec.frame_s / 3600
    return Mix(tuple(found), tuple(hours.tolist()), tuple(given.tolist()), tuple(factors.tolist()), group)


def _corpora(shards: ShardSet) -> tuple[list[str], np.ndarray]:
    """Their names, and int [rows] which each utterance is of."""
    column = shards.table(["corpus"]).column(0).combine_chunks().dictionary_encode()
    return column.dictionary.to_pylist(), column.indices.to_numpy()


def _check_names(found: list[str], weights: dict[str, float]) -> None:
    unnamed = [name for name in found if name not in weights]
    if unnamed:
        raise ValueError(f"--mix: gives no weight to {', '.join(unnamed)}, which the shards hold; "
                         f"add {','.join(f'{name}=1' for name in unnamed)}, or =0 to leave it out")  # fmt: skip
    absent = [name for name in weights if name not in found]
    if absent:
        raise ValueError(f"--mix: the shards hold no {', '.join(absent)}; they hold {', '.join(sorted(found))}")
