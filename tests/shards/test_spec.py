"""The feature spec: frame counts, what makes two specs the same, and what is refused."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.spec import FrontendSpec, check_same

SPEC = FrontendSpec()
OTHER: dict[str, Any] = {
    "sample_rate": 22050, "window_samples": 399, "hop_samples": 161, "fft_samples": 1024, "mels": 79,
    "low_hz": 21.0, "high_hz": 7999.0, "preemphasis": 0.96, "window": "hann",
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
    other = replace(SPEC, **{name: OTHER[name]})
    assert other.fingerprint != SPEC.fingerprint
    with pytest.raises(ValueError, match="other features") as err:
        check_same(SPEC, other, "ours", "theirs", "Do this.")
    pair = f"{name} {getattr(SPEC, name)} against {OTHER[name]}"
    assert str(err.value) == f"ours and theirs have other features: {pair}. Do this."


def test_equal_specs_have_one_fingerprint_and_pass() -> None:
    assert FrontendSpec().fingerprint == SPEC.fingerprint and len(SPEC.fingerprint) == 12
    check_same(SPEC, FrontendSpec(), "ours", "theirs", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mels": 0}, "mels is 0; it must be 1 or more"),
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
