"""How often each utterance comes in an epoch when corpora are mixed by weight."""

import math
from collections.abc import Sequence

import numpy as np

BLOCK_ROWS = 1 << 20  # at once, so that 30 million rows take no gigabytes


def times_by_weight(group: np.ndarray, weights: Sequence[float], *, seed: int, epoch: int) -> np.ndarray:
    """How often each row comes in the epoch, int32: `weights[group[row]]` times on average.

    A row comes floor(w (epoch + 1) + u) - floor(w epoch + u) times, where u is between 0 and 1 by (seed, row): after
    any number of epochs it has come w times as often as there were epochs, rounded up or down. Weight 1 is once in
    each epoch; with 0.3 each epoch has other three tenths of the rows. Raises ValueError for a weight that is none.
    """
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise ValueError(f"a corpus cannot have the weight {weight}: it is 0 or more")
    assert len(group) == 0 or (group.min() >= 0 and group.max() < len(weights)), "each group has a weight"
    weight_g = np.asarray(weights, np.float64)
    rng = np.random.default_rng([seed, 0, 0, 1])  # no plan has this seed: theirs are of three numbers at most
    times = np.empty(len(group), np.int32)
    for start in range(0, len(group), BLOCK_ROWS):
        weight = weight_g[group[start : start + BLOCK_ROWS]]
        # 24 bits: sums with whole numbers stay exact, so that weight 1 is exactly once.
        chance = rng.random(len(weight), np.float32).astype(np.float64)
        times[start : start + BLOCK_ROWS] = np.floor(weight * (epoch + 1) + chance) - np.floor(weight * epoch + chance)
    return times


def weights_by_temperature(hours: Sequence[float], temperature: float) -> list[float]:
    """Weights that give each group a share of the epoch proportional to its hours ** (1 / temperature).

    The epoch keeps its length: the hours times the weights are as many as the hours. 1 leaves the corpora as they are,
    infinity gives all the same share; in between, small ones gain (Arivazhagan et al. 2019, Massively Multilingual
    Neural Machine Translation in the Wild). Raises ValueError for a temperature that is none, and for a group without
    hours.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, and {temperature} is not: 1 mixes corpora by their hours, more "
                         "evens them out")  # fmt: skip
    if not all(0 < h < math.inf for h in hours):
        raise ValueError(f"corpora of {', '.join(f'{h:g}' for h in hours)} hours cannot be mixed: each must have some")
    shares = [(h / max(hours)) ** (1 / temperature) for h in hours]
    scale = sum(hours) / sum(shares)
    return [scale * share / h for share, h in zip(shares, hours, strict=True)]
