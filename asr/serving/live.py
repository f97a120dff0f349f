"""A WebSocket stream: the client's audio in, words out as they are recognised. See asr.serving.messages."""

import asyncio
import contextlib
import time
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from asr.engine import Floats
from asr.serving import messages
from asr.serving.decoding import Decoder, Opus, Pcm16
from asr.serving.hub import Gone, Hub, Stream
from asr.serving.limits import Refused, bad, idle, stopping, too_long, too_slow

_TOO_BIG = 1009  # what the WebSocket library closes with when a message is larger than it may be


class _Deaf(Exception):
    """The client does not read what it is sent."""


async def serve(socket: WebSocket, hub: Hub) -> None:
    """One stream, from the handshake to the close."""
    await socket.accept()  # a page sees why it is refused only after that
    try:
        try:
            with hub.slot():
                await _Connection(socket, hub).serve()
        except Refused as refused:
            await _send(socket, hub, messages.error(refused.text))
            await _refuse(socket, hub, refused)
    except _Deaf:
        hub.metrics.refusals["does not read"] += 1
    except WebSocketDisconnect as gone:
        if gone.code == _TOO_BIG:
            hub.metrics.refusals["oversized"] += 1


class _Connection:
    def __init__(self, socket: WebSocket, hub: Hub) -> None:
        self.socket, self.hub = socket, hub
        self._refused: Refused | None = None  # why the stream ends, unless the client ends it
        self._until = time.monotonic() + hub.limits.longest_s

    async def serve(self) -> None:
        """To the close. Raises Refused where no stream begins, or it fails: there are no last words then."""
        closing = asyncio.create_task(self.hub.closing.wait())
        try:
            asked = await self._start(closing)
            async with self.hub.begin(asked.hotwords) as stream:
                self.hub.metrics.started["websocket"] += 1
                decoder = self._decoder(asked, stream)
                try:
                    await _send(self.socket, self.hub, messages.started(asked.sample_rate or self.hub.rate))
                    await self._both_ways(stream, decoder, closing)
                finally:
                    decoder.close()
        finally:
            closing.cancel()
        if self._refused:
            await _refuse(self.socket, self.hub, self._refused)
        else:
            await _close(self.socket, self.hub, 1000, "")

    async def _start(self, closing: "asyncio.Task[Any]") -> messages.Start:
        said = await self._receive(closing)
        if isinstance(said, bytes):
            raise bad('audio before the message "start"')
        name, fields = messages.kind(said)
        if name != "start":
            raise bad('the first message must be "start"')
        return messages.start(fields)

    def _decoder(self, asked: messages.Start, stream: Stream) -> Decoder:
        most = self.hub.limits.minutes * 60 * self.hub.rate

        async def bring(samples_t: Floats) -> None:
            if stream.taken + len(samples_t) > most:
                raise too_long(self.hub.limits.minutes)
            await self.hub.feed(stream, samples_t)

        if asked.format == "opus":
            return Opus(self.hub.rate, bring)
        return Pcm16(asked.sample_rate, self.hub.rate, bring)

    async def _both_ways(self, stream: Stream, decoder: Decoder, closing: "asyncio.Task[Any]") -> None:
        """Until the last words are sent."""
        hearing = asyncio.create_task(self._hear(stream, decoder, closing))
        telling = asyncio.create_task(self._tell(stream))
        try:
            await asyncio.wait([hearing, telling], return_when=asyncio.FIRST_COMPLETED)
            if telling.done() and not hearing.done():
                await telling  # it has failed
            await hearing
            await telling
        finally:
            for task in (hearing, telling):
                task.cancel()
            await asyncio.gather(hearing, telling, return_exceptions=True)

    async def _hear(self, stream: Stream, decoder: Decoder, closing: "asyncio.Task[Any]") -> None:
        with contextlib.suppress(Gone):  # it has failed, and that is found with the results
            try:
                await self._read(decoder, closing)
            except Refused as err:
                self._refused = err
            try:
                await decoder.finish()
            except Refused as err:
                self._refused = self._refused or err
        self.hub.end(stream)

    async def _read(self, decoder: Decoder, closing: "asyncio.Task[Any]") -> None:
        """Until the client says "end"."""
        while True:
            said = await self._receive(closing)
            if isinstance(said, bytes):
                await decoder.write(said)
                continue
            name, fields = messages.kind(said)
            if name != "end" or fields:
                raise bad('after "start" come binary messages, and then {"type": "end"}')
            return

    async def _receive(self, closing: "asyncio.Task[Any]") -> str | bytes:
        """The next message. Raises Refused when none comes, or the server stops; WebSocketDisconnect."""
        if time.monotonic() > self._until:
            raise too_slow(self.hub.limits.longest_s)
        coming = asyncio.ensure_future(self.socket.receive())
        try:
            await asyncio.wait([coming, closing], timeout=self.hub.limits.idle_s, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise stopping() if closing.done() else idle(self.hub.limits.idle_s)
        finally:
            coming.cancel()
        message = coming.result()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        return message["text"] if message.get("bytes") is None else message["bytes"]

    async def _tell(self, stream: Stream) -> None:
        """Every result as it comes, to the last; before that what was wrong, so that it is the last message."""
        while True:
            result = await self.hub.next(stream)
            if result.last and self._refused:
                await _send(self.socket, self.hub, messages.error(self._refused.text))
            await _send(self.socket, self.hub, messages.result(result))
            self.hub.sent(stream)
            self.hub.metrics.late(time.monotonic() - result.came_at)
            if result.last:
                return


async def _send(socket: WebSocket, hub: Hub, text: str) -> None:
    try:
        async with asyncio.timeout(hub.limits.idle_s):
            await socket.send_text(text)
    except TimeoutError:
        raise _Deaf from None


async def _refuse(socket: WebSocket, hub: Hub, refused: Refused) -> None:
    """Count it and close; the client has been told."""
    if refused.kind != "error":
        hub.metrics.refusals[refused.kind] += 1
    await _close(socket, hub, refused.code, refused.text)


async def _close(socket: WebSocket, hub: Hub, code: int, reason: str) -> None:
    try:
        async with asyncio.timeout(hub.limits.idle_s):
            await socket.close(code, _first_bytes(reason))
    except TimeoutError:
        raise _Deaf from None


def _first_bytes(reason: str) -> str:
    """A control frame has 125 bytes, and two of them are the code (RFC 6455, section 5.5)."""
    return reason.encode()[:123].decode(errors="ignore")
