"""Any audio file to mono float32 samples: through libsndfile, or through FFmpeg for what libsndfile does not know.

`read` gives a stretch at once, `stream` the whole file in chunks with bounded memory; both give the same samples.
A file that is cut off or damaged is an AudioError, never a shorter or quieter result: only a loss of up to
`TOLERANCE_S` at the very end passes. Containers that state no length (ADTS, MP3 without a Xing header) can be cut
between two packets without a trace; no reader can tell.
"""

import contextlib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, cast

import av
import av.logging
import numpy as np
import soundfile as sf
import soxr
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from manifests import storage

TOLERANCE_S = 0.1  # how much of the stated length may be missing at the end
SAMPLE_RATES = range(1_000, 384_001)  # outside: a damaged header

_EDGE_S = 0.05  # read beside a stretch, so that its ends are resampled as in the whole file; the HQ filter is shorter
_PREROLL_S = 1.0  # decoded and dropped after a seek: AAC and Opus decoders need a while to settle
_BLOCK_FRAMES = 2**20  # a minute: nearly every utterance comes in one piece, uncopied
_UNKNOWN_FRAMES = 2**62  # libsndfile says 2**63 - 1 when a header states no length
_UNKNOWN_BYTES = 0x7FFFF000  # at least this: a WAV that was piped, its length never filled in
_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # FFmpeg's demuxers with true timestamps and durations

av.logging.set_level(None)  # FFmpeg would write to stderr; what matters comes as exceptions


class AudioError(ValueError):
    """An audio file that cannot be read, or not to its end."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file's headers say. `sample_rate` and `channels` are the file's own."""

    duration_s: float
    sample_rate: int
    channels: int


class _SoundFile(sf.SoundFile):  # type: ignore[misc]  # soundfile carries no types
    """Read forward only: soundfile seeks to where it already is after every read of a seekable file, which sets an
    MP3 decoder back and steps over damage in Ogg without a word."""

    def seekable(self) -> bool:
        return False


class _Remote:
    """A remote file for C libraries: an exception in their callbacks would be printed and lost, so it is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return self.file.read(size)
        except Exception as err:
            self.error = err
            return b""


@dataclass(frozen=True, slots=True)
class _Source:
    """An open file. `frames` is the length its headers state; None when they state none that can be trusted."""

    uri: str
    decoder: _SoundFile | InputContainer
    rate: int
    channels: int
    frames: int | None


def probe(uri: str) -> AudioInfo:
    """Length, rate and channels, without decoding. Raises AudioError."""
    with _open(uri) as source:
        if source.frames is not None:
            duration_s = source.frames / source.rate
        else:
            duration_s = _demuxed_s(cast(InputContainer, source.decoder))
        if duration_s <= 0:
            raise AudioError(f"{uri}: has no samples")
        return AudioInfo(duration_s, source.rate, source.channels)


def read(uri: str, sample_rate: int = 16000, offset_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """Mono float32 [samples] at `sample_rate`: `duration_s` (None: all) from `offset_s` on, channels averaged.

    The same samples as that slice of the whole file; but after a seek AAC and Opus decoders fill in other noise, and
    WebM's timestamps are only good to 1 ms.
    Raises AudioError for a file that cannot be decoded or ends more than TOLERANCE_S too early.
    """
    assert offset_s >= 0, offset_s
    start = round(offset_s * sample_rate)
    count = None if duration_s is None else round(duration_s * sample_rate)
    with _open(uri) as source:
        first, end, skip = _stretch(source.rate, sample_rate, start, count)
        blocks = list(_blocks(source, first, end))
    native = blocks[0] if len(blocks) == 1 else np.concatenate([np.empty(0, np.float32), *blocks])
    samples = native if source.rate == sample_rate else soxr.resample(native, source.rate, sample_rate, quality="HQ")
    samples = samples[skip:][:count]
    if len(samples) == 0:
        raise AudioError(f"{uri}: has no samples from {offset_s:g} s on")
    if count is not None and len(samples) < count - TOLERANCE_S * sample_rate:
        end_s = offset_s + len(samples) / sample_rate
        raise AudioError(f"{uri}: ends at {end_s:.2f} s, before {offset_s:.2f} + {duration_s:.2f} s")
    return samples


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
        raise AudioError(f"{uri}: has no samples")
    if len(rest):
        yield rest


def _resampled(source: _Source, sample_rate: int) -> Iterator[np.ndarray]:
    blocks = _blocks(source, 0, None)
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


@contextlib.contextmanager
def _open(uri: str) -> Iterator[_Source]:
    """The file, opened by whichever library can. What either library raises inside the block becomes AudioError."""
    if uri.lower().endswith(".raw"):
        raise AudioError(f"{uri}: headerless, so its rate and format are unknown; convert it to WAV or FLAC first")
    with contextlib.ExitStack() as stack:
        remote: _Remote | None = None
        if not storage.is_local(uri):
            try:
                remote = _Remote(stack.enter_context(storage.open_read(uri)))
            except FileNotFoundError:
                raise AudioError(f"{uri}: no such file") from None
        try:
            source = _open_any(uri, remote or storage.absolute(uri), stack)
            if source.rate not in SAMPLE_RATES:
                raise AudioError(f"{uri}: its header is damaged: {source.rate} samples a second")
            yield source
        except (sf.LibsndfileError, av.FFmpegError, AudioError) as err:
            if remote is not None and remote.error is not None:
                raise remote.error from None
            if isinstance(err, AudioError):
                raise
            raise AudioError(f"{uri}: cannot be read as audio: {_cause(err)}") from err


def _open_any(uri: str, file: "str | _Remote", stack: contextlib.ExitStack) -> _Source:
    try:
        sound = stack.enter_context(_SoundFile(file))
    except sf.LibsndfileError as err:
        vague = err.code in (1, 2)  # format not recognised; the operating system's error, which FFmpeg says in words
        if not vague and b"shorten" in _sphere_header(uri):
            raise AudioError(f"{uri}: shorten-compressed; convert it first: sph2pipe -f wav IN.sph OUT.wav") from None
        try:
            return _open_ffmpeg(uri, file, stack)
        except av.FFmpegError as second:
            if vague and storage.exists(uri) and storage.size_bytes(uri) == 0:
                raise AudioError(f"{uri}: is empty (0 bytes)") from None
            raise (second if vague else err) from None
    if not _length_known(sound, uri):
        return _open_ffmpeg(uri, file, stack)
    _check_complete(sound, uri)
    return _Source(uri, sound, sound.samplerate, sound.channels, sound.frames)


def _open_ffmpeg(uri: str, file: "str | _Remote", stack: contextlib.ExitStack) -> _Source:
    if isinstance(file, _Remote):
        file.seek(0)
    # tags in a foreign encoding must not keep the sound from being read
    container = stack.enter_context(av.open(file, mode="r", metadata_errors="replace"))
    stream = _audio_stream(container)
    if stream is None:
        raise AudioError(f"{uri}: has no audio that can be decoded")
    seconds = None
    if container.format.name in _SEEKABLE:
        if stream.duration is not None and stream.time_base is not None:
            seconds = stream.duration * stream.time_base
        elif container.duration is not None and len(container.streams) == 1:  # else it may be the picture's
            seconds = Fraction(container.duration, av.time_base)
    frames = None if seconds is None else round(seconds * stream.rate)
    return _Source(uri, container, stream.rate, stream.channels, frames)


def _length_known(sound: sf.SoundFile, uri: str) -> bool:
    """False when `sound.frames` may be wrong; libsndfile reads no further than that.

    For an MP3 without a Xing or VBRI header it is a guess from the first bit rate.
    """
    if sound.format != "MP3":
        return bool(sound.frames < _UNKNOWN_FRAMES)
    with storage.open_read(uri) as file:
        head = file.read(10)
        if head.startswith(b"ID3"):
            size = (head[6] << 21) | (head[7] << 14) | (head[8] << 7) | head[9]
            file.seek(10 + size)
        head = file.read(2048)
        if any(tag in head for tag in (b"Xing", b"Info", b"VBRI")):
            return True
        file.seek(0)
        with av.open(file, mode="r", metadata_errors="replace") as container:
            return abs(_demuxed_s(container) - sound.frames / sound.samplerate) <= TOLERANCE_S


def _check_complete(sound: sf.SoundFile, uri: str) -> None:
    """Raises AudioError when the header promises more than the file holds. libsndfile only notes that in its log."""
    stated = sound.frames
    if sound.format == "NIST":
        if count := re.search(rb"sample_count -i (\d+)", _sphere_header(uri)):
            stated = int(count[1])
    elif match := re.search(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE):
        size, held = int(match[1]), int(match[2])
        if size < _UNKNOWN_BYTES and held > 0:
            stated = sound.frames * size // held
    if stated - sound.frames > TOLERANCE_S * sound.samplerate:
        stated_s, held_s = stated / sound.samplerate, sound.frames / sound.samplerate
        raise AudioError(f"{uri}: truncated: its header promises {stated_s:.2f} s, the file holds {held_s:.2f} s")


def _sphere_header(uri: str) -> bytes:
    """The header of a NIST SPHERE file; empty for any other file."""
    with storage.open_read(uri) as file:
        head = file.read(1024)
    return head if head.startswith(b"NIST_1A") else b""


def _cause(err: sf.LibsndfileError | av.FFmpegError) -> str:
    """The library's message in one line without its decoration."""
    text = err.error_string if isinstance(err, sf.LibsndfileError) else err.strerror
    return " ".join(str(text).split()).removeprefix("Error : ").rstrip(".")


def _blocks(source: _Source, first: int, end: int | None) -> Iterator[np.ndarray]:
    """Frames [first, end) (None: to the end of the file) as mono float32 arrays at the file's own rate.

    A request that reaches beyond the end of an undamaged file gives what there is.
    """
    sound = source.decoder if isinstance(source.decoder, _SoundFile) else None
    integers = sound is not None and sound.subtype.startswith("PCM")
    for block in (_ffmpeg_blocks if sound is None else _sound_blocks)(source, first, end):
        if not integers and not np.isfinite(block).all():
            raise AudioError(f"{source.uri}: has samples that are infinite or not a number")
        yield block


def _sound_blocks(source: _Source, first: int, end: int | None) -> Iterator[np.ndarray]:
    sound = source.decoder
    assert isinstance(sound, _SoundFile) and source.frames is not None
    end = source.frames if end is None else min(end, source.frames)
    position = first
    if 0 < first < end:
        sound.seek(first)
    while position < end:
        size = min(_BLOCK_FRAMES, end - position)
        block = np.empty(size if source.channels == 1 else (size, source.channels), np.float32)
        cause = "the data end"
        try:
            block = sound.read(out=block)
        except sf.LibsndfileError as err:
            block, cause = block[: sound.tell() - position], _cause(err)
        position += len(block)
        if len(block):
            yield block if source.channels == 1 else block.mean(axis=1)
        if len(block) < size:
            _check_end(source, position, end, cause)
            return


def _ffmpeg_blocks(source: _Source, first: int, end: int | None) -> Iterator[np.ndarray]:
    if source.frames is not None:
        end = source.frames if end is None else min(end, source.frames)
    position = first
    cause = "the data end"
    try:
        for start, block in _decoded(source, first):
            wanted = block[max(0, first - start) : None if end is None else max(0, end - start)]
            position = max(first, start + len(block))
            if len(wanted):
                yield wanted
            if end is not None and position >= end:
                return
    except av.FFmpegError as err:
        if source.frames is None:
            raise
        cause = _cause(err)
    if source.frames is not None and end is not None:
        _check_end(source, position, end, cause)


def _decoded(source: _Source, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """(frame number, mono samples) piece by piece, from the start or, where a seek is exact, from before `first`."""
    container = source.decoder
    assert isinstance(container, InputContainer)
    stream = _audio_stream(container)
    assert stream is not None and stream.time_base is not None
    frames = container.decode(stream)
    position = 0
    if source.frames is not None and first > 2 * _PREROLL_S * source.rate:
        origin = next((f.pts for f in frames if f.pts is not None), 0)
        container.seek(origin + int((first / source.rate - _PREROLL_S) / stream.time_base), stream=stream)
        frames = container.decode(stream)
        head = next(frames, None)
        if head is None or head.pts is None:
            return
        position = round((head.pts - origin) * stream.time_base * source.rate)
        if position > first:
            raise AudioError(f"{source.uri}: has no samples at {first / source.rate:.2f} s")
        frames = itertools.chain([head], frames)
    for frame in frames:
        if frame.sample_rate != source.rate:
            raise AudioError(f"{source.uri}: changes from {source.rate} to {frame.sample_rate} samples a second")
        yield position, _mono(frame)
        position += frame.samples


def _mono(frame: AudioFrame) -> np.ndarray:
    """The frame as float32 [samples], channels averaged. Full scale is 1 whatever the sample format."""
    data: np.ndarray = frame.to_ndarray()
    data_cn = data if frame.format.is_planar else data.reshape(frame.samples, -1).T
    mono = data_cn.mean(axis=0, dtype=np.float32)
    if data.dtype == np.uint8:
        return (mono - 128) / 128
    if np.issubdtype(data.dtype, np.integer):
        return mono / -np.float32(np.iinfo(data.dtype).min)
    return mono


def _check_end(source: _Source, position: int, end: int, cause: str) -> None:
    """Raises AudioError when decoding has ended at frame `position`, long before `end`."""
    if end - position > TOLERANCE_S * source.rate:
        raise AudioError(
            f"{source.uri}: truncated or damaged: decoding stops at {position / source.rate:.2f} s, "
            f"before {end / source.rate:.2f} s ({cause})"
        )


def _audio_stream(container: InputContainer) -> AudioStream | None:
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def _demuxed_s(container: InputContainer) -> float:
    """The length of the audio from its packets' timestamps, in seconds."""
    stream = _audio_stream(container)
    assert stream is not None and stream.time_base is not None
    spans = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None and p.size]
    if not spans:
        return 0.0
    return float((max(pts + length for pts, length in spans) - max(0, spans[0][0])) * stream.time_base)
