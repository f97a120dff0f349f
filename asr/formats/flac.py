"""FLAC: what a file's STREAMINFO says, read without a decoder (RFC 9639, section 8.2), and a faster decoder.

dr_flac, in the package miniaudio, decodes in 0.55 of libsndfile's time. Where there is no such package, or anything
about a file is out of the ordinary, libsndfile does it, with the same samples and its own verdict on damage.
"""

import io
from collections.abc import Callable, Iterator

import numpy as np

from asr.formats.source import Source
from manifests import storage

try:
    from miniaudio import ffi
    from miniaudio import lib as dr_flac

    dr_flac.ma_dr_flac_read_pcm_frames_f32  # noqa: B018
except (ImportError, AttributeError):  # there are no wheels of it for some processors; or it names things otherwise
    dr_flac = None

MOST_SAMPLES = 1 << 24  # decoded at once; a damaged header may promise 2^36
HEAD_BYTES = 42  # the mark fLaC, the header of the first metadata block, and that block, which must be STREAMINFO


def stream_info(uri: str) -> tuple[int, int, int] | None:
    """(samples, sample rate, channels), or None where anything is out of the ordinary: then a library must look.

    Ten times as fast as to open the file with libsndfile. What comes after these bytes is believed: that it is there
    and whole is found by who decodes it.
    """
    try:
        found = parse_head(storage.read_range(uri, 0, HEAD_BYTES))
    except (OSError, EOFError):
        return None
    return found[:3] if found else None


def parse_head(head: bytes) -> tuple[int, int, int, int] | None:
    """(samples, sample rate, channels, bits a sample) from a file's first HEAD_BYTES, None as in `stream_info`."""
    if len(head) < HEAD_BYTES or not head.startswith(b"fLaC") or head[4] & 0x7F != 0 or head[5:8] != b"\x00\x00\x22":
        return None
    packed = int.from_bytes(head[18:26])  # 20 bits of rate, 3 of channels - 1, 5 of bits - 1, 36 of samples
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    samples = packed & (1 << 36) - 1
    return (samples, rate, channels, bits) if samples and rate else None


class FlacSource:
    """An asr.formats.source.Source over a whole file in memory; `otherwise` opens the same with libsndfile."""

    def __init__(self, data: bytes, info: tuple[int, int, int], otherwise: Callable[[], Source]) -> None:
        self.frames, self.rate, self.channels = info
        self._data, self._otherwise = data, otherwise

    def duration_s(self) -> float:
        return self.frames / self.rate

    def blocks(self, first: int, end: int | None) -> Iterator[np.ndarray]:
        stop = self.frames if end is None else min(end, self.frames)
        whole_nc = self._decoded() if 2 * (stop - first) > self.frames else None  # libsndfile can seek
        if whole_nc is None:
            yield from self._otherwise().blocks(first, end)
        else:
            yield whole_nc[first:stop]

    def _decoded(self) -> np.ndarray | None:
        """All samples [frames, channels], when they are as many as the header says.

        dr_flac leaves out frames that are damaged, and goes on behind the stated end when it is asked for more. Its C
        functions are called, for those of Python make two more copies: 1.17 times the time.
        """
        samples_nc = np.empty((self.frames + 1, self.channels), np.float32)
        file = dr_flac.ma_dr_flac_open_memory(self._data, len(self._data), ffi.NULL)
        if not file:
            return None
        try:
            assert file.channels == self.channels
            to = ffi.cast("float *", samples_nc.ctypes.data)
            found = dr_flac.ma_dr_flac_read_pcm_frames_f32(file, len(samples_nc), to)
        finally:
            dr_flac.ma_dr_flac_close(file)
        return samples_nc[: self.frames] if found == self.frames else None


def open_flac(file: object, otherwise: Callable[[], Source]) -> FlacSource | None:
    """A file whose bytes are in memory, or None when dr_flac is not to be asked."""
    if dr_flac is None or not isinstance(file, io.BytesIO):
        return None
    data = file.getvalue()
    found = parse_head(data[:HEAD_BYTES])
    if not found or found[0] * found[2] > MOST_SAMPLES:
        return None
    return FlacSource(data, found[:3], otherwise)
