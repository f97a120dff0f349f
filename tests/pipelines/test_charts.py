"""Histograms and pictures of a report: every value has its place, and its colour."""

import base64
import io

import av
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.reporting import charts


def decoded(uri: str) -> np.ndarray:
    with av.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-1, 2, width=32)))
@settings(max_examples=30, deadline=None)
def test_a_png_holds_the_colour_of_each_value(values_yx: np.ndarray) -> None:
    pixels = decoded(charts.heat_map(values_yx, 0.0, 1.0))
    place = np.rint(np.clip(values_yx, 0, 1) * 63).astype(int)
    assert (pixels == charts.palette()[place]).all()


def test_colours_grow_lighter_in_even_steps() -> None:
    linear = charts.palette() / 255.0
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    steps = np.diff(np.cbrt(luminance))  # about what the eye sees
    assert steps.min() > 0.3 * np.median(steps) and steps.max() < 3 * np.median(steps)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_an_axis_has_a_place_for_every_value(values: list[float]) -> None:
    along = charts.axis(np.array(values), from_zero=min(values) >= 0)
    assert 1 <= along.bins <= 2 * charts.BINS
    assert along.counts(np.array(values)).sum() == len(values)
    assert 2 <= len(along.ticks()) <= 8 or along.bins < 3
    assert all(along.start - along.step / 2 <= tick <= along.end + along.step / 2 for tick in along.ticks())
    inside = sum(0 <= (value - along.start) / along.step < along.bins for value in values)
    assert inside >= 0.98 * len(values) - 2
    assert bool(along.beyond()) == (inside < len(values))
