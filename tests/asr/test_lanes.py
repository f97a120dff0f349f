"""What the emitter's functions compute, run as machine code on one group of lanes."""

import numpy as np
import numpy.typing as npt
import pytest

from asr.lanes import ALIGN_BYTES, LANES, Code, Int, Vecs, compiled, log, transpose

Floats = npt.NDArray[np.float32]


def aligned(rows: int) -> Floats:
    memory = np.zeros(rows * LANES + LANES, np.float32)
    skip = -memory.ctypes.data % ALIGN_BYTES // 4
    return memory[skip : skip + rows * LANES].reshape(rows, LANES)


def logs(values: Floats) -> Floats:
    code = Code(Vecs, Int)
    memory, rows = code.arguments

    def row(i: Int) -> None:
        memory[i] = log(memory[i])

    code.loop(code.integer(0), rows, 1, row)
    table = aligned(-(-len(values) // LANES))
    table.ravel()[: len(values)] = values
    compiled(code)(table.ctypes.data, len(table))
    return table.ravel()[: len(values)].copy()


def test_log_is_right_to_the_last_two_bits() -> None:
    """As numpy's. Of 40,000 among all normal numbers, and of those next to 1 and to where the exponent turns."""
    bits = np.arange(0x00800000, 0x7F800000, 53507, np.int32)
    turns = np.concatenate([np.arange(-50, 51, dtype=np.int32) + centre for centre in (0x3F3504F3, 0x3F800000)])
    values = np.concatenate([bits, turns]).view(np.float32)
    expected = np.log(values.astype(np.float64))
    error = np.abs(logs(values) - expected)
    assert (error <= 4 * np.spacing(np.abs(expected).astype(np.float32))).all()


def test_log_keeps_infinity_and_what_is_no_number() -> None:
    np.testing.assert_array_equal(logs(np.array([np.inf, np.nan, 1.0], np.float32)), [np.inf, np.nan, 0.0])


def test_transpose() -> None:
    code = Code(Vecs)
    (memory,) = code.arguments
    places = [code.integer(i) for i in range(LANES)]
    for place, row in zip(places, transpose([memory[place] for place in places]), strict=True):
        memory[place] = row
    table = aligned(LANES)
    table[:] = np.arange(LANES * LANES).reshape(LANES, LANES)
    expected = table.T.copy()
    compiled(code)(table.ctypes.data)
    np.testing.assert_array_equal(table, expected)


@pytest.mark.parametrize("start", [0, 5])
def test_a_loop_carries_values_and_returns_the_last(start: int) -> None:
    """Sums and counts of rows `start` to 8, in steps of 2."""
    code = Code(Vecs)
    (memory,) = code.arguments
    total, count = code.loop(
        code.integer(start), code.integer(9), 2, lambda i, total, count: (total + memory[i], count + code.vec(1)),
        [code.vec(0), code.vec(0)],
    )  # fmt: skip
    memory[code.integer(9)], memory[code.integer(10)] = total, count
    table = aligned(11)
    table[:9] = np.arange(9 * LANES).reshape(9, LANES)
    compiled(code)(table.ctypes.data)
    np.testing.assert_array_equal(table[9:], [table[start:9:2].sum(axis=0), [len(range(start, 9, 2))] * LANES])
