"""The process around the application: sockets, signals, and an end in which every stream gets its last words."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from asr.serving import app
from asr.serving.hub import Hub
from asr.serving.limits import CONNECTIONS, DRAIN_S, HEAD_S, MESSAGE_BYTES, UNREAD_S, Limits
from asr.serving.metrics import Metrics
from asr.stream import Listener

_ABORT_S = 15.0  # after the end of a stream; uvicorn waits 10 s for the other side to close
_UNREAD_BYTES = 1 << 13  # results that wait in the system's buffer and in ours, each: of half a minute of speech
_SETTINGS: dict[str, Any] = {
    "ws_max_size": MESSAGE_BYTES,
    "ws_ping_interval": None,  # its answer waits behind the audio of a client that is held back
    "ws_per_message_deflate": False,  # sound does not get smaller by it
    "lifespan": "off",
    "log_level": "error",  # what is wrong with a client's request is told to the client
    "access_log": False,  # an address may have hotwords in it
    "server_header": False,
    "proxy_headers": False,  # nothing here asks who the client is
    "timeout_graceful_shutdown": 5,
}


class _Http(H11Protocol):
    """HTTP of a client that may dawdle. h11 bounds the head of a request to 64 kB (httptools does not); the head has to
    come in time, and the answer to be read in time, or the connection is cut."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._timers: dict[str, asyncio.TimerHandle] = {}
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells of every byte that waits
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        """A body that comes when the answer is out already is as good as no head."""
        if self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE:
            self._cut_off("head", HEAD_S)
        else:
            self._spare("head")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cut_off("unread", UNREAD_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._spare("unread")

    def _cut_off(self, why: str, after_s: float) -> None:
        if why not in self._timers:
            self._timers[why] = self.loop.call_later(after_s, self.transport.abort)

    def _spare(self, why: str) -> None:
        if timer := self._timers.pop(why, None):
            timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._spare("head")
        self._spare("unread")

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """What comes before the answer to the handshake would be lost: a client must wait (RFC 6455, section 4.1)."""
        if self.conn.trailing_data[0] or event.method != b"GET" or event.http_version != b"1.1":
            self.send_400_response("A WebSocket begins with GET and HTTP/1.1, and waits for the answer.")
        else:
            super().handle_websocket_upgrade(event)


class _Socket(WebSocketsSansIOProtocol):
    """A WebSocket with small buffers, which is cut in the end: closing alone waits for ever for a deaf client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=_UNREAD_BYTES)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)

    def handle_ping(self) -> None:
        """A deaf client's are not answered: the answers would pile up, 12 MB a second (RFC 6455, section 5.5.3)."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def send_receive_event_to_app(self) -> None:
        """A text that is not UTF-8 goes on as an empty one, which is refused as no JSON is: uvicorn itself would close
        the connection without a word to the client, and with a traceback in the log."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = [b""]
        super().send_receive_event_to_app()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # else a refusal is logged as an error of ours

    def on_task_complete(self, task: "asyncio.Task[None]") -> None:
        super().on_task_complete(task)
        self.loop.call_later(_ABORT_S, self.transport.abort)


class Server(uvicorn.Server):
    """`started` is told the port; the server ends after SIGTERM, Ctrl-C or `should_exit`."""

    def __init__(self, hub: Hub, started: Callable[[int], None]) -> None:
        super().__init__(uvicorn.Config(app.make(hub), http=_Http, ws=_Socket, **_SETTINGS))
        self._hub, self._started = hub, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()  # nobody else comes in
        await self._hub.drain(DRAIN_S)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but a signal that was obeyed is not raised again: the command ends well."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals come to the main thread alone
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bind(host: str, port: int) -> socket.socket:
    """The server's socket. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=512)
    except OSError as err:
        raise OSError(err.errno, os.strerror(err.errno or 0), f"{host} port {port}") from None
    # asyncio does so for sockets of its own; without it the second of two results waits 40 ms for the client's ACK
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def run(
    listener: Listener, limits: Limits, hotwords: Sequence[str], bound: socket.socket, started: Callable[[int], None]
) -> Metrics:
    """Serve until SIGTERM or Ctrl-C."""

    async def serve() -> Metrics:
        hub = Hub(listener, limits, hotwords)
        try:
            await Server(hub, started).serve([bound])
        finally:
            hub.stop()
        return hub.metrics

    with bound:
        return asyncio.run(serve())
