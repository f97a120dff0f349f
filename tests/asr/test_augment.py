"""Augmentation: off means untouched, the same seed means the same, and each change is the one that is stated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr import augment
from asr.augment import AugmentConfig
from asr.frontend import least_energy
from shards.spec import FrontendSpec

SPEC = FrontendSpec(mels=20)
FLOOR = np.log(least_energy(SPEC))
OFF = AugmentConfig(share=1.0, time_masks=0, mel_masks=0)
STRONG = AugmentConfig(share=1.0, speed=0.2, vocal_tract=0.2, gain_db=10.0, noise_db=10.0, gap_s=0.5)


def features(frames: int = 50, seed: int = 0) -> np.ndarray:
    """Loud in the middle, near silence at both ends."""
    loud = np.sin(np.linspace(0, np.pi, frames))[:, None] * 12 - 13
    return (loud + np.random.default_rng(seed).normal(0, 1, (frames, 20))).clip(FLOOR).astype(np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_strength_0_changes_nothing() -> None:
    feats_tf = features()
    assert np.array_equal(augment.utterance(feats_tf, OFF, SPEC, rng()), feats_tf)


def test_what_is_quieter_than_kaldis_floor_stays_where_the_features_have_no_such_floor() -> None:
    spec, feats_tf = replace(SPEC, window="hann", definition="librosa"), features() - 15
    assert feats_tf.min() < FLOOR and np.array_equal(augment.utterance(feats_tf, OFF, spec, rng()), feats_tf)


def test_only_a_share_of_the_utterances_is_changed() -> None:
    feats_tf, config, random = features(), replace(STRONG, share=0.3), rng()
    changed = [not np.array_equal(augment.utterance(feats_tf, config, SPEC, random), feats_tf) for _ in range(300)]
    assert 60 < sum(changed) < 120  # 90 expected, five deviations of 7.9 would be 50 to 130
    assert augment.utterance(feats_tf, replace(STRONG, share=0.0), SPEC, rng()) is feats_tf


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 80), seed=st.integers(0, 1 << 32))
def test_an_utterance_stays_one(frames: int, seed: int) -> None:
    feats_tf = features(frames)
    before = feats_tf.copy()
    changed = augment.utterance(feats_tf, STRONG, SPEC, rng(seed))
    assert changed.dtype == np.float32 and changed.shape[1] == 20
    assert round(frames / 1.2) <= len(changed) <= round(frames / 0.8)
    assert np.isfinite(changed).all() and changed.min() >= np.float32(FLOOR)
    assert np.array_equal(feats_tf, before)
    assert np.array_equal(changed, augment.utterance(feats_tf, STRONG, SPEC, rng(seed)))


def test_another_seed_is_another_utterance() -> None:
    one, other = (augment.utterance(features(), replace(STRONG, speed=0.0), SPEC, rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("factor", "frames"), [(1.0, 50), (2.0, 25), (0.5, 100), (1.1, 45), (200.0, 1)])
def test_tempo_divides_the_length(factor: float, frames: int) -> None:
    assert augment.tempo(features(), factor).shape == (frames, 20)


def test_tempo_keeps_both_ends_and_the_order() -> None:
    ramp_tf = np.arange(40, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    slow_tf = augment.tempo(ramp_tf, 0.7)
    np.testing.assert_allclose(slow_tf[:, 0], np.linspace(0, 39, len(slow_tf)), atol=1e-5)


def test_vocal_tract_factor_1_changes_nothing() -> None:
    np.testing.assert_allclose(augment.vocal_tract(features(), 1.0, SPEC), features(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.2])
def test_vocal_tract_multiplies_frequencies(factor: float) -> None:
    """A hill over one frequency moves to `factor` times that frequency."""
    spec = FrontendSpec()
    low, high = (1127 * np.log1p(hz / 700) for hz in (spec.low_hz, spec.high_hz))
    centres_hz = 700 * np.expm1(np.linspace(low, high, spec.mels + 2)[1:-1] / 1127)
    hill_tf = -((np.log(centres_hz / 1500)[None] / 0.2) ** 2).astype(np.float32)
    moved_hz = centres_hz[augment.vocal_tract(hill_tf, factor, spec)[0].argmax()]
    assert moved_hz == pytest.approx(1500 * factor, rel=0.04)  # a mel is 5 % wide there


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 32), strongest_db=st.floats(1.0, 60.0))
def test_noise_never_lowers(seed: int, strongest_db: float) -> None:
    noisy_tf = augment.noise(features(), strongest_db, rng(seed))
    assert noisy_tf.dtype == np.float32 and noisy_tf.shape == (50, 20)
    assert (noisy_tf >= features()).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 32), strongest_db=st.floats(0.5, 60.0), frames=st.integers(1, 60))
def test_noise_is_a_gumbel_distribution_added_in_power(seed: int, strongest_db: float, frames: int) -> None:
    """The logarithm of power that is exponentially distributed, but 0.8 times as wide."""
    feats_tf, random = features(frames), rng(seed)
    level = np.quantile(feats_tf.mean(1), 0.9) - (strongest_db + random.uniform(0, 40)) * np.log(10) / 10
    shape_f = np.interp(np.linspace(0, 5, 20), np.arange(6), random.normal(0, 1.5, 6))
    expected_tf = np.logaddexp(feats_tf, random.gumbel(level + shape_f, 0.8, (frames, 20)))
    np.testing.assert_allclose(augment.noise(feats_tf, strongest_db, rng(seed)), expected_tf, atol=1e-5)


def test_noise_fills_the_pauses_and_spares_the_speech() -> None:
    feats_tf = features(200)
    raised_t = np.mean([augment.noise(feats_tf, 15.0, rng(seed)) - feats_tf for seed in range(20)], axis=(0, 2))
    assert raised_t[:5].mean() > 10 * raised_t[95:105].mean()


def test_gain_moves_all_by_the_same_number_of_decibels() -> None:
    feats_tf = features() + 30  # far from the floor
    for seed in range(10):
        moved = augment.utterance(feats_tf, replace(OFF, gain_db=6.0), SPEC, rng(seed)) - feats_tf
        assert np.ptp(moved) < 1e-4
        assert 0 < abs(moved.mean()) <= 6 * np.log(10) / 10 + 1e-4


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), frames=st.integers(1, 60))
def test_a_gap_is_drawn_from_the_quiet_frames(seed: int, frames: int) -> None:
    feats_tf = np.full((frames, 20), 50.0, np.float32)
    quiet = rng(seed).choice(frames, max(1, frames // 10), replace=False)
    feats_tf[quiet] = -5.0
    gap_tf = augment.gap(feats_tf, 0.3, SPEC, rng(seed))
    assert gap_tf.dtype == np.float32 and gap_tf.shape[1] == 20 and len(gap_tf) <= 30
    assert (abs(gap_tf + 5) < 3).all()


def test_gaps_have_all_lengths() -> None:
    random = rng()
    assert {len(augment.gap(features(), 0.03, SPEC, random)) for _ in range(100)} == {0, 1, 2, 3}


def masked(config: AugmentConfig, lens: list[int], seed: int, mels: int = 20) -> Tensor:
    """[b, t, f], true where SpecAugment put a zero."""
    feats_btf = torch.full((len(lens), max(lens), mels), 3.0)
    generator = torch.Generator().manual_seed(seed)
    changed = augment.spec_augment(feats_btf, torch.tensor(lens), config, 0.01, generator)
    assert changed.shape == feats_btf.shape and set(changed.unique().tolist()) <= {0.0, 3.0}
    return changed == 0


@settings(max_examples=100, deadline=None)
@given(
    lens=st.lists(st.integers(1, 150), min_size=1, max_size=4),
    share=st.sampled_from([0.05, 0.2, 0.5, 1.0]),
    mask_s=st.sampled_from([0.02, 0.115, 0.5]),
    masks=st.integers(0, 3),
    seed=st.integers(0, 1 << 32),
)
def test_time_masks_are_bounded_and_lie_within_the_utterance(
    lens: list[int], share: float, mask_s: float, masks: int, seed: int
) -> None:
    config = replace(OFF, time_masks=masks, time_mask_s=mask_s, time_mask_share=share)
    zero_btf = masked(config, lens, seed)
    assert (zero_btf == zero_btf[:, :, :1]).all()  # all mels of a frame together
    for zero_t, frames in zip(zero_btf[:, :, 0], lens, strict=True):
        assert not zero_t[frames:].any()
        assert zero_t.sum() <= masks * min(share * frames, mask_s / 0.01) + 1e-4


@settings(max_examples=40, deadline=None)
@given(widest=st.integers(0, 20), masks=st.integers(0, 2), seed=st.integers(0, 1 << 32))
def test_mel_masks_are_bounded(widest: int, masks: int, seed: int) -> None:
    zero_btf = masked(replace(OFF, mel_masks=masks, mel_mask_mels=widest), [40, 25], seed)
    assert (zero_btf == zero_btf[:, :1]).all()  # all frames of a mel together
    assert (zero_btf[:, 0].sum(1) <= masks * widest).all()


def test_masks_reach_their_widest_and_every_place_and_differ() -> None:
    config = replace(OFF, time_masks=1, time_mask_share=0.2, mel_masks=1, mel_mask_mels=5)
    zero_btf = masked(config, [30] * 400, seed=0)
    in_time_bt, in_mels_bf = zero_btf.all(2), zero_btf.all(1)
    assert set(in_time_bt.sum(1).tolist()) == set(range(7))
    assert set(in_mels_bf.sum(1).tolist()) == set(range(6))
    assert in_time_bt.any(0).all() and in_mels_bf.any(0).all()


def warped(feats_btf: Tensor, lens: list[int], config: AugmentConfig, seed: int) -> Tensor:
    return augment.spec_augment(feats_btf, torch.tensor(lens), config, 0.01, torch.Generator().manual_seed(seed))


def numbered(lens: list[int], mels: int = 3) -> Tensor:
    """[b, t, f], where each frame holds its own number; zeros behind the end."""
    at_bt = torch.arange(max(lens)).expand(len(lens), -1).float()
    return torch.where(at_bt < torch.tensor(lens)[:, None], at_bt, 0.0)[:, :, None].repeat(1, 1, mels)


BATCHES = st.lists(st.integers(1, 150), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(lens=BATCHES, warp_s=st.sampled_from([0.004, 0.01, 0.055, 0.3, 0.7]), seed=st.integers(0, 1 << 32))
def test_a_warp_keeps_order_ends_and_lengths_and_moves_no_frame_further_than_it_may(
    lens: list[int], warp_s: float, seed: int
) -> None:
    feats_btf = numbered(lens)
    config = replace(OFF, time_warp_s=warp_s)
    changed_btf = warped(feats_btf, lens, config, seed)
    assert changed_btf.dtype == torch.float32 and changed_btf.shape == feats_btf.shape
    assert torch.equal(changed_btf, warped(feats_btf, lens, config, seed))
    for changed_tf, frames in zip(changed_btf, lens, strict=True):
        came_from_t = changed_tf[:, 0]  # each frame says where it was
        assert torch.equal(changed_tf, came_from_t[:, None].expand(-1, 3))
        assert not came_from_t[frames:].any()
        assert came_from_t[0] == 0 and came_from_t[frames - 1] == frames - 1
        assert (came_from_t[:frames].diff() > 0).all()
        moved_t = came_from_t[:frames] - torch.arange(frames)
        assert moved_t.abs().max() <= warp_s / 0.01 + 1e-3
        if frames < 2 * warp_s / 0.01 + 3:
            assert not moved_t.any()


def test_warps_go_both_ways_and_differ_between_examples() -> None:
    lens = [100] * 200
    moved_bt = warped(numbered(lens), lens, replace(OFF, time_warp_s=0.2), 0)[:, :, 0] - torch.arange(100)
    furthest_b = moved_bt.gather(1, moved_bt.abs().argmax(1, keepdim=True))[:, 0]
    assert furthest_b.min() < -17 and furthest_b.max() > 17 and len(furthest_b.unique()) > 190
    assert 70 < (furthest_b > 0).sum() < 130
    assert moved_bt.abs().argmax(1).float().std() > 10  # nor is it always the same point


def slow_warp(feats_tf: np.ndarray, moved_from: float, moved_to: float) -> np.ndarray:
    """Park et al. 2019, section 2, a frame and a mel at a time, in float64."""
    last, points = len(feats_tf) - 1, np.arange(len(feats_tf))
    changed_tf = np.zeros(feats_tf.shape)
    for t in points:
        came_from = np.interp(t, [0, moved_to, last], [0, moved_from, last])
        for f in range(feats_tf.shape[1]):
            changed_tf[t, f] = np.interp(came_from, points, feats_tf[:, f].astype(np.float64))
    return changed_tf


@settings(max_examples=60, deadline=None)
@given(data=st.data(), lens=st.lists(st.integers(3, 60), min_size=1, max_size=4), seed=st.integers(0, 1 << 32))
def test_a_warp_agrees_with_its_definition_alone_and_in_a_batch_whatever_follows_the_end(
    data: st.DataObject, lens: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    feats_btf = torch.from_numpy(generator.normal(0, 1, (len(lens), max(lens), 4)).astype(np.float32))
    moved_from, moved_to = ([data.draw(st.floats(1, n - 2)) for n in lens] for _ in range(2))
    points = [torch.tensor(values) for values in (moved_from, moved_to)]
    changed_btf = augment.time_warp(feats_btf, torch.tensor(lens), *points)
    for b, n in enumerate(lens):
        expected_tf = slow_warp(feats_btf[b, :n].numpy(), moved_from[b], moved_to[b])
        np.testing.assert_allclose(changed_btf[b, :n].numpy(), expected_tf, atol=1e-4)
        assert torch.equal(changed_btf[b, n:], feats_btf[b, n:])
        alone = augment.time_warp(feats_btf[b : b + 1, :n], torch.tensor([n]), *(p[b : b + 1] for p in points))
        assert torch.equal(alone[0], changed_btf[b, :n])


def test_a_point_that_stays_leaves_every_bit() -> None:
    feats_btf = torch.randn(3, 50, 8)
    lens_b, points_b = torch.tensor([50, 1, 20]), torch.tensor([20.3, 0.0, 7.9])
    assert torch.equal(augment.time_warp(feats_btf, lens_b, points_b, points_b), feats_btf)


def test_masks_are_made_after_the_warp_and_without_one_are_what_they_were() -> None:
    """Whole frames and mels are zero, not a mixture of zeros and their neighbours."""
    config = replace(OFF, time_masks=2, mel_masks=1, mel_mask_mels=5, time_warp_s=0.2)
    lens = [100, 60, 80]
    changed_btf = warped(numbered(lens, 20) + 1, lens, config, 5)
    zero_btf = changed_btf == 0
    assert ((zero_btf.all(2)[:, :, None] | zero_btf.all(1)[:, None]) == zero_btf).all() and zero_btf.any()
    unwarped_btf = warped(numbered(lens, 20) + 1, lens, replace(config, time_warp_s=0.0), 5)
    assert (unwarped_btf[masked(replace(config, time_warp_s=0.0), lens, 5)] == 0).all()


@pytest.mark.parametrize("warp_s", [-0.1, float("inf"), float("nan")])
def test_a_warp_that_is_no_time_is_refused(warp_s: float) -> None:
    with pytest.raises(ValueError, match=r"augment\.time_warp_s is .*; it must be 0 or more, and finite"):
        AugmentConfig(time_warp_s=warp_s)


def test_spec_augment_repeats_with_its_seed_and_without_masks_changes_nothing() -> None:
    config = replace(OFF, time_masks=2, mel_masks=1)
    lens = [100, 60, 80]
    assert torch.equal(masked(config, lens, 5), masked(config, lens, 5))
    assert not torch.equal(masked(config, lens, 5), masked(config, lens, 6))
    assert not masked(OFF, lens, 5).any()
