"""Changes of training features that a recogniser should not mind: other speakers, rates, rooms, and gaps.

All work on log-mel features of one utterance [t, f] in numpy, but SpecAugment, which works on a batch on its device.
Each takes its random numbers from a generator, so that a step's augmentation is a function of (seed, epoch, step).
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from asr import frontend
from shards.spec import FrontendSpec

FLOOR = float(np.log(frontend.FLOOR))  # log-mel of digital silence


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches an augmentation off. Utterance-level ones apply to each utterance with `share`."""

    share: float = 0.9
    speed: float = 0.0  # tempo factor from 1 - speed to 1 + speed
    vocal_tract: float = 0.0  # frequency factor likewise: another length of the vocal tract
    gain_db: float = 0.0  # level, up to this much louder or softer
    noise_db: float = 0.0  # 0: none; else stationary noise from this much below the speech level down to silence
    gap_s: float = 0.0  # up to this much background before, between and after utterances
    time_masks: int = 2  # SpecAugment (Park et al. 2019), on each example
    time_mask_s: float = 0.5
    time_mask_share: float = 0.2  # a mask covers at most this share of the example
    mel_masks: int = 1
    mel_mask_mels: int = 15

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= (value := getattr(self, field.name)) < float("inf"):
                raise ValueError(f"augment.{field.name} is {value}; it must be 0 or more, and finite")
        for name, value in (("share", self.share), ("time_mask_share", self.time_mask_share)):
            if value > 1:
                raise ValueError(f"augment.{name} is {value:g}; it is a share, 1 at most")
        for name, value in (("speed", self.speed), ("vocal_tract", self.vocal_tract)):
            if value >= 1:
                raise ValueError(f"augment.{name} is {value:g}; it must be below 1, as factors go down to 1 - {name}")


def utterance(feats_tf: np.ndarray, config: AugmentConfig, spec: FrontendSpec, rng: np.random.Generator) -> np.ndarray:
    """One utterance, changed by chance. Float32 in and out; the number of frames follows the tempo."""
    if rng.random() >= config.share:
        return feats_tf
    if config.speed:
        feats_tf = tempo(feats_tf, rng.uniform(1 - config.speed, 1 + config.speed))
    if config.vocal_tract:
        feats_tf = vocal_tract(feats_tf, rng.uniform(1 - config.vocal_tract, 1 + config.vocal_tract), spec)
    if config.noise_db:
        feats_tf = noise(feats_tf, config.noise_db, rng)
    if config.gain_db:
        feats_tf = feats_tf + np.float32(rng.uniform(-config.gain_db, config.gain_db) * np.log(10) / 10)
    return np.maximum(feats_tf, np.float32(FLOOR))


def tempo(feats_tf: np.ndarray, factor: float) -> np.ndarray:
    """Speech `factor` times as fast, pitch unchanged: frames interpolated in time."""
    count = max(1, round(len(feats_tf) / factor))
    return _interpolate(feats_tf, np.linspace(0, len(feats_tf) - 1, count))


def vocal_tract(feats_tf: np.ndarray, factor: float, spec: FrontendSpec) -> np.ndarray:
    """The spectrum with its frequencies times `factor` (vocal tract length perturbation, Jaitly & Hinton 2013)."""
    low, high = (1127 * np.log1p(hz / 700) for hz in (spec.low_hz, spec.high_hz))
    step = (high - low) / (spec.mels + 1)
    hz = 700 * np.expm1((low + step * (1 + np.arange(spec.mels))) / 1127)
    source = (1127 * np.log1p(hz / factor / 700) - low) / step - 1
    return np.ascontiguousarray(_interpolate(feats_tf.T, source.clip(0, spec.mels - 1)).T)


def _interpolate(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows at fractional positions."""
    below = at.astype(np.int64)
    above = np.minimum(below + 1, len(rows) - 1)
    weight = (at - below).astype(np.float32)[:, None]
    return rows[below] * (1 - weight) + rows[above] * weight


def noise(feats_tf: np.ndarray, strongest_db: float, rng: np.random.Generator) -> np.ndarray:
    """Stationary noise with a random smooth spectrum, `strongest_db` to 40 dB further below the loud frames."""
    frames, mels = feats_tf.shape
    speech = np.quantile(feats_tf.mean(1), 0.9)
    level = speech - (strongest_db + rng.uniform(0, 40)) * np.log(10) / 10
    shape_f = np.interp(np.linspace(0, 5, mels), np.arange(6), rng.normal(0, 1.5, 6))
    added = rng.gumbel(level + shape_f, 0.8, (frames, mels)).astype(np.float32)
    return np.logaddexp(feats_tf, added)


def gap(feats_tf: np.ndarray, longest_s: float, spec: FrontendSpec, rng: np.random.Generator) -> np.ndarray:
    """Up to `longest_s` of the background of an utterance: frames drawn from its quietest tenth."""
    count = int(rng.integers(0, round(longest_s / spec.frame_s) + 1))
    quiet = np.argsort(feats_tf.mean(1))[: max(1, len(feats_tf) // 10)]
    chosen = feats_tf[rng.choice(quiet, count)]
    return chosen + rng.normal(0, 0.3, chosen.shape).astype(np.float32)


def spec_augment(
    feats_btf: Tensor, lens_b: Tensor, config: AugmentConfig, frame_s: float, generator: torch.Generator
) -> Tensor:
    """Normalised features with bands of time and of mels set to zero, the mean. Masks differ between examples."""
    _, frames, mels = feats_btf.shape
    kept = torch.ones_like(feats_btf, dtype=torch.bool)
    longest_b = (lens_b * config.time_mask_share).clamp(max=config.time_mask_s / frame_s).floor()
    for _ in range(config.time_masks):
        kept &= ~_band(frames, lens_b, longest_b, generator)[:, :, None]
    for _ in range(config.mel_masks):
        all_b = torch.full_like(lens_b, mels)
        kept &= ~_band(mels, all_b, torch.full_like(longest_b, config.mel_mask_mels), generator)[:, None]
    return feats_btf * kept


def _band(size: int, range_b: Tensor, longest_b: Tensor, generator: torch.Generator) -> Tensor:
    """[b, size], true in one random band of each row that lies within its range."""
    draw = torch.rand(2, len(range_b), generator=generator).to(range_b.device)
    width = (draw[0] * (longest_b + 1)).floor()
    start = (draw[1] * (range_b - width + 1)).floor()
    at = torch.arange(size, device=range_b.device)
    return (at >= start[:, None]) & (at < (start + width)[:, None])
