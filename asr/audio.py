"""Any audio file to mono float32 samples: through libsndfile, or through FFmpeg for what libsndfile does not know.

A URI names a file, an object, or a member of a tar. `read` gives a stretch of it at once, `stream` the whole in chunks
with bounded memory; both give the same samples. `read_channels` gives a stretch as it is, for measuring.
A file that is cut off or damaged is an AudioError, never a shorter or quieter result: only a loss of up to
`TOLERANCE_S` at the very end passes. ADTS states no length and can be cut between two packets without a trace, as can
an MP3 without a Xing header; no reader can tell.
"""

import contextlib
import functools
import io
import math
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

import av
import numpy as np
import soundfile as sf
import soxr

from asr.formats import sphere
from asr.formats.ffmpeg import ffmpeg_text, open_ffmpeg
from asr.formats.flac import open_flac, stream_info
from asr.formats.sndfile import open_sndfile, sndfile_text
from asr.formats.source import TOLERANCE_S, AudioError, Source
from manifests import storage
from manifests.schema import MIX
from manifests.storefaults import shown

__all__ = [
    "MIX",
    "TOLERANCE_S",
    "AudioError",
    "AudioInfo",
    "cuts_fast",
    "fetch",
    "one_channel",
    "probe",
    "read",
    "read_channels",
    "stream",
]

SAMPLE_RATES = range(1_000, 384_001)  # outside: a damaged header

_EDGE_S = 0.05  # read beside a stretch, so that its ends are resampled as in the whole file; the HQ filter is shorter
SMALL_BYTES = 1 << 20  # up to this a file is read at once: nearly every utterance, and no callback for every 8 kB
_FAST_CUTS = (".sph", ".wav", ".flac", ".aiff", ".aif")


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file's headers say. `sample_rate` and `channels` are the file's own."""

    duration_s: float
    sample_rate: int
    channels: int


class _Guarded:
    """A file for C libraries: an exception in their callbacks would be printed and lost, so it is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        if self.error is not None:  # the libraries try again
            return b""
        try:
            return self.file.read(size)
        except Exception as err:
            self.error = err
            return b""


def probe(uri: str, data: bytes | None = None) -> AudioInfo:
    """Length, rate and channels, without decoding; `data` as in `read`. Raises AudioError."""
    found = stream_info(uri) if data is None and uri.lower().endswith(".flac") else None
    if found is not None and found[1] in SAMPLE_RATES:
        samples, rate, channels = found
        return AudioInfo(samples / rate, rate, channels)
    with _open(uri, decode=False, data=data) as source:
        duration_s = source.duration_s()
        if duration_s <= 0:
            raise AudioError(f"{shown(uri)}: has no samples")
        return AudioInfo(duration_s, source.rate, source.channels)


def fetch(uri: str, at_most: int = SMALL_BYTES) -> bytes | None:
    """The bytes of a small file, to be given to `read`; None of a large one, of which `read` takes what it needs.

    Raises AudioError for one that is empty or not to be had.
    """
    with contextlib.ExitStack() as stack:
        file = _file(uri, at_most, stack)
        return file.getvalue() if isinstance(file, io.BytesIO) else None


def read(
    uri: str,
    sample_rate: int = 16000,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    channel: int = MIX,
    data: bytes | None = None,
) -> np.ndarray:
    """Mono float32 [samples] at `sample_rate`: `duration_s` (None: all) from `offset_s` on.

    `channel` counts from 0; MIX averages all. `data` is the file's whole content, where that is at hand. The same
    samples as that slice of the whole file; but after a seek AAC and Opus decoders fill in other noise, and WebM's
    timestamps are only good to 1 ms.
    Raises AudioError for a file that cannot be decoded or ends more than TOLERANCE_S too early.
    """
    assert offset_s >= 0, offset_s
    start = round(offset_s * sample_rate)
    count = None if duration_s is None else round(duration_s * sample_rate)
    with _open(uri, data=data) as source:
        first, end, skip = _stretch(source.rate, sample_rate, start, count)
        if channel >= source.channels:
            raise AudioError(
                f"{shown(uri)}: has {source.channels} channels; number {channel}, from 0 on, is not among them"
            )
        native = _joined([one_channel(block_nc, channel) for block_nc in source.blocks(first, end)], ())
    samples = native if source.rate == sample_rate else soxr.resample(native, source.rate, sample_rate, quality="HQ")
    return _cut(uri, samples[skip:], sample_rate, offset_s, duration_s)


def read_channels(uri: str, offset_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """Float32 [samples, channels] at the file's own rate: `duration_s` (None: all) from `offset_s` on.

    Raises AudioError as `read` does.
    """
    assert offset_s >= 0, offset_s
    with _open(uri) as source:
        first = round(offset_s * source.rate)
        end = None if duration_s is None else first + round(duration_s * source.rate)
        samples_nc = _joined(list(source.blocks(first, end)), (source.channels,))
    return _cut(uri, samples_nc, source.rate, offset_s, duration_s)


def one_channel(samples_nc: np.ndarray, channel: int) -> np.ndarray:
    """[samples] of one channel of [samples, channels], or with MIX the average of all."""
    if channel != MIX:
        return np.ascontiguousarray(samples_nc[:, channel])
    if samples_nc.shape[1] == 1:
        return samples_nc[:, 0]
    if samples_nc.shape[1] == 2:
        return (samples_nc[:, 0] + samples_nc[:, 1]) / 2  # the same numbers as mean(axis=1) in an eighth of the time
    return samples_nc.mean(axis=1)


def cuts_fast(uri: str) -> bool:
    """True for a file of which `read` decodes little more than the stretch asked for, wherever it lies."""
    return uri.lower().endswith(_FAST_CUTS)


def stream(uri: str, sample_rate: int = 16000, chunk_samples: int = 1600) -> Iterator[np.ndarray]:
    """The samples of `read(uri, sample_rate)`, bit for bit, in arrays of `chunk_samples` (the last may be shorter).

    Raises AudioError when it comes to the damage, after the chunks before it.
    """
    rest = np.empty(0, np.float32)
    total = 0
    with _open(uri) as source:
        for piece in _resampled(source, sample_rate):
            rest = np.concatenate([rest, piece])
            whole = len(rest) - len(rest) % chunk_samples
            for i in range(0, whole, chunk_samples):
                yield rest[i : i + chunk_samples]
            rest = rest[whole:]
            total += len(piece)
    if total == 0:
        raise AudioError(f"{shown(uri)}: has no samples")
    if len(rest):
        yield rest


def _resampled(source: Source, sample_rate: int) -> Iterator[np.ndarray]:
    blocks = (one_channel(block_nc, MIX) for block_nc in source.blocks(0, None))
    if source.rate == sample_rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(source.rate, sample_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _stretch(rate: int, sample_rate: int, start: int, count: int | None) -> tuple[int, int | None, int]:
    """For output samples [start, start + count): the frames [first, end) to decode, and how many samples to skip then.

    The first frame falls exactly on an output sample, so that the resampler's phase is that of the whole file.
    """
    if rate == sample_rate:
        return start, None if count is None else start + count, 0
    step = math.gcd(rate, sample_rate)
    step_frames, step_samples = rate // step, sample_rate // step
    steps = max(0, start // step_samples - math.ceil(_EDGE_S * step))
    end = None if count is None else math.ceil((start + count) * rate / sample_rate + _EDGE_S * rate)
    return steps * step_frames, end, start - steps * step_samples


def _joined(blocks: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.empty((0, *shape), np.float32), *blocks])


def _cut(uri: str, samples: np.ndarray, rate: int, offset_s: float, duration_s: float | None) -> np.ndarray:
    """The first `duration_s`. Raises AudioError when they are not there, or nothing is."""
    count = None if duration_s is None else round(duration_s * rate)
    if len(samples) == 0 or count == 0:
        raise AudioError(f"{shown(uri)}: has no samples from {offset_s:g} s on")
    if count is not None and len(samples) < count - TOLERANCE_S * rate:
        end_s = offset_s + len(samples) / rate
        raise AudioError(f"{shown(uri)}: ends at {end_s:.2f} s, before {offset_s:.2f} + {duration_s:.2f} s")
    return samples[:count]


@contextlib.contextmanager
def _open(uri: str, decode: bool = True, data: bytes | None = None) -> Iterator[Source]:
    """The file, opened by whichever library can. What either library raises inside the block becomes AudioError."""
    if uri.lower().endswith(".raw"):
        raise AudioError(
            f"{shown(uri)}: headerless, so its rate and format are unknown; convert it to WAV or FLAC first"
        )
    with _interruptible(), contextlib.ExitStack() as stack:
        file = _file(uri, SMALL_BYTES if decode else 0, stack) if data is None else io.BytesIO(data)
        try:
            with_library = functools.partial(_open_with_library, shown(uri), file, stack)
            source = open_flac(file, with_library) or with_library()
            if source.rate not in SAMPLE_RATES:
                raise AudioError(f"{shown(uri)}: its header is damaged: {source.rate} samples a second")
            yield source
        except (sf.LibsndfileError, av.FFmpegError, AudioError) as err:
            if isinstance(file, _Guarded) and file.error is not None:
                raise file.error from None
            if isinstance(err, AudioError):
                raise
            text = sndfile_text(err) if isinstance(err, sf.LibsndfileError) else ffmpeg_text(err)
            raise AudioError(f"{shown(uri)}: cannot be read as audio: {text}") from err
        if isinstance(file, _Guarded) and file.error is not None:
            raise file.error  # to the library it was just the end of the file


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raises the KeyboardInterrupt that Ctrl-C meant, after the block.

    While libsndfile reads, Ctrl-C falls into its callback. Python shows it there and goes on, and to the library the
    file just ends: the utterance was dropped as damaged, and the manifest was finished without it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C falls into the main thread alone, and the hook is one for all threads
        return
    caught: list[object] = []
    before = sys.unraisablehook

    def note(what: "sys.UnraisableHookArgs") -> None:
        if what.exc_type is KeyboardInterrupt:
            caught.append(what.exc_type)
        else:
            before(what)

    sys.unraisablehook = note
    try:
        yield
    finally:
        sys.unraisablehook = before
        if caught:
            raise KeyboardInterrupt


def _file(uri: str, small_bytes: int, stack: contextlib.ExitStack) -> "io.BytesIO | _Guarded":
    """A file, a member of a tar or an object; its bytes when they are few. Raises AudioError for one not to be had."""
    try:
        size_bytes = storage.size_bytes(uri)
        if size_bytes > small_bytes:
            return _Guarded(stack.enter_context(storage.open_read(uri)))
        data = storage.read_bytes(uri)  # a pipe, of 0 bytes, to its end
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as err:
        raise AudioError(f"{shown(uri)}: cannot be read as audio: {err.strerror or 'no such file'}") from None
    except EOFError:
        raise AudioError(f"{shown(uri)}: truncated: its tar ends before it does") from None
    if not data:
        raise AudioError(f"{shown(uri)}: is empty (0 bytes)")
    return io.BytesIO(data)


def _open_with_library(uri: str, file: "io.BytesIO | _Guarded", stack: contextlib.ExitStack) -> Source:
    data = cast(IO[bytes], file)  # what the libraries need of it
    if uri.lower().endswith(".sph"):
        if talk := sphere.open_sphere(uri, data):
            return talk
        data.seek(0)
    try:
        return open_sndfile(uri, data, stack) or open_ffmpeg(uri, data, stack)
    except sf.LibsndfileError as err:
        vague = err.code in (1, 2)  # format not recognised; the operating system's error
        if not vague:
            sphere.refuse_shorten(uri, sphere.header(data))
        try:
            return open_ffmpeg(uri, data, stack)
        except av.FFmpegError as second:
            raise (second if vague else err) from None
