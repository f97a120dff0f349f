"""Audio files through libsndfile, which is the fastest for WAV, AIFF, FLAC, Ogg and MP3."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import IO

import numpy as np
import soundfile as sf

from asr.formats import mp3, sphere
from asr.formats.source import BLOCK_FRAMES, TOLERANCE_S, AudioError, check_end, check_finite, check_stated

_UNKNOWN_FRAMES = 2**62  # libsndfile says 2**63 - 1 when a header states no length
_UNKNOWN_BYTES = 0x7FFFF000  # at least this: a WAV that was piped, its length never filled in
_SCANNED_BYTES = 4 << 20  # an MP3 that states its length is believed above this: reading it all for a stretch is slow


class _SoundFile(sf.SoundFile):  # type: ignore[misc]  # soundfile carries no types
    """Read forward only: soundfile seeks to where it already is after every read of a seekable file, which sets an
    MP3 decoder back and steps over damage in Ogg without a word."""

    def seekable(self) -> bool:
        return False


class SndfileSource:
    """An asr.formats.source.Source."""

    def __init__(self, uri: str, sound: _SoundFile, file: IO[bytes], frames: int) -> None:
        self.rate: int = sound.samplerate
        self.channels: int = sound.channels
        self.frames: int = frames
        self._uri, self._sound, self._file = uri, sound, file

    def duration_s(self) -> float:
        return self.frames / self.rate

    def blocks(self, first: int, end: int | None) -> Iterator[np.ndarray]:
        end = self.frames if end is None else min(end, self.frames)
        position = first
        if 0 < first < end:
            self._sound.seek(first)
        while position < end:
            size = min(BLOCK_FRAMES, end - position)
            block_nc = np.empty((size, self.channels), np.float32)
            cause = "the data end"
            try:
                block_nc = self._sound.read(out=block_nc)
            except sf.LibsndfileError as err:
                block_nc, cause = block_nc[: self._sound.tell() - position], sndfile_text(err)
            position += len(block_nc)
            if len(block_nc):
                if not self._sound.subtype.startswith("PCM"):
                    check_finite(self._uri, block_nc)
                yield block_nc
            if len(block_nc) < size:
                check_end(self._uri, self.rate, position, end, cause)
                return
        if first < end == self.frames and self._sound.format == "FLAC":
            self._check_used_up()

    def _check_used_up(self) -> None:
        """Raises AudioError when FLAC goes on after its stated end; libFLAC has read up to 8 kB (0.5 s) ahead of it."""
        position = self._file.tell()
        left_bytes = self._file.seek(0, os.SEEK_END) - position
        if left_bytes * self.frames > TOLERANCE_S * self.rate * position:
            raise _goes_on(self._uri, self.frames / self.rate, left_bytes)


def open_sndfile(uri: str, file: IO[bytes], stack: contextlib.ExitStack) -> SndfileSource | None:
    """None for a file that libsndfile would cut short. The stack closes what is opened.

    Raises AudioError, or libsndfile's error (soundfile.LibsndfileError).
    """
    sound = stack.enter_context(_SoundFile(file))
    frames: int | None = sound.frames
    if sound.format == "MP3":
        frames = _mp3_frames(uri, sound, file)
    elif sound.format == "NIST":
        with _elsewhere(file):
            sphere.check_count(uri, sphere.header(file), sound.frames, sound.samplerate)
    elif sound.frames >= _UNKNOWN_FRAMES:
        frames = None
    else:
        _check_chunks(uri, sound)
    return None if frames is None else SndfileSource(uri, sound, file, frames)


def _mp3_frames(uri: str, sound: _SoundFile, file: IO[bytes]) -> int | None:
    """Samples per channel; None when libsndfile guesses too few, for it reads no further than that."""
    with _elsewhere(file):
        if file.seek(0, os.SEEK_END) > _SCANNED_BYTES and mp3.states_length(file):
            return int(sound.frames)
        file.seek(0)
        found = mp3.scan(file.read())
    if found is None:
        return None
    if found.lost_s > TOLERANCE_S:
        raise AudioError(f"{uri}: damaged: about {found.lost_s:.2f} s of it are no MP3 frames")
    if found.stated_s is not None:
        check_stated(uri, found.stated_s, found.held_s)
        return int(sound.frames)  # without the encoder's padding
    return found.held_samples if sound.frames >= found.held_samples else None


@contextlib.contextmanager
def _elsewhere(file: IO[bytes]) -> Iterator[None]:
    """For reading in a file that libsndfile is in the middle of."""
    position = file.tell()
    yield
    file.seek(position)


def _check_chunks(uri: str, sound: _SoundFile) -> None:
    """Raises AudioError when a WAV or AIFF header promises more or less than there is.

    libsndfile only logs it: a length that it corrected, and what it finds after the samples that is no chunk.
    """
    log, rate = sound.extra_info, sound.samplerate
    data = re.search(r"^ ?(?:data|SSND) : (\d+)(?: \(should be (\d+)\))?", log, re.MULTILINE)
    if data is None:
        return
    stated_bytes, held_bytes = int(data[1]), int(data[2] or 0)
    if 0 < held_bytes < stated_bytes < _UNKNOWN_BYTES:
        check_stated(uri, sound.frames / rate * stated_bytes / held_bytes, sound.frames / rate)
    rest = re.search(r"Unknown chunk marker \(?\w+\)? at position (\d+)", log)
    length = re.match(r"Length : (\d+)", log)
    if rest and length:
        left_bytes = int(length[1]) - int(rest[1])
        if left_bytes * sound.frames > TOLERANCE_S * rate * stated_bytes or sound.frames == 0:
            raise _goes_on(uri, sound.frames / rate, left_bytes)


def _goes_on(uri: str, stated_s: float, left_bytes: int) -> AudioError:
    return AudioError(f"{uri}: its header is wrong: it promises {stated_s:.2f} s, then {left_bytes} bytes follow")


def sndfile_text(err: sf.LibsndfileError) -> str:
    """libsndfile's message in one line without its decoration."""
    return " ".join(str(err.error_string).split()).removeprefix("Error : ").rstrip(".")
