"""What comes over a WebSocket becomes samples: PCM16 as it is, Opus in Ogg or WebM through FFmpeg as its bytes come."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import IO, Protocol, cast

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame

from asr import audio
from asr.engine import Floats
from asr.formats import ffmpeg
from asr.serving.hub import Gone
from asr.serving.limits import Refused, bad, failed

Bring = Callable[[Floats], Awaitable[None]]  # samples to the recogniser; it waits while there is no room

_QUEUED_BYTES = 1 << 17  # half a minute of Opus
_SILENT_BYTES = 1 << 22  # without a sample in them; FFmpeg takes up to 256 MB of a header's field into memory
_DEMUXERS = {b"OggS": "ogg", b"\x1a\x45\xdf\xa3": "matroska"}  # by the first bytes of a file
# What the client sends decides nothing else: no other demuxer, no other codec, no file or address opened.
_OPTIONS = {
    "probesize": "32",
    "analyzeduration": "0",
    "protocol_whitelist": "none",
    "codec_whitelist": "opus,libopus",
}


log = logging.getLogger("speechmill.serve")


class Decoder(Protocol):
    async def write(self, data: bytes) -> None:
        """Take the next bytes in, waiting while there is no room. Raises Refused, and Gone as the stream does."""

    async def finish(self) -> None:
        """Bring what is still to come."""

    def close(self) -> None:
        """Give up; also after `finish`."""


class Resampler:
    """Mono float32 at any rate to the recogniser's."""

    def __init__(self, rate: int, to: int) -> None:
        self._stream = None if rate == to else soxr.ResampleStream(rate, to, 1, dtype="float32", quality="HQ")

    def step(self, samples_t: Floats, last: bool = False) -> Floats:
        return samples_t if self._stream is None else self._stream.resample_chunk(samples_t, last=last)


class Pcm16:
    def __init__(self, rate: int, to: int, bring: Bring) -> None:
        self._resampler, self._bring = Resampler(rate, to), bring

    async def write(self, data: bytes) -> None:
        if len(data) % 2:
            raise bad(f"a message of {len(data)} bytes; pcm16 has two bytes in each sample")
        samples_t = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
        await self._bring(self._resampler.step(samples_t))

    async def finish(self) -> None:
        await self._bring(self._resampler.step(np.empty(0, np.float32), last=True))

    def close(self) -> None:
        pass


class _Pipe:
    """Bytes as they come, as the file that FFmpeg reads in its own thread. It blocks, and cannot seek."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.changed = threading.Condition()
        self.taken: Callable[[], None] = lambda: None

    def read(self, size: int) -> bytes:
        with self.changed:
            while not self.data and not self.ended:
                self.changed.wait()
            found = bytes(self.data[:size])
            del self.data[:size]
        self.taken()
        return found

    def write(self, data: bytes) -> None:
        with self.changed:
            self.data += data
            self.changed.notify()

    def end(self) -> None:
        with self.changed:
            self.ended = True
            self.changed.notify()


class Opus:
    """Its thread ends with the bytes, with the first error, or when the stream is gone."""

    def __init__(self, to: int, bring: Bring) -> None:
        self._to, self._bring = to, bring
        self._loop = asyncio.get_running_loop()
        self._pipe = _Pipe()
        self._room = asyncio.Event()
        self._pipe.taken = lambda: self._call(self._room.set)
        self._head = b""
        self._silent_bytes = 0  # since the last sound
        self._done: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        self._silent_bytes += len(data)
        if self._silent_bytes > _SILENT_BYTES:
            raise bad(f"{_SILENT_BYTES >> 20} MB without a sound in them")
        if self._done is None:
            self._head += data
            if len(self._head) < 4:
                return
            self._start(self._head)
        else:
            self._pipe.write(data)
        assert self._done is not None
        while len(self._pipe.data) > _QUEUED_BYTES and not self._done.done():
            self._room.clear()
            await self._room.wait()
        if self._done.done():
            self._done.result()
            raise bad("audio after the end of the Opus stream")

    async def finish(self) -> None:
        if self._done is None:
            raise bad(f"the stream ended after {len(self._head)} bytes of Opus")
        self._pipe.end()
        await self._done

    def close(self) -> None:
        self._pipe.end()

    def _start(self, head: bytes) -> None:
        demuxer = _DEMUXERS.get(head[:4])
        if demuxer is None:
            raise bad("what came is neither Ogg nor WebM; opus is to be in one of them")
        self._done = self._loop.create_future()
        self._done.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may find nobody waiting
        self._pipe.write(head)
        threading.Thread(target=self._run, args=[demuxer, self._done], name="opus", daemon=True).start()

    def _run(self, demuxer: str, done: "asyncio.Future[None]") -> None:
        error: Exception | None = None
        try:
            self._decode(demuxer)
        except (av.FFmpegError, audio.AudioError) as err:
            text = ffmpeg.ffmpeg_text(err) if isinstance(err, av.FFmpegError) else str(err)
            error = bad(f"the Opus stream cannot be decoded: {text}")
        except (Refused, Gone) as err:
            error = err
        except Exception:  # whatever else: a stream that waits for this thread must not wait for ever
            log.exception("an Opus stream has failed")
            error = failed()
        self._call(lambda: self._over(done, error))

    def _over(self, done: "asyncio.Future[None]", error: Exception | None) -> None:
        self._room.set()
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def _decode(self, demuxer: str) -> None:
        with av.open(
            cast(IO[bytes], self._pipe), mode="r", format=demuxer, options=_OPTIONS, buffer_size=4096,
            metadata_errors="replace",
        ) as container:  # fmt: skip
            sound = next((s for s in container.streams.audio if s.codec_context is not None), None)
            if sound is None or sound.codec_context.name not in ("opus", "libopus"):
                raise bad("what came has no Opus in it")
            resampler = Resampler(sound.rate, self._to)
            for frame in container.decode(sound):
                self._give(resampler.step(_mono(frame)))
            self._give(resampler.step(np.empty(0, np.float32), last=True))

    def _give(self, samples_t: Floats) -> None:
        """From this thread into the event loop, waiting for room there."""
        self._silent_bytes = 0
        asyncio.run_coroutine_threadsafe(self._brought(samples_t), self._loop).result()

    async def _brought(self, samples_t: Floats) -> None:
        await self._bring(samples_t)

    def _call(self, what: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what)


def _mono(frame: AudioFrame) -> Floats:
    """FFmpeg's Opus decoder gives float planes, [channels, samples]."""
    samples_ct = frame.to_ndarray()
    return np.asarray(samples_ct.mean(axis=0), np.float32)
