"""--save-audio: what was recognised, as a WAV or FLAC that grows while it is listened to.

The name is there from the first sample on, for a recording cannot be made again: a WAV is whole after each write,
whenever the process dies; a FLAC then lacks its stated length and at most its last block, and is read all the same.
"""

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import numpy as np
import soundfile

from asr.engine import Floats
from manifests import storage

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_MOST_BYTES = 0xFFFFFFFF  # what the header of a WAV can say: 37 hours at 16 kHz. Readers take a longer one to its end


class _Wav:
    """16-bit PCM, mono (Microsoft's "Multimedia Programming Interface and Data Specifications", 1991)."""

    def __init__(self, file: IO[bytes], sample_rate: int) -> None:
        self._file, self._rate, self._bytes = file, sample_rate, 0
        self._state()

    def write(self, samples: np.ndarray) -> None:
        self._file.seek(_HEADER.size + self._bytes)
        data = memoryview(samples.astype("<i2").tobytes())
        while data:  # unbuffered: a write may take a part
            written = self._file.write(data)
            self._bytes += written
            data = data[written:]
        self._state()

    def _state(self) -> None:
        data_bytes = min(self._bytes, _MOST_BYTES - 36)
        self._file.seek(0)
        self._file.write(
            _HEADER.pack(b"RIFF", 36 + data_bytes, b"WAVE", b"fmt ", 16, 1, 1, self._rate, 2 * self._rate, 2, 16,
                         b"data", data_bytes)
        )  # fmt: skip

    def close(self) -> None: ...


class _Flac:
    def __init__(self, file: IO[bytes], sample_rate: int) -> None:
        self._sound = soundfile.SoundFile(file, "w", sample_rate, 1, "PCM_16", format="FLAC")

    def write(self, samples: np.ndarray) -> None:
        self._sound.write(samples)

    def close(self) -> None:
        self._sound.close()


class Recorder:
    """A file that grows."""

    def __init__(self, sink: "_Wav | _Flac", sample_rate: int) -> None:
        self._sink, self._rate = sink, sample_rate

    def write(self, samples: Floats) -> None:
        """Float32 in [-1, 1]; what is louder is clipped. Raises OSError, as for a full disk."""
        self._sink.write(np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16))

    def silence(self, seconds: float) -> None:
        """In the place of what was missed, so that times in the transcript are times in the file."""
        left = round(seconds * self._rate)
        while left:
            count = min(left, self._rate)
            self._sink.write(np.zeros(count, np.int16))
            left -= count


@contextmanager
def recorder(path: str, sample_rate: int) -> Iterator[Recorder]:
    """Raises ValueError for another suffix than .wav or .flac, a URL, or a file that is there and not empty."""
    kind = path.lower().rpartition(".")[2]
    if kind not in ("wav", "flac"):
        raise ValueError(f"--save-audio {path}: its name must end in .wav or .flac")
    if not storage.is_local(path):
        raise ValueError(f"--save-audio {path}: sound that grows is written to a local file; copy it when it is done")
    if storage.exists(path) and storage.size_bytes(path):
        raise ValueError(
            f"--save-audio {path}: is already there; give another name, for a recording cannot be repeated"
        )
    with ExitStack() as stack:
        try:
            file = stack.enter_context(storage.open_locked(storage.absolute(path), wait=False))
        except BlockingIOError:
            raise ValueError(f"--save-audio {path}: another process is writing it; give another name") from None
        sink = (_Wav if kind == "wav" else _Flac)(file, sample_rate)
        stack.callback(sink.close)
        yield Recorder(sink, sample_rate)
