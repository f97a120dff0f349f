"""NIST SPHERE files (.sph). Talks of TED-LIUM are cut into segments by reading just the bytes of each.

Only one channel of 16-bit PCM is read here, which is what TED-LIUM and AN4 have; the rest is libsndfile's.
"""

import os
import re
from collections.abc import Iterator
from typing import IO

import numpy as np

from asr.formats.source import BLOCK_FRAMES, AudioError, check_end, check_stated

_HEADER_BYTES = 1024
_BYTE_ORDERS = {b"01": "<i2", b"10": ">i2"}


class SphereSource:
    """An asr.formats.source.Source."""

    channels = 1

    def __init__(self, uri: str, file: IO[bytes], rate: int, dtype: str) -> None:
        self.rate = rate
        self.frames: int = (file.seek(0, os.SEEK_END) - _HEADER_BYTES) // 2
        self._uri, self._file, self._dtype = uri, file, np.dtype(dtype)

    def duration_s(self) -> float:
        return self.frames / self.rate

    def blocks(self, first: int, end: int | None) -> Iterator[np.ndarray]:
        end = self.frames if end is None else min(end, self.frames)
        for start in range(first, end, BLOCK_FRAMES):
            wanted = min(BLOCK_FRAMES, end - start)
            self._file.seek(_HEADER_BYTES + 2 * start)
            data = self._file.read(2 * wanted)
            samples = np.frombuffer(data, self._dtype, len(data) // 2).astype(np.float32)
            samples *= np.float32(1 / 32768)  # exact, so the same as libsndfile's
            yield samples[:, None]
            if len(samples) < wanted:
                check_end(self._uri, self.rate, start + len(samples), end, "the data end")
                return


def open_sphere(uri: str, file: IO[bytes]) -> SphereSource | None:
    """None for a file that libsndfile must read. Raises AudioError for a header that promises more than there is."""
    fields = header(file)
    kind = [fields.get(name) for name in (b"sample_coding", b"sample_n_bytes", b"channel_count")]
    dtype = _BYTE_ORDERS.get(fields.get(b"sample_byte_format", b""))
    rate = fields.get(b"sample_rate", b"")
    if kind != [b"pcm", b"2", b"1"] or dtype is None or not rate.isdigit():
        return None
    source = SphereSource(uri, file, int(rate), dtype)
    check_count(uri, fields, source.frames, source.rate)
    return source


def header(file: IO[bytes]) -> dict[bytes, bytes]:
    """The header's fields by name; nothing for a file that is no SPHERE file, or has a header of another length."""
    file.seek(0)
    head = file.read(_HEADER_BYTES)
    if not head.startswith(b"NIST_1A\n   1024\n"):
        return {}
    return dict(re.findall(rb"^(\w+) -\w+ (.*?)\s*$", head.partition(b"end_head")[0], re.MULTILINE))


def check_count(uri: str, fields: dict[bytes, bytes], held: int, rate: int) -> None:
    """Raises AudioError when the header promises more than the `held` samples per channel."""
    count = fields.get(b"sample_count", b"")
    if count.isdigit() and int(count) > held:
        check_stated(uri, int(count) / rate, held / rate)


def refuse_shorten(uri: str, fields: dict[bytes, bytes]) -> None:
    """Raises AudioError for SPHERE's own compression, which neither libsndfile nor FFmpeg decodes."""
    if b"shorten" in fields.get(b"sample_coding", b""):
        raise AudioError(f"{uri}: shorten-compressed; convert it first: sph2pipe -f wav IN.sph OUT.wav")
