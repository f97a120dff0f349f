"""A model's weights on pages of 2 MB, where Linux can.

A step of a large model reads all of its weights once, and on pages of 4 kB the processor looks 50,000 addresses up for
200 MB of them: E6D2 in steps of 75 ms takes a quarter less time on large pages, in any precision
(tests/bench/runtimes.md). On other systems, before Linux 6.1, and where /proc is not there, nothing changes.
"""

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterator

import numpy as np

from manifests import storage

MAPS = "/proc/self/maps"  # of Linux; not there in some sandboxes
HUGE_BYTES = 1 << 21  # beside pages of 4 kB; where these are larger, as on some ARM machines, all stays as it was
COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1: now, and whatever the system's setting for huge pages is


@contextlib.contextmanager
def huge_pages() -> Iterator[None]:
    """Moves the memory that was taken within to huge pages: every 2 MB that is in use as a whole."""
    if sys.platform != "linux" or not storage.exists(MAPS):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    before = set(_in_use(libc))
    yield
    for address in _in_use(libc):
        if address not in before:
            libc.madvise(address, HUGE_BYTES, COLLAPSE)  # advice: what cannot be moved stays as it was


def _in_use(libc: ctypes.CDLL) -> Iterator[int]:
    """Addresses of huge pages' worth of memory that is no file's and in use as a whole: the untouched rest of a stack
    or a heap is not to be filled."""
    for start, end in _regions():
        resident = np.zeros((end - start) // mmap.PAGESIZE, np.uint8)
        if not libc.mincore(start, end - start, resident.ctypes.data):
            whole = (resident.reshape(-1, HUGE_BYTES // mmap.PAGESIZE) & 1).all(1)
            yield from (start + np.flatnonzero(whole) * HUGE_BYTES).tolist()


def _regions() -> Iterator[tuple[int, int]]:
    """Writable memory of this process that is no file's, from and to boundaries of huge pages."""
    for line in storage.read_bytes(MAPS).splitlines():
        addresses, rights, _, _, inode, *_ = line.split()
        start, end = (int(address, 16) for address in addresses.split(b"-"))
        start, end = -(-start // HUGE_BYTES) * HUGE_BYTES, end // HUGE_BYTES * HUGE_BYTES
        if rights.startswith(b"rw") and inode == b"0" and start < end:
            yield start, end
