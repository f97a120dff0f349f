"""Media bytes to samples as they arrive, through whatever formats, codecs and rates follow each other.

A source is an iterator of bytes, `Change` where another format may begin, and `Missed` where something is lacking.
Between two of these the bytes are one file that FFmpeg reads, forward only, and from which it can open no other:
a playlist or a list of files among the formats would let somebody else's server name files of this machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame

from asr.audio import MIX, one_channel
from asr.engine import Floats
from asr.formats.ffmpeg import CLOSED, ffmpeg_text, frame_samples
from asr.formats.source import check_finite
from asr.live.feed import Feed

FORMATS = "aac,ac3,aiff,asf,avi,caf,eac3,flac,flv,loas,matroska,mov,mp3,mpeg,mpegts,ogg,wav"
_OPTIONS = {
    **CLOSED,
    "format_whitelist": FORMATS,
    # what is read before the first sound: 2 s of uncompressed speech, less of anything else
    "probesize": str(64 << 10),
    "analyzeduration": "500000",
}


TRIES = 3  # files in a row that cannot be decoded
_BAD_PACKETS = 10  # in a row: this is no scratch but another format


@dataclass(frozen=True, slots=True)
class Change:
    """Another file begins, with `head`. `soft`: it goes on, but could be read from here if what came before cannot."""

    soft: bool = False
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class Missed:
    """Seconds that are lacking here, and why. Another file begins."""

    seconds: float
    why: str


Piece = bytes | Change | Missed


def deliver(pieces: Iterator[Piece], feed: Feed, what: str) -> None:
    """All that comes, decoded, into the feed.

    Raises Stopped, what `pieces` raises after what came before it, and ValueError when `TRIES` files in a row, or all
    that came, cannot be decoded. `what` is named in errors.
    """
    rate = _Rate(feed.sample_rate)
    bad, heard, ended = 0, False, False
    head = b""
    while not ended:
        run = _Run(pieces, head)
        cause, samples = "", 0
        try:
            for frame in _frames(run):
                block_nc = frame_samples(frame)
                check_finite(what, block_nc)
                feed.put(rate.converted(one_channel(block_nc, MIX), frame.sample_rate))
                samples += frame.samples
        except av.FFmpegError as err:
            cause = ffmpeg_text(err)
        run.skip()  # what FFmpeg has left, which is nothing unless it gave up
        heard = heard or samples > 0
        bad = 0 if samples or not run.bytes else bad + 1
        ended = run.ended or run.error is not None
        if bad == TRIES or (ended and not heard and run.error is None):
            raise ValueError(f"{what}: cannot be read as audio: {cause or 'it has no sound'}")
        if cause and run.error is None:
            feed.note(f"{what}: a part cannot be decoded ({cause})")
        if ended or isinstance(run.event, Missed):
            feed.put(rate.rest())
        if isinstance(run.event, Missed):
            feed.gap(run.event.seconds, run.event.why)
        if run.error is not None:
            raise run.error
        head = run.event.head if isinstance(run.event, Change) else b""


def _frames(run: "_Run") -> Iterator[AudioFrame]:
    """Packets that cannot be decoded are left out as long as others can: a live stream has its scratches."""
    if not run.fill():
        return
    with av.open(cast(IO[bytes], run), mode="r", metadata_errors="replace", options=dict(_OPTIONS)) as container:
        stream = next((s for s in container.streams.audio if s.codec_context is not None), None)
        if stream is None:
            return
        bad = 0
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
                bad = 0
            except av.InvalidDataError:
                bad += 1
                if bad > _BAD_PACKETS:
                    raise


class _Run:
    """The bytes up to the next event, as a file for FFmpeg. What `pieces` raises is kept: FFmpeg would lose it."""

    def __init__(self, pieces: Iterator[Piece], head: bytes) -> None:
        self.event: Change | Missed | None = None
        self.ended = False
        self.error: Exception | None = None
        self.bytes = 0  # without the head
        self._pieces = pieces
        self._rest = head

    def fill(self, hard: bool = True) -> bool:
        """False when no bytes are left before the end, an error, or an event; `hard`: one that is not soft."""
        while not self._rest and self.event is None and not self.ended and self.error is None:
            try:
                piece = next(self._pieces, None)
            except Exception as err:
                self.error = err
                break
            if piece is None:
                self.ended = True
            elif isinstance(piece, bytes):
                self._rest = piece
                self.bytes += len(piece)
            elif not (hard and isinstance(piece, Change) and piece.soft):
                self.event = piece
        return bool(self._rest)

    def read(self, size: int) -> bytes:
        self.fill()
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def skip(self) -> None:
        """Throw away what is left of a file that cannot be decoded any further."""
        self._rest = b""
        while self.fill(hard=False):
            self._rest = b""


class _Rate:
    """Samples to one rate, without a seam where files follow each other."""

    def __init__(self, sample_rate: int) -> None:
        self._to, self._from = sample_rate, sample_rate
        self._resampler: soxr.ResampleStream | None = None

    def converted(self, samples: Floats, rate: int) -> Floats:
        before = self.rest() if rate != self._from else np.empty(0, np.float32)
        self._from = rate
        if rate == self._to:
            return np.concatenate([before, samples])
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(rate, self._to, 1, dtype="float32", quality="HQ")
        return np.concatenate([before, self._resampler.resample_chunk(samples)])

    def rest(self) -> Floats:
        """What the filter still holds; the next samples begin anew."""
        resampler, self._resampler = self._resampler, None
        nothing = np.empty(0, np.float32)
        return nothing if resampler is None else resampler.resample_chunk(nothing, last=True)
