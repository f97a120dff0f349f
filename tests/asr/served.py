"""A real server on loopback for tests, and clients of it."""

import asyncio
import contextlib
import http.client
import io
import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from asr import stream
from asr.serving import server
from asr.serving.hub import Hub
from asr.serving.limits import Limits
from asr.stream import Listener
from asr.words import Word

START = {"type": "start", "format": "pcm16", "sample_rate": 16000}


@dataclass
class Served:
    """`hub` is the one at work; `port` where it listens; `connections` the protocols of all that are open."""

    hub: Hub
    port: int
    connections: set[Any] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def until(self, line: str) -> None:
        """Ask for the metrics until they have this line; pytest's timeout ends what never comes."""
        while line not in self.get("/metrics").splitlines():
            pass

    def socket(self, **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/stream", compression=None, **options)


@contextlib.contextmanager
def serve(listener: Listener, limits: Limits) -> Iterator[Served]:
    bound = server.bind("127.0.0.1", 0)
    up = threading.Event()
    at_work: list[Any] = []

    async def main() -> None:
        hub = Hub(listener, limits)
        ours = server.Server(hub, lambda port: up.set())
        at_work.extend([hub, ours])
        try:
            await ours.serve([bound])
        finally:
            hub.stop()

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    assert up.wait(30)
    try:
        yield Served(at_work[0], bound.getsockname()[1], at_work[1].server_state.connections)
    finally:
        at_work[1].should_exit = True
        thread.join()
        bound.close()


@dataclass
class Heard:
    """All that a client was told."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    code: int = 0
    reason: str = ""

    @property
    def final(self) -> list[dict[str, Any]]:
        return [word for message in self.messages for word in message.get("final", [])]

    @property
    def error(self) -> str:
        return next((m["message"] for m in self.messages if m["type"] == "error"), "")


async def hear(socket: ClientConnection) -> Heard:
    """All messages up to the close."""
    heard = Heard()
    try:
        while True:
            heard.messages.append(json.loads(await socket.recv()))
    except ConnectionClosed as closed:
        assert closed.rcvd is not None, "the connection broke"
        heard.code, heard.reason = closed.rcvd.code, closed.rcvd.reason
    return heard


async def talk(to: Served, said: list[bytes | str], **options: Any) -> Heard:
    """Say all of it, while what the server says is read. A server that has heard enough is no fault."""
    async with to.socket(**options) as socket:

        async def say() -> None:
            with contextlib.suppress(ConnectionClosed):
                for message in said:
                    await socket.send(message)

        heard, _ = await asyncio.gather(hear(socket), say())
        return heard


def request(
    served: Served, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has seen enough
            connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def spoken(pcm: bytes, size_bytes: int, **start: Any) -> list[bytes | str]:
    parts = [pcm[i : i + size_bytes] for i in range(0, len(pcm), size_bytes)]
    return [json.dumps(START | start), *parts, '{"type": "end"}']


def pcm16(samples_t: np.ndarray) -> bytes:
    return (samples_t * 32767).astype("<i2").tobytes()


def recognised(listener: Listener, samples_t: np.ndarray, hotwords: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What asr.stream.step makes of the samples, as the server writes it."""
    update, state = stream.step(listener, samples_t, stream.start(listener, hotwords))
    return [written(word) for word in (*update.final, *stream.finish(listener, state).final)]


def written(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3),
            "confidence": round(word.confidence, 3), "segment": word.segment}  # fmt: skip


def opus(samples_t: np.ndarray, container: str) -> bytes:
    """48 kHz samples as a browser's MediaRecorder would record them."""
    out = io.BytesIO()
    options = {"live": "1"} if container == "webm" else {"page_duration": "100000"}
    with av.open(out, "w", format=container, options=options) as file:
        sound = file.add_stream("libopus", rate=48000, layout="mono")
        for i in range(0, len(samples_t), 960):
            frame = av.AudioFrame.from_ndarray(samples_t[None, i : i + 960], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, i
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    return out.getvalue()
