"""Audio files through FFmpeg (PyAV): what libsndfile does not know, and what it would cut short."""

import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import IO

import av
import av.logging
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from asr.formats.source import AudioError, check_end, check_finite

_PREROLL_S = 1.0  # decoded and dropped after a seek: AAC and Opus decoders need a while to settle
_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # FFmpeg's demuxers with true timestamps and durations


def _audio_codecs() -> Iterator[str]:
    for name in sorted(av.codecs_available):
        try:
            kind = av.Codec(name, "r").type
        except av.codec.codec.UnknownCodecError:
            continue  # it can only be written
        if kind == "audio":
            yield name


# A list of files that says it is audio ("ffconcat version 1.0") would be opened with the files that it names; and a
# frame of each stream is decoded to know it better: a picture of 560 kB, sent as audio, took 585 MB.
CLOSED = {"protocol_whitelist": "none", "codec_whitelist": ",".join(_audio_codecs())}

av.logging.set_level(None)  # FFmpeg would write to stderr; what matters comes as exceptions


class FFmpegSource:
    """An asr.formats.source.Source."""

    def __init__(self, uri: str, container: InputContainer) -> None:
        stream = _audio_stream(container)
        if stream is None:
            raise AudioError(f"{uri}: has no audio that can be decoded")
        self.rate, self.channels = stream.rate, stream.channels
        self.frames = _stated_frames(container, stream)
        self._uri, self._container, self._stream = uri, container, stream

    def duration_s(self) -> float:
        if self.frames is not None:
            return self.frames / self.rate
        time_base = self._stream.time_base
        assert time_base is not None
        packets = self._container.demux(self._stream)
        spans = [(p.pts, p.duration or 0) for p in packets if p.pts is not None and p.size]
        if not spans:
            return 0.0
        return float((max(pts + length for pts, length in spans) - max(0, spans[0][0])) * time_base)

    def blocks(self, first: int, end: int | None) -> Iterator[np.ndarray]:
        if self.frames is not None:
            end = self.frames if end is None else min(end, self.frames)
        position = first
        cause = "the data end"
        try:
            for start, block_nc in self._decoded(first):
                wanted_nc = block_nc[max(0, first - start) : None if end is None else max(0, end - start)]
                position = max(first, start + len(block_nc))
                if len(wanted_nc):
                    check_finite(self._uri, wanted_nc)
                    yield wanted_nc
                if end is not None and position >= end:
                    return
        except av.FFmpegError as err:
            if self.frames is None:
                raise
            cause = ffmpeg_text(err)
        if self.frames is not None and end is not None:
            check_end(self._uri, self.rate, position, end, cause)

    def _decoded(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """(frame number, samples) piece by piece, from the start or, where a seek is exact, from before `first`."""
        time_base = self._stream.time_base
        assert time_base is not None
        frames = self._container.decode(self._stream)
        position = 0
        if self.frames is not None and first > 2 * _PREROLL_S * self.rate:
            origin = next((f.pts for f in frames if f.pts is not None), 0)
            self._container.seek(origin + int((first / self.rate - _PREROLL_S) / time_base), stream=self._stream)
            frames = self._container.decode(self._stream)
            head = next(frames, None)
            if head is None or head.pts is None:
                return
            position = round((head.pts - origin) * time_base * self.rate)
            if position > first:
                raise AudioError(f"{self._uri}: has no samples at {first / self.rate:.2f} s")
            frames = itertools.chain([head], frames)
        for frame in frames:
            if frame.sample_rate != self.rate:
                raise AudioError(f"{self._uri}: changes from {self.rate} to {frame.sample_rate} samples a second")
            samples_nc = frame_samples(frame)
            if samples_nc.shape[1] != self.channels:  # AAC and Opus may go from stereo to mono and back
                samples_nc = samples_nc.mean(axis=1, keepdims=True).repeat(self.channels, axis=1)
            yield position, samples_nc
            position += frame.samples


def open_ffmpeg(uri: str, file: IO[bytes], stack: contextlib.ExitStack) -> FFmpegSource:
    """Raises AudioError, or FFmpeg's errors (av.FFmpegError). The stack closes what is opened."""
    file.seek(0)
    # tags in a foreign encoding must not keep the sound from being read
    return FFmpegSource(uri, stack.enter_context(av.open(file, mode="r", metadata_errors="replace", options=CLOSED)))


def ffmpeg_text(err: av.FFmpegError) -> str:
    """FFmpeg's message in one line."""
    return " ".join(str(err.strerror).split()).rstrip(".")


def _audio_stream(container: InputContainer) -> AudioStream | None:
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def _stated_frames(container: InputContainer, stream: AudioStream) -> int | None:
    seconds = None
    if container.format.name in _SEEKABLE:
        if stream.duration is not None and stream.time_base is not None:
            seconds = stream.duration * stream.time_base
        elif container.duration is not None and len(container.streams) == 1:  # else it may be the picture's
            seconds = Fraction(container.duration, av.time_base)
    return None if seconds is None else round(seconds * stream.rate)


def frame_samples(frame: AudioFrame) -> np.ndarray:
    """The frame as float32 [samples, channels]. Full scale is 1 whatever the sample format."""
    data: np.ndarray = frame.to_ndarray()
    data_nc = data.T if frame.format.is_planar else data.reshape(frame.samples, -1)
    samples_nc = data_nc.astype(np.float32, copy=False)
    if data.dtype == np.uint8:
        return (samples_nc - 128) / 128
    if np.issubdtype(data.dtype, np.integer):
        return samples_nc / -np.float32(np.iinfo(data.dtype).min)
    return samples_nc
