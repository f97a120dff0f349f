"""Sums over frames, from which the mean and variance of features follow."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Moments:
    """Sums from which mean and variance follow, so that parts can be added up in any grouping."""

    frames: int
    sum_f: np.ndarray  # float64
    squares_f: np.ndarray

    @classmethod
    def zero(cls, mels: int) -> "Moments":
        return cls(0, np.zeros(mels), np.zeros(mels))

    @classmethod
    def of(cls, feats_tf: np.ndarray) -> "Moments":
        """Of the features [frames, mels] of an utterance.

        Up to 256 frames are added in float32, which are 16 apart, for long rows add fast; the rest is float64. It takes
        a third of the time of float64 throughout, and differs from that by 1e-7.
        """
        frames, mels = feats_tf.shape
        sum_f, squares_f = np.zeros(mels), np.zeros(mels)
        for start in range(0, frames, 4096):
            block_tf = feats_tf[start : start + 4096].astype(np.result_type(feats_tf, np.float32), copy=False)
            whole = len(block_tf) // 16 * 16
            wide, rest_tf = block_tf[:whole].reshape(-1, 16 * mels), block_tf[whole:].astype(np.float64)
            sum_f += wide.sum(0).reshape(16, mels).sum(0, dtype=np.float64) + rest_tf.sum(0)
            # einsum takes 22 µs in place of 33, but multiplies and adds at once where the processor can, to other bits
            squares = (wide * wide).sum(0).reshape(16, mels)
            squares_f += squares.sum(0, dtype=np.float64) + (rest_tf * rest_tf).sum(0)
        return cls(frames, sum_f, squares_f)

    def add(self, other: "Moments") -> "Moments":
        return Moments(self.frames + other.frames, self.sum_f + other.sum_f, self.squares_f + other.squares_f)

    def to_json(self) -> dict[str, Any]:
        return {"frames": self.frames, "sum": self.sum_f.tolist(), "squares": self.squares_f.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Moments":
        return cls(values["frames"], np.array(values["sum"]), np.array(values["squares"]))

    @property
    def mean_f(self) -> np.ndarray:
        return self.sum_f / max(1, self.frames)

    @property
    def variance_f(self) -> np.ndarray:
        return np.maximum(self.squares_f / max(1, self.frames) - self.mean_f**2, 0.0)
