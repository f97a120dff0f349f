"""How often utterances come when corpora are mixed, over many epochs."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shards.mixing import BLOCK_ROWS, times_by_weight, weights_by_temperature

WEIGHTS = st.floats(0, 5)


@given(st.lists(WEIGHTS, min_size=1, max_size=4), st.integers(0, 2**40), st.integers(0, 100), st.integers(1, 30))
@example([0.3], 0, 0, 10)
def test_over_epochs_each_row_comes_its_fair_number_of_times(
    weights: list[float], seed: int, first: int, epochs: int
) -> None:
    group = np.arange(50) % len(weights)
    expected = np.array(weights)[group] * epochs
    came = sum(times_by_weight(group, weights, seed=seed, epoch=first + e) for e in range(epochs))
    assert (np.abs(came - expected) < 1 + 1e-9).all()


@given(st.integers(0, 4), st.integers(0, 2**40), st.integers(0, 10**6))
def test_a_whole_weight_is_exactly_so_many_times_in_each_epoch(weight: int, seed: int, epoch: int) -> None:
    times = times_by_weight(np.zeros(3000, np.int32), [float(weight)], seed=seed, epoch=epoch)
    assert (times == weight).all()


def test_a_fraction_is_that_part_of_the_rows_and_others_in_the_next_epoch() -> None:
    group = np.repeat([0, 1], 20_000)
    epochs = [times_by_weight(group, [1.0, 0.3], seed=7, epoch=e) for e in range(3)]
    for times in epochs:
        assert (times[:20_000] == 1).all() and set(times[20_000:]) == {0, 1}
        assert times[20_000:].mean() == pytest.approx(0.3, abs=0.015)
    assert not (epochs[0] + epochs[1] + epochs[2] > 1)[20_000:].any()  # 0.3 is less than once in three epochs


def test_seeds_draw_other_rows_and_the_same_seed_the_same() -> None:
    group = np.zeros(1000, np.int32)
    one, two, again = (times_by_weight(group, [0.5], seed=seed, epoch=0) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert 300 < (one != two).sum() < 700


def test_what_a_row_is_dealt_does_not_depend_on_the_rows_behind_it() -> None:
    """A corpus that is appended to the mix leaves the share of the others as it was."""
    long = times_by_weight(np.zeros(BLOCK_ROWS + 1000, np.int32), [0.4], seed=3, epoch=2)
    short = times_by_weight(np.zeros(BLOCK_ROWS - 1001, np.int32), [0.4], seed=3, epoch=2)
    np.testing.assert_array_equal(long[: len(short)], short)
    assert long[-1000:].mean() == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="cannot have the weight"):
        times_by_weight(np.zeros(3, np.int32), [1.0, weight], seed=0, epoch=0)


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=6), st.floats(0.5, 100))
def test_temperature_keeps_the_hours_and_raises_the_small(hours: list[float], temperature: float) -> None:
    weights = weights_by_temperature(hours, temperature)
    assert np.dot(hours, weights) == pytest.approx(sum(hours))
    shares = np.multiply(hours, weights)
    for h, share in zip(hours, shares, strict=True):
        assert share / shares[0] == pytest.approx((h / hours[0]) ** (1 / temperature))


def test_the_ends_of_temperature() -> None:
    assert weights_by_temperature([900.0, 100.0], 1) == pytest.approx([1, 1])
    assert weights_by_temperature([900.0, 100.0], math.inf) == pytest.approx([500 / 900, 5])


@pytest.mark.parametrize(
    ("hours", "temperature", "message"),
    [
        ([1.0], 0.0, "above 0, and 0.0 is not"),
        ([1.0], -2.0, "above 0, and -2.0 is not"),
        ([1.0], math.nan, "above 0, and nan is not"),
        ([1.0, 0.0], 2.0, "corpora of 1, 0 hours"),
        ([math.nan], 2.0, "corpora of nan hours"),
    ],
)
def test_what_cannot_be_mixed_is_refused(hours: list[float], temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights_by_temperature(hours, temperature)
