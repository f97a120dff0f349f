"""The models of a sweep before any is trained: their sizes, the widths that make them equally large, their data.

`sweep-asr` starts this as a process of its own, as nothing of it but this needs torch: a JSON object comes on standard
input, a list on standard output. Models are built without memory for their weights.
"""

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from asr import mixing, token_lengths
from asr.corpus import usable
from asr.models import Model, make_model
from asr.recipe import TrainConfig, as_values
from asr.tokenizer import Tokenizer
from configs import load
from shards.index import ShardSet, open_shards

TOLERANCE = 0.02  # of the number of parameters in a balance


def main() -> int:
    """Exit code 1 and one line for a config that cannot be."""
    try:
        print(json.dumps(describe(json.load(sys.stdin))))
    except ValueError as err:
        print(err, file=sys.stderr)
        return 1
    return 0


def describe(request: dict[str, Any]) -> list[dict[str, Any]]:
    """For each point its config, parameters and data, or why there is no such model.

    Raises ValueError that names the point for settings that train-asr does not take.
    """
    shards = open_shards(request["shards"])
    lengths: dict[str, np.ndarray] = {}
    found = []
    for point in request["points"]:
        tokenizer = Tokenizer.load(point["vocab"])
        if point["vocab"] not in lengths:
            lengths[point["vocab"]] = token_lengths.count(shards, tokenizer)
        try:
            found.append(_point(request, point, shards, tokenizer, lengths[point["vocab"]]))
        except ValueError as err:
            raise ValueError(f"point {point['label']}: {err}") from None
    return found


def _point(
    request: dict[str, Any], point: dict[str, Any], shards: ShardSet, tokenizer: Tokenizer, tokens: np.ndarray
) -> dict[str, Any]:
    base, settings = request["base"], list(point["settings"])

    def build(more: list[str]) -> tuple[TrainConfig, Model]:
        config = load.load(TrainConfig, base, "train", settings + more)
        with torch.device("meta"):
            return config, make_model(config.model, shards.spec.mels, tokenizer.size)

    if point["ratio"] is not None:
        widths = _balanced(build, request["balance"], point["ratio"])
        if isinstance(widths, str):
            return {"reason": widths}
        settings += widths
        config, model = build(widths)
    else:
        config, model = build([])
    rows, left_out = usable(
        shards.frames, tokens, model.encoder_frames, round(config.data.max_s / shards.spec.frame_s)
    )  # fmt: skip
    if not len(rows):
        return {"reason": f"no utterance to train on; left out: {left_out}"}
    mix = mixing.mix(shards, rows, config.data.mix, config.data.mix_temperature)
    times = 1 if mix is None else mix.times(config.seed, 0)
    return {
        "settings": settings, "config": as_values(config), "parameters": sizes(model), "left_out": left_out,
        "vocab_size": tokenizer.size, "vocab_fingerprint": tokenizer.fingerprint,
        "hours_an_epoch": float((shards.frames[rows] * times).sum()) * shards.spec.frame_s / 3600,
    }  # fmt: skip


def sizes(model: Model) -> dict[str, int]:
    """Parameters of all, of the encoder, and of the predictor, where there is one."""
    counts = {"total": 0, "encoder": 0, "predictor": 0}
    for name, parameter in model.named_parameters():
        counts["total"] += parameter.numel()
        if (part := name.partition(".")[0]) in counts:
            counts[part] += parameter.numel()
    return counts


def _balanced(
    build: Callable[[list[str]], tuple[TrainConfig, Model]], balance: dict[str, Any], ratio: float
) -> list[str] | str:
    """The settings of both widths, or why there are none.

    What is neither encoder nor predictor may grow with the widths, so that the shares of both are found in a few turns.
    """
    wanted, multiple = balance["parameters"], balance["multiple_of"]

    @functools.cache
    def count(encoder: int, predictor: int) -> dict[str, int]:
        return sizes(build([f"{balance['encoder']}={encoder * multiple}", f"{balance['predictor']}={predictor}"])[1])

    encoder = predictor = 1
    for _ in range(8):
        before, found = (encoder, predictor), count(encoder, predictor)
        rest = wanted - (found["total"] - found["encoder"] - found["predictor"])
        if rest <= 0:
            break
        encoder = _nearest(rest * ratio / (1 + ratio), lambda width: count(width, 1)["encoder"])
        predictor = _nearest(rest / (1 + ratio), lambda width: count(1, width)["predictor"])
        if (encoder, predictor) == before:
            break
    if _misses(count(encoder, predictor), wanted):  # an encoder that grows in large steps: equal size comes first
        predictor = _nearest(wanted, lambda width: count(encoder, width)["total"])
    found = count(encoder, predictor)
    if _misses(found, wanted):
        return (f"no widths give {wanted:,.0f} parameters with {ratio:g} times as many in the encoder as in the "
                f"predictor; the nearest have {found['total']:,}")  # fmt: skip
    return [f"{balance['encoder']}={encoder * multiple}", f"{balance['predictor']}={predictor}"]


def _misses(found: dict[str, int], wanted: float) -> bool:
    return abs(found["total"] / wanted - 1) > TOLERANCE


def _nearest(wanted: float, count: Callable[[int], int]) -> int:
    """The width from 1 on whose count, which grows with it, is nearest to what is wanted."""
    high = 1
    while count(high) < wanted:
        high *= 2
    low = high // 2  # below what is wanted, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return high if low == 0 or count(high) - wanted < wanted - count(low) else low
