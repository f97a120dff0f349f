"""The feature spec: frame counts, what makes two specs the same, and what is refused."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.spec import FrontendSpec, check_same

SPEC = FrontendSpec()
CENTRED = FrontendSpec(low_hz=0.0, window="hann", definition="librosa")
OTHER: dict[str, Any] = {
    "sample_rate": 22050, "window_samples": 399, "hop_samples": 161, "fft_samples": 1024, "mels": 79,
    "low_hz": 21.0, "high_hz": 7999.0, "preemphasis": 0.96, "window": "hann", "definition": "librosa",
}  # fmt: skip


@given(st.integers(0, 5000))
def test_frames_are_the_windows_that_are_wholly_there(num_samples: int) -> None:
    starts = range(0, num_samples, SPEC.hop_samples)
    assert SPEC.num_frames(num_samples) == sum(start + SPEC.window_samples <= num_samples for start in starts)


def test_a_frame_is_a_hop_long() -> None:
    assert SPEC.frame_s == 0.01
    assert FrontendSpec(8000, 200, 80, 256, 40, 20.0, 4000.0).frame_s == 0.01


@pytest.mark.parametrize("name", [f.name for f in fields(FrontendSpec)])
def test_every_field_changes_the_fingerprint_and_is_named_when_it_differs(name: str) -> None:
    spec = replace(SPEC, window="hann") if name == "definition" else SPEC
    other = replace(spec, **{name: OTHER[name]})
    assert other.fingerprint != spec.fingerprint
    with pytest.raises(ValueError, match="other features") as err:
        check_same(spec, other, "ours", "theirs", "Do this.")
    pair = f"{name} {getattr(spec, name)} against {OTHER[name]}"
    assert str(err.value) == f"ours and theirs have other features: {pair}. Do this."


def test_equal_specs_have_one_fingerprint_and_pass() -> None:
    assert FrontendSpec().fingerprint == SPEC.fingerprint and len(SPEC.fingerprint) == 12
    check_same(SPEC, FrontendSpec(), "ours", "theirs", "")


def test_specs_of_before_there_was_a_choice_keep_their_fingerprints() -> None:
    """Shards that were made then are still found to fit, and their folders to hold the same."""
    assert SPEC.fingerprint == "5b0d7ab3be40"
    assert FrontendSpec(8000, 200, 80, 256, 40, 20.0, 4000.0).fingerprint == "bf616b8dd09c"
    assert SPEC.values().keys() == OTHER.keys() - {"definition"}
    assert CENTRED.values()["definition"] == "librosa" and FrontendSpec(**CENTRED.values()) == CENTRED


@given(st.integers(0, 5000))
def test_centred_frames_are_the_begun_hops_of_what_can_be_reflected(num_samples: int) -> None:
    centres = [i for i in range(0, num_samples + 1, CENTRED.hop_samples) if num_samples > CENTRED.fft_samples // 2]
    assert CENTRED.num_frames(num_samples) == len(centres)


@pytest.mark.parametrize("spec", [SPEC, CENTRED])
def test_frames_of_many_utterances_are_counted_at_once(spec: FrontendSpec) -> None:
    counts = np.arange(0, 3000, 7)
    assert spec.num_frames(counts).tolist() == [spec.num_frames(int(count)) for count in counts]
    for frames in (2, 3, 50):
        least = spec.least_samples(frames)
        assert spec.num_frames(least) == frames > spec.num_frames(least - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mels": 0}, "mels is 0; it must be from 1 to 4096"),
        ({"hop_samples": 0}, "hop_samples"),
        ({"hop_samples": 401}, "hop_samples <= window_samples"),
        ({"window_samples": 513}, "window_samples <= fft_samples"),
        ({"high_hz": 8001.0}, "sample_rate/2 = 8000"),
        ({"low_hz": 8000.0}, "low_hz < high_hz"),
        ({"low_hz": -1.0}, "0 <= low_hz"),
        ({"window": "hamming"}, "'hamming'; it can be povey or hann"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="frontend: ") as err:
        replace(SPEC, **change)
    assert message in str(err.value)
