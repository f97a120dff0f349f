import ctypes
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from asr.engines import huge_pages as pages
from asr.engines.huge_pages import COLLAPSE, HUGE_BYTES, huge_pages

SIZE = 8 * HUGE_BYTES


def taken(fill: bool) -> np.ndarray:
    """Memory that numpy has no part in, as it asks for huge pages by itself."""
    memory = np.frombuffer(mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    if fill:
        memory[:] = np.arange(SIZE, dtype=np.uint8)
    return memory


def kilobytes(memory: np.ndarray, name: str) -> int:
    """What Linux says of the mapping that holds the memory's middle."""
    middle, inside = memory.ctypes.data + SIZE // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first:
            start, end = (int(address, 16) for address in first.split("-"))
            inside = start <= middle < end
        elif inside and first == f"{name}:":
            return int(rest[0])
    raise AssertionError(f"no {name} there")


@pytest.fixture
def linux() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux has them")
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    memory = taken(fill=True)
    start = -(-memory.ctypes.data // HUGE_BYTES) * HUGE_BYTES
    if madvise(start, HUGE_BYTES, COLLAPSE):
        pytest.skip("this Linux cannot be told to use them at once")


@pytest.mark.usefixtures("linux")
def test_memory_taken_within_is_on_huge_pages_and_holds_what_it_held() -> None:
    before = taken(fill=True)
    with huge_pages():
        within = taken(fill=True)
    assert kilobytes(within, "AnonHugePages") >= (SIZE - 2 * HUGE_BYTES) // 1024
    assert (within == np.arange(SIZE, dtype=np.uint8)).all()
    assert (before == np.arange(SIZE, dtype=np.uint8)).all()


@pytest.mark.usefixtures("linux")
def test_memory_that_nobody_has_touched_is_not_filled() -> None:
    with huge_pages():
        within = taken(fill=False)
        within[: SIZE // 2 : mmap.PAGESIZE * 2] = 1  # every other page of a half
    assert kilobytes(within, "Rss") <= SIZE // 4 // 1024 + HUGE_BYTES // 1024


def test_without_proc_all_stays_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "MAPS", str(tmp_path / "maps"))
    with huge_pages():
        within = taken(fill=True)
    assert (within == np.arange(SIZE, dtype=np.uint8)).all()
