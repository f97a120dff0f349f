"""All streams of a server and the one thread that runs the model for them.

Clients bring samples into a bounded queue of their stream, in the event loop. In rounds, the thread takes what the
streams have, as features, and puts one piece of every waiting stream through the model in a batch.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

from asr import stream
from asr.engine import Floats
from asr.serving.limits import BATCH, QUEUE_S, UNSENT, Limits, Refused, bad, failed, full, stopping
from asr.serving.metrics import Metrics
from asr.stream import Listener, StreamState, Update

_PART_S = 0.1  # of audio taken in at once, so that a result names the audio it rests on to this exactness

log = logging.getLogger("speechmill.serve")


@dataclass(frozen=True, slots=True)
class Result:
    """Of a stream: it rests on the first `audio_s` seconds."""

    update: Update
    audio_s: float
    came_at: float  # time.monotonic() when the last of these came, or the end
    last: bool


class Gone(Exception):
    """The stream has failed or was given up; who brings more to it is to stop."""


class Stream:
    """One client's. What the thread and the event loop both touch is held by the hub's lock."""

    def __init__(self, state: StreamState) -> None:
        self.results: asyncio.Queue[Result | Refused] = asyncio.Queue()
        self.room = asyncio.Event()
        self.parts: deque[tuple[Floats, float]] = deque()  # samples that wait for the model, and when they came
        self.queued = 0  # samples in them
        self.taken = 0  # samples that came in, ever
        self.ended = False  # no more will come
        self.ended_at = 0.0
        self.gone = False
        self.unsent = 0  # results that wait for the client
        self.reported_s = 0.0  # of its audio, in the metrics
        # the thread's alone
        self.state = state
        self.came_at = 0.0
        self.ready = False
        self.served = 0  # the last round that served it


Found = tuple[Stream, Result | Refused]


class Hub:
    def __init__(self, listener: Listener, limits: Limits, hotwords: Sequence[str] = ()) -> None:
        self.listener, self.limits, self.metrics = listener, limits, Metrics()
        self._hotwords = tuple(hotwords)  # of all streams
        self.rate = listener.spec.sample_rate
        self.closing = asyncio.Event()  # no more is served; streams get their last words
        self._loop = asyncio.get_running_loop()
        self._starting = asyncio.Lock()
        self._slots = 0
        self._empty = asyncio.Event()
        self._streams: list[Stream] = []
        self._wake = threading.Condition()
        self._stopped = False
        self._round = 0
        self._thread = threading.Thread(target=self._run, name="recogniser", daemon=True)
        self._thread.start()

    # what the event loop calls

    @property
    def at_work(self) -> int:
        return self._slots

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self.closing.is_set()

    def queued_s(self) -> float:
        with self._wake:
            return sum(s.queued for s in self._streams) / self.rate

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """One of the places for clients. Raises Refused when all are taken, or the server is stopping."""
        if self.closing.is_set():
            raise stopping()
        if self._slots >= self.limits.streams:
            raise full(self.limits.streams)
        self._slots += 1
        try:
            yield
        finally:
            self._slots -= 1
            if not self._slots:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def begin(self, hotwords: Sequence[str]) -> AsyncIterator[Stream]:
        """A stream; it is given up at the end of the block. Raises Refused for hotwords that cannot be."""
        try:  # hundreds of hotwords take 30 ms of Python: one at a time, or the model waits for many threads
            async with self._starting if hotwords else contextlib.nullcontext():
                state = await asyncio.to_thread(stream.start, self.listener, (*self._hotwords, *hotwords))
        except ValueError as err:
            raise bad(str(err)) from None
        begun = Stream(state)
        with self._wake:
            self._streams.append(begun)
        try:
            yield begun
        finally:
            with self._wake:
                begun.gone = True
                self._streams.remove(begun)
            begun.room.set()

    async def feed(self, to: Stream, samples_t: Floats) -> None:
        """Bring samples, as soon as there is room for them. Raises Gone."""
        came_at = time.monotonic()
        step = max(1, round(_PART_S * self.rate))
        for i in range(0, len(samples_t), step):
            while not to.gone and to.queued > QUEUE_S * self.rate:
                to.room.clear()
                await to.room.wait()
            if to.gone:
                raise Gone
            part_t = samples_t[i : i + step]
            with self._wake:
                to.parts.append((part_t, came_at))
                to.queued += len(part_t)
                to.taken += len(part_t)
                self._wake.notify()

    def end(self, of: Stream) -> None:
        """No more will come: the last words are to be found."""
        with self._wake:
            of.ended, of.ended_at = True, time.monotonic()
            self._wake.notify()

    async def next(self, of: Stream) -> Result:
        """Raises Refused when the stream has failed."""
        result = await of.results.get()
        if isinstance(result, Refused):
            raise result
        return result

    def sent(self, of: Stream) -> None:
        """The client has taken a result."""
        with self._wake:
            of.unsent -= 1
            self._wake.notify()

    async def drain(self, seconds: float) -> None:
        """Let all clients go, with their last words, within so many seconds."""
        self.closing.set()
        if self._slots:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    def stop(self) -> None:
        """End the thread; for the end of the event loop."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join()

    # what happens in the thread

    def _run(self) -> None:
        while waiting := self._wait():
            self._round += 1
            found: list[Found] = []
            for each in waiting:
                self._guarded(self._take, [each], found)
            ready = [each for each in waiting if each.ready and not each.gone][:BATCH]
            if ready:
                self._guarded(self._step, ready, found)
            for each in waiting:
                if each.ended and not each.parts and not each.ready and not each.gone:
                    self._guarded(self._finish, [each], found)
            self._loop.call_soon_threadsafe(self._deliver, waiting, found, len(ready))

    def _wait(self) -> list[Stream]:
        """The streams with something to do, that waited longest first; none when the server stops."""
        with self._wake:
            while not self._stopped:
                waiting = [
                    each
                    for each in self._streams
                    if not each.gone and each.unsent < UNSENT and (each.parts or each.ready or each.ended)
                ]
                if waiting:
                    return sorted(waiting, key=lambda each: each.served)
                self._wake.wait()
            return []

    def _guarded(self, work: Callable[[list[Stream]], list[Found]], streams: list[Stream], found: list[Found]) -> None:
        """What fails for a batch is done for each alone, so that a stream's failure is its own."""
        try:
            found += work(streams)
        except Exception:
            if len(streams) > 1:
                for each in streams:
                    self._guarded(work, [each], found)
                return
            log.exception("a stream has failed")
            streams[0].gone = True
            found.append((streams[0], failed()))

    def _take(self, streams: list[Stream]) -> list[Found]:
        """Samples become features, as many as the next piece needs."""
        (each,) = streams
        each.ready = stream.ready(self.listener, each.state)
        while each.parts and not (each.ready and len(each.state.feats_tf) >= self.listener.piece_frames):
            with self._wake:
                part_t, each.came_at = each.parts.popleft()
                each.queued -= len(part_t)
            each.state = stream.accept(self.listener, part_t, each.state)
            each.ready = stream.ready(self.listener, each.state)
        return []

    def _step(self, streams: list[Stream]) -> list[Found]:
        done = stream.step_batch(self.listener, [each.state for each in streams])
        found: list[Found] = []
        for each, (update, state) in zip(streams, done, strict=True):
            each.state, each.served = state, self._round
            each.ready = stream.ready(self.listener, state)
            found.append((each, self._result(each, update, last=False)))
        return found

    def _finish(self, streams: list[Stream]) -> list[Found]:
        (each,) = streams
        update = stream.finish(self.listener, each.state)
        each.gone, each.came_at = True, each.ended_at
        return [(each, self._result(each, update, last=True))]

    def _result(self, of: Stream, update: Update, last: bool) -> Result:
        with self._wake:
            of.unsent += 1
        return Result(update, of.state.audio_s, of.came_at, last)

    def _deliver(self, served: list[Stream], found: list[Found], batch: int) -> None:
        """In the event loop again."""
        self.metrics.rounds += bool(batch)
        self.metrics.pieces += batch
        for each in served:
            each.room.set()
        for each, result in found:
            if isinstance(result, Result):
                self.metrics.audio_s += result.audio_s - each.reported_s
                each.reported_s = result.audio_s
            else:
                self.metrics.errors += 1
            each.results.put_nowait(result)
