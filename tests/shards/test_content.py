"""Contents by name; float16 and uint8 as they are made and as they come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asr.frontend import logmel
from shards.content import BLOCK_VALUES, NAMES, Content, dequantise, halve, quantise
from shards.spec import FrontendSpec

VALUES = st.floats(-30, 30, width=32)
FEATURES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=VALUES)


def test_contents_have_the_names_of_the_command_line() -> None:
    assert NAMES == ("logmel", "logmel8", "audio", "logmel+audio", "logmel8+audio")
    assert [Content.named(name).name for name in NAMES] == list(NAMES)
    assert Content.named("logmel8+audio") == Content("uint8", True)
    with pytest.raises(ValueError, match=r"no content 'flac'; there are logmel, logmel8, audio, logmel\+audio"):
        Content.named("flac")


def test_nothing_is_no_content() -> None:
    with pytest.raises(ValueError, match="no content: features None, audio False"):
        Content(None, False)
    with pytest.raises(ValueError, match="features 'int4'"):
        Content("int4", True)  # type: ignore[arg-type]


@given(FEATURES)
def test_a_code_is_within_half_a_step_of_its_value(feats_tf: np.ndarray) -> None:
    codes_tf, scale_2f = quantise(feats_tf)
    assert codes_tf.dtype == np.uint8 and codes_tf.shape == feats_tf.shape
    assert scale_2f.dtype == np.float32 and scale_2f.shape == (2, feats_tf.shape[1])
    back_tf = dequantise(codes_tf, scale_2f)
    assert back_tf.dtype == np.float32
    assert (np.abs(back_tf - feats_tf) <= scale_2f[1] * 0.5001 + 1e-5).all()
    constant_f = feats_tf.min(0) == feats_tf.max(0)
    assert (back_tf[:, constant_f] == feats_tf[:, constant_f]).all()


@given(FEATURES)
def test_the_lowest_and_the_highest_value_of_a_mel_are_its_end_codes(feats_tf: np.ndarray) -> None:
    codes_tf, scale_2f = quantise(feats_tf)
    for mel in range(feats_tf.shape[1]):
        assert codes_tf[feats_tf[:, mel].argmin(), mel] == 0
        if scale_2f[1, mel] > 1e-30:  # below, the step is no normal number
            assert codes_tf[feats_tf[:, mel].argmax(), mel] == 255


def test_codes_of_speech_like_features_lose_little() -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, 32000).astype(np.float32)
    feats_tf = logmel(samples * np.linspace(0.001, 1, 32000, dtype=np.float32), FrontendSpec())
    error_tf = dequantise(*quantise(feats_tf)) - feats_tf
    assert np.abs(error_tf).max() < 0.05 and np.sqrt((error_tf**2).mean()) < 0.02


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40)))
def test_halves_are_those_of_numpy(feats_tf: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        expected = feats_tf.astype(np.float16)
    halves = halve(feats_tf)
    assert halves.dtype == np.float16 and halves.shape == expected.shape
    assert (np.isnan(halves) == np.isnan(expected)).all()
    exact = ~np.isnan(expected) & (np.abs(feats_tf) >= 2.0**-14)
    assert (halves.view(np.uint16)[exact] == expected.view(np.uint16)[exact]).all()


def test_every_float16_and_what_lies_beside_and_between_is_rounded_to_the_nearest() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    exact = np.sort(every[np.isfinite(every)].astype(np.float32))
    between = (exact[1:] + exact[:-1]) / 2
    beside = [np.nextafter(x, np.float32(end)) for x in (exact, between) for end in (-np.inf, np.inf)]
    values = np.concatenate([exact, between, *beside])
    values = values[np.abs(values) < 65504].reshape(1, -1)
    assert values.size > 20 * BLOCK_VALUES
    halves, expected = halve(values), values.astype(np.float16)
    normal = np.abs(values) >= 2.0**-14
    assert (halves.view(np.uint16) == expected.view(np.uint16))[normal].all()
    assert (np.signbit(halves) == np.signbit(values)).all()
    # between two neighbours 2^-24 apart, which is what numbers below 2^-14 are rounded to
    assert (np.abs(halves.astype(np.float64) - values)[~normal] <= 2.0**-25 * (1 + 1e-3)).all()
