"""Changes of training features that a recogniser should not mind: other speakers, rates, rooms, and gaps.

All work on log-mel features of one utterance [t, f] in numpy, but SpecAugment, which works on a batch on its device.
Each takes its random numbers from a generator, so that a step's augmentation is a function of (seed, epoch, step).
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from asr.frontend import least_energy
from shards.spec import FrontendSpec


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches an augmentation off. Utterance-level ones apply to each utterance with `share`."""

    share: float = 0.9
    speed: float = 0.0  # tempo factor from 1 - speed to 1 + speed
    vocal_tract: float = 0.0  # frequency factor likewise: another length of the vocal tract
    gain_db: float = 0.0  # level, up to this much louder or softer
    noise_db: float = 0.0  # 0: none; else stationary noise from this much below the speech level down to silence
    gap_s: float = 0.0  # up to this much background before, between and after utterances
    pause_s: float = 0.0  # up to this much in one of these places, in a tenth of the batches: streams are often silent
    time_masks: int = 2  # SpecAugment (Park et al. 2019), on each example
    time_mask_s: float = 0.5
    time_mask_share: float = 0.2  # a mask covers at most this share of the example
    mel_masks: int = 1
    mel_mask_mels: int = 15
    time_warp_s: float = 0.0  # SpecAugment's: a point of the example comes up to this much earlier or later

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


def of_utterances(config: AugmentConfig) -> list[str]:
    """Which keys change single utterances, on the CPU; the others are for batches, on their device."""
    with_share = ("speed", "vocal_tract", "gain_db", "noise_db") if config.share else ()
    return [key for key in (*with_share, "gap_s", "pause_s") if getattr(config, key)]


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
    return np.maximum(feats_tf, np.float32(np.log(least_energy(spec))))


def tempo(feats_tf: np.ndarray, factor: float) -> np.ndarray:
    """Speech `factor` times as fast, pitch unchanged: frames interpolated in time."""
    count = max(1, round(len(feats_tf) / factor))
    return _interpolate(feats_tf, np.linspace(0, len(feats_tf) - 1, count), axis=0)


def vocal_tract(feats_tf: np.ndarray, factor: float, spec: FrontendSpec) -> np.ndarray:
    """The spectrum with its frequencies times `factor` (vocal tract length perturbation, Jaitly & Hinton 2013)."""
    low, high = (1127 * np.log1p(hz / 700) for hz in (spec.low_hz, spec.high_hz))
    step = (high - low) / (spec.mels + 1)
    hz = 700 * np.expm1((low + step * (1 + np.arange(spec.mels))) / 1127)
    source = (1127 * np.log1p(hz / factor / 700) - low) / step - 1
    return _interpolate(feats_tf, source.clip(0, spec.mels - 1), axis=1)


def _interpolate(feats_tf: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Frames (axis 0) or mels (1) at fractional positions."""
    below = at.astype(np.intp)
    weight = (at - below).astype(np.float32)
    start_tf = feats_tf.take(below, axis)
    changed_tf = feats_tf.take(np.minimum(below + 1, feats_tf.shape[axis] - 1), axis)
    changed_tf -= start_tf
    changed_tf *= weight if axis else weight[:, None]
    changed_tf += start_tf
    return changed_tf


def noise(feats_tf: np.ndarray, strongest_db: float, rng: np.random.Generator) -> np.ndarray:
    """Stationary noise with a random smooth spectrum, `strongest_db` to 40 dB further below the loud frames."""
    frames, mels = feats_tf.shape
    speech = np.quantile(feats_tf.mean(1), 0.9)
    level = speech - (strongest_db + rng.uniform(0, 40)) * np.log(10) / 10
    shape_f = np.interp(np.linspace(0, 5, mels), np.arange(6), rng.normal(0, 1.5, 6))
    # rng.gumbel(level + shape_f, 0.8) and logaddexp, step by step over arrays: a quarter of the time.
    added_tf = 1 - rng.random((frames, mels))
    np.log(added_tf, out=added_tf)
    np.negative(added_tf, out=added_tf)
    np.log(added_tf, out=added_tf)
    added_tf *= -0.8
    added_tf += level + shape_f
    added_tf = added_tf.astype(np.float32)
    louder_tf = np.maximum(feats_tf, added_tf)
    raised_tf = np.minimum(feats_tf, added_tf)
    raised_tf -= louder_tf
    np.log1p(np.exp(raised_tf, out=raised_tf), out=raised_tf)
    raised_tf += louder_tf
    return raised_tf


def gap(feats_tf: np.ndarray, longest_s: float, spec: FrontendSpec, rng: np.random.Generator) -> np.ndarray:
    """Up to `longest_s` of the background of an utterance: frames drawn from its quietest tenth."""
    count = int(rng.integers(0, round(longest_s / spec.frame_s) + 1))
    quiet = np.argsort(feats_tf.mean(1))[: max(1, len(feats_tf) // 10)]
    chosen = feats_tf[rng.choice(quiet, count)]
    return chosen + rng.normal(0, 0.3, chosen.shape).astype(np.float32)


def spec_augment(
    feats_btf: Tensor, lens_b: Tensor, config: AugmentConfig, frame_s: float, generator: torch.Generator
) -> Tensor:
    """Normalised features, warped along time, with bands of time and of mels set to zero, the mean.

    All of it differs between examples. No example changes its length, and what is behind its end stays as it is.
    """
    if config.time_warp_s:
        feats_btf = _warped_by_chance(feats_btf, lens_b, config.time_warp_s / frame_s, generator)
    _, frames, mels = feats_btf.shape
    masked_bt = torch.zeros_like(feats_btf[:, :, 0], dtype=torch.bool)
    masked_bf = torch.zeros_like(feats_btf[:, 0], dtype=torch.bool)
    longest_b = (lens_b * config.time_mask_share).clamp(max=config.time_mask_s / frame_s).floor()
    for _ in range(config.time_masks):
        masked_bt |= _band(frames, lens_b, longest_b, generator)
    for _ in range(config.mel_masks):
        all_b = torch.full_like(lens_b, mels)
        masked_bf |= _band(mels, all_b, torch.full_like(longest_b, config.mel_mask_mels), generator)
    return feats_btf.masked_fill(masked_bt[:, :, None] | masked_bf[:, None], 0)


def _band(size: int, range_b: Tensor, longest_b: Tensor, generator: torch.Generator) -> Tensor:
    """[b, size], true in one random band of each row that lies within its range."""
    draw = torch.rand(2, len(range_b), generator=generator).to(range_b.device)
    width = (draw[0] * (longest_b + 1)).floor()
    start = (draw[1] * (range_b - width + 1)).floor()
    at = torch.arange(size, device=range_b.device)
    return (at >= start[:, None]) & (at < (start + width)[:, None])


def _warped_by_chance(feats_btf: Tensor, lens_b: Tensor, furthest: float, generator: torch.Generator) -> Tensor:
    """Each example warped by up to `furthest` frames; those too short to move a point that far stay as they are.

    The point comes from between the outermost `furthest` frames and one more, so that wherever it goes both ends stay.
    """
    draw_2b = torch.rand(2, len(lens_b), generator=generator).to(lens_b.device)
    room_b = lens_b - 3 - 2 * furthest
    from_b = furthest + 1 + draw_2b[0] * room_b
    to_b = from_b + (2 * draw_2b[1] - 1) * furthest
    stays_b = room_b < 0
    middle_b = (lens_b - 1) / 2
    return time_warp(feats_btf, lens_b, middle_b.where(stays_b, from_b), middle_b.where(stays_b, to_b))


def time_warp(feats_btf: Tensor, lens_b: Tensor, from_b: Tensor, to_b: Tensor) -> Tensor:
    """What was at frame `from_b` of each example comes to frame `to_b`, first and last frame stay, and what is between
    them is stretched or squeezed evenly (Park et al. 2019, section 2).

    Both points lie between the first and the last frame. Where they are the same, all frames stay, bit for bit.

    Frames are interpolated linearly, as those of `tempo` are: cubic interpolation overshoots at onsets, and grid_sample
    would need a grid over the mels as well.
    """
    at_t = torch.arange(feats_btf.shape[1], device=feats_btf.device)
    last_b1 = lens_b[:, None] - 1
    from_b1, to_b1 = from_b[:, None], to_b[:, None]
    # Each side is measured from its own end, so that both ends come out exactly.
    before_bt = at_t * (from_b1 / to_b1)
    after_bt = last_b1 - (last_b1 - at_t) * ((last_b1 - from_b1) / (last_b1 - to_b1))
    source_bt = torch.where(at_t < to_b1, before_bt, after_bt)
    source_bt = torch.where((at_t > last_b1) | (from_b1 == to_b1), at_t, source_bt)
    below_bt = source_bt.long()
    above_bt = (below_bt + 1).clamp(max=feats_btf.shape[1] - 1)  # of the last frame none is taken: its weight is 0
    weight_bt1 = (source_bt - below_bt)[:, :, None]
    # Whole rows of mels, for which index_select takes a fifth of the time of gather, which looks up each number.
    rows = feats_btf.flatten(0, 1)
    first_b1 = torch.arange(len(lens_b), device=lens_b.device)[:, None] * feats_btf.shape[1]
    below_btf, above_btf = (
        rows.index_select(0, (first_b1 + frame_bt).flatten()).view_as(feats_btf) for frame_bt in (below_bt, above_bt)
    )
    return below_btf.lerp_(above_btf, weight_bt1)
