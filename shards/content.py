"""What a shard set holds of each utterance: features, in one of three number formats, and the audio itself.

Legend of shape suffixes: t frames, f mels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

CODES = 255  # steps between the lowest and the highest code
BLOCK_VALUES = 1 << 14  # worked on at a time by `halve`: fits the L2 cache, and hides what calling numpy costs


@dataclass(frozen=True, slots=True)
class Content:
    """`features` is their number format in the tar, None without any. Only sets made elsewhere have float32."""

    features: Literal["float16", "uint8", "float32"] | None
    audio: bool

    def __post_init__(self) -> None:
        if self.features not in (*_FEATURES, None) or not isinstance(self.audio, bool) or not self.name:
            raise ValueError(f"no content: features {self.features!r}, audio {self.audio!r}")

    @classmethod
    def named(cls, name: str) -> "Content":
        """The content that the command line calls `name`. Raises ValueError that lists the names."""
        for content in _WRITTEN:
            if content.name == name:
                return content
        raise ValueError(f"no content {name!r}; there are {', '.join(NAMES)}")

    @property
    def name(self) -> str:
        parts = [_FEATURES[self.features]] if self.features else []
        return "+".join([*parts, *(["audio"] if self.audio else [])])


_FEATURES = {"float16": "logmel", "uint8": "logmel8", "float32": "logmel32"}
_WRITTEN = (
    Content("float16", False), Content("uint8", False), Content(None, True),
    Content("float16", True), Content("uint8", True),
)  # fmt: skip
NAMES: tuple[str, ...] = tuple(content.name for content in _WRITTEN)


def numbers(data: np.ndarray, features: str, frames: int, mels: int) -> np.ndarray:
    """Log-mel [frames, mels] out of the bytes (uint8) that an index names for it.

    Float16 and float32 are a view; uint8, which has its scale before it, becomes float32.
    """
    if features != "uint8":
        return data.view(features).reshape(-1, mels)
    scale_2f = data[: 8 * mels].view(np.float32).reshape(2, mels)
    return dequantise(data[-frames * mels :].reshape(-1, mels), scale_2f)


def halve(feats_tf: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """feats_tf.astype(np.float16) in half of the time, and bit for bit the same from 2^-14 on.

    Multiplied by 2^-112 a number has the exponent of float16 in the lower bits of its own. The mantissa is rounded to
    the nearest, ties to even, and sign, five bits of exponent and ten of mantissa end up in the upper half of the 32
    bits. Below 2^-14 the product is subnormal and was rounded once before: what lay just beside the middle of two
    neighbours may go to the wrong one.
    """
    values = np.ascontiguousarray(feats_tf).reshape(-1)
    halves = np.empty(feats_tf.shape, np.float16)
    if not values.size or not _OVERFLOW > values.max() >= values.min() > -_OVERFLOW:  # or not a number
        with np.errstate(over="ignore"):
            return feats_tf.astype(np.float16)
    out = halves.reshape(-1).view(np.uint16)
    scaled, rounding, sign = (np.empty(min(BLOCK_VALUES, values.size), np.uint32) for _ in range(3))
    for start in range(0, values.size, BLOCK_VALUES):
        size = min(BLOCK_VALUES, values.size - start)
        bits, odd, minus = scaled[:size], rounding[:size], sign[:size]
        np.multiply(values[start : start + size], np.float32(2.0**-112), out=bits.view(np.float32))
        np.bitwise_and(bits, 1 << 31, out=minus)
        np.right_shift(bits, 13, out=odd)
        odd &= 1
        odd += 0xFFF
        bits += odd
        bits <<= 3
        bits |= minus
        out[start : start + size] = bits.view(np.uint16)[1::2]
    return halves


_OVERFLOW = 65504.0  # the largest float16


def quantise(feats_tf: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Codes [frames, mels] and their scale [2, mels]: for each mel the lowest value, and the step between two codes.

    A value comes back from `dequantise` within half a step. There is at least one frame, and all values are finite.
    """
    low_f = feats_tf.min(axis=0)
    step_f = (feats_tf.max(axis=0) - low_f) / np.float32(CODES)
    step_f[step_f < np.finfo(np.float32).tiny] = 0  # its inverse would be infinite
    per_step_f = np.divide(1, step_f, out=np.zeros_like(step_f), where=step_f > 0)
    codes_tf = feats_tf - low_f
    codes_tf *= per_step_f
    np.rint(codes_tf, out=codes_tf)
    np.minimum(codes_tf, CODES, out=codes_tf)
    return codes_tf.astype(np.uint8), np.stack([low_f, step_f])


def dequantise(codes_tf: npt.NDArray[np.uint8], scale_2f: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Float32 [frames, mels]: lowest value + code * step."""
    feats_tf = codes_tf.astype(np.float32)
    feats_tf *= scale_2f[1]
    feats_tf += scale_2f[0]
    return feats_tf
