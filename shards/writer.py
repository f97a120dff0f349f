"""Tar members as bytes that depend on their content alone: fixed order, owner, mode and time."""

import re
import struct
from dataclasses import dataclass

import numpy as np

from shards.content import Content, halve, quantise

BLOCK = 512  # tar's unit
END = b"\0" * (2 * BLOCK)  # what closes an archive
HEADER_BYTES = 128  # a .npy header as we write it; a multiple of 64 keeps the features aligned for a memory map

_NPY = re.compile(
    rb"\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(((?:\d{1,9}, ?)*\d{0,9})\), ?\}\s*"
)


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
    """A two-dimensional array, of any type of number, as a .npy file (format 1.0) with a header of HEADER_BYTES."""
    assert array.ndim == 2 and array.flags.c_contiguous, f"expected a contiguous matrix, got {array.shape}"
    rows, columns = array.shape
    shape = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    text = shape.encode().ljust(HEADER_BYTES - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a .npy file says of itself; `start` is the byte where its numbers begin."""

    dtype: str
    by_columns: bool
    shape: tuple[int, ...]
    start: int


def npy_header(data: bytes) -> NpyHeader | None:
    """Of a .npy file, or of its first 256 bytes, which may end in the padding. None for what is none of a plain array.

    The format is that of numpy.lib.format, whose own reader lets errors of Python's parser through.
    """
    text = 10 if data[6:7] == b"\x01" else 12
    start = text + int.from_bytes(data[8:text], "little")
    header = _NPY.fullmatch(data[text:start])
    if data[:6] != b"\x93NUMPY" or header is None:
        return None
    shape = tuple(int(size) for size in header[3].split(b",") if size.strip())
    return NpyHeader(header[1].decode(errors="replace"), header[2] == b"True", shape, start)


def member_bytes(length: int) -> int:
    """Bytes that a member of `length` bytes takes in the tar, its header included."""
    return BLOCK + length + -length % BLOCK


@dataclass(frozen=True, slots=True)
class Packed:
    """The tar members of one utterance; offsets are from their start, in bytes, as shards.index.SCHEMA has them."""

    data: bytes
    feature_offset: int = 0
    feature_length: int = 0
    audio_offset: int = 0
    audio_length: int = 0
    audio_format: str = ""
    text_offset: int = 0
    text_length: int = 0

    def columns(self, position: int) -> dict[str, int | str]:
        """The index's columns about the parts, for members that begin at this byte of their shard."""
        return {
            "feature_offset": self.feature_offset + position if self.feature_length else 0,
            "feature_length": self.feature_length,
            "audio_offset": self.audio_offset + position if self.audio_length else 0,
            "audio_length": self.audio_length,
            "audio_format": self.audio_format,
            "text_offset": self.text_offset + position,
            "text_length": self.text_length,
        }


def pack(
    id: str, feats_tf: np.ndarray | None, audio: bytes | None, audio_format: str, text: str, content: Content
) -> Packed:
    """The members of an utterance: its scale where features are uint8, features, audio, text.

    `feats_tf` is float32 [frames, mels] and `audio` the bytes of a file of type `audio_format`; both are looked at only
    when the content has them.
    """
    members: list[bytes] = []
    feature_offset = feature_length = audio_offset = audio_length = 0
    if content.features:
        assert feats_tf is not None, f"{id}: no features"
        feature_offset = BLOCK + HEADER_BYTES
        if content.features == "uint8":
            codes_tf, scale_2f = quantise(feats_tf)
            members += [member(f"{id}.scale.npy", npy(scale_2f)), member(f"{id}.npy", npy(codes_tf))]
            feature_length = len(members[0]) + codes_tf.size
        else:
            assert content.features == "float16", "float32 is only read"
            members.append(member(f"{id}.npy", npy(halve(feats_tf))))
            feature_length = 2 * feats_tf.size
    if content.audio:
        assert audio and audio_format, f"{id}: no audio"
        audio_offset, audio_length = sum(map(len, members)) + BLOCK, len(audio)
        members.append(member(f"{id}.{audio_format}", audio))
    encoded = text.encode()
    text_offset = sum(map(len, members)) + BLOCK
    members.append(member(f"{id}.txt", encoded))
    return Packed(
        b"".join(members), feature_offset, feature_length, audio_offset, audio_length,
        audio_format if content.audio else "", text_offset, len(encoded),
    )  # fmt: skip


def packed_bytes(content: Content, frames: int, mels: int, audio_bytes: int, text_bytes: int) -> int:
    """What `pack` gives in bytes for an utterance of these sizes."""
    size = member_bytes(text_bytes)
    if content.features:
        size += member_bytes(HEADER_BYTES + frames * mels * np.dtype(content.features).itemsize)
    if content.features == "uint8":
        size += member_bytes(HEADER_BYTES + 2 * mels * 4)
    return size + (member_bytes(audio_bytes) if content.audio else 0)
