"""Tar members as bytes that depend on their content alone: fixed order, owner, mode and time."""

import struct

import numpy as np

BLOCK = 512  # tar's unit
END = b"\0" * (2 * BLOCK)  # what closes an archive
HEADER_BYTES = 128  # a .npy header as we write it; a multiple of 64 keeps the features aligned for a memory map


def member(name: str, data: bytes) -> bytes:
    """One regular file of a ustar archive, padded to whole blocks. Raises ValueError for a name that does not fit."""
    encoded = name.encode()
    if len(encoded) > 100:
        raise ValueError(f"{name}: names in a shard may be 100 bytes long, this one has {len(encoded)}")
    fields = (
        encoded, b"0000644\0", b"0000000\0", b"0000000\0", b"%011o\0" % len(data), b"%011o\0" % 0,
        b" " * 8, b"0", b"", b"ustar\0", b"00", b"", b"", b"0000000\0", b"0000000\0", b"",
    )  # fmt: skip
    header = bytearray(struct.pack("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x", *fields))
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + b"\0" * (-len(data) % BLOCK)


def npy(array: np.ndarray) -> bytes:
    """A two-dimensional array as a .npy file (format 1.0) whose header is always HEADER_BYTES long."""
    assert array.ndim == 2 and array.flags.c_contiguous, f"expected a contiguous matrix, got {array.shape}"
    rows, columns = array.shape
    shape = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    text = shape.encode().ljust(HEADER_BYTES - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


def member_bytes(length: int) -> int:
    """Bytes that a member of `length` bytes takes in the tar, its header included."""
    return BLOCK + length + -length % BLOCK
