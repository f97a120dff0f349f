"""The process around the application: sockets, signals, and an end in which every stream gets its last words."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from asr.serving import app
from asr.serving.hub import Hub
from asr.serving.limits import DRAIN_S, MESSAGE_BYTES, Limits
from asr.serving.metrics import Metrics
from asr.stream import Listener

_ABORT_S = 15.0  # after the end of a stream; uvicorn waits 10 s for the other side to close
_UNREAD_BYTES = 1 << 13  # results that wait in the system's buffer and in ours, each: of half a minute of speech
_SETTINGS: dict[str, Any] = {
    "ws_max_size": MESSAGE_BYTES,
    "ws_ping_interval": None,  # its answer waits behind the audio of a client that is held back
    "ws_per_message_deflate": False,  # sound does not get smaller by it
    "lifespan": "off",
    "log_level": "warning",
    "access_log": False,  # an address may have hotwords in it
    "server_header": False,
    "timeout_graceful_shutdown": 5,
}


class _Socket(WebSocketsSansIOProtocol):
    """A WebSocket with small buffers, which is cut in the end: closing alone waits for ever for a deaf client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=_UNREAD_BYTES)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)

    def on_task_complete(self, task: "asyncio.Task[None]") -> None:
        super().on_task_complete(task)
        self.loop.call_later(_ABORT_S, self.transport.abort)


class Server(uvicorn.Server):
    """`started` is told the port; the server ends after SIGTERM, Ctrl-C or `should_exit`."""

    def __init__(self, hub: Hub, started: Callable[[int], None]) -> None:
        super().__init__(uvicorn.Config(app.make(hub), ws=_Socket, **_SETTINGS))
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
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as err:
        raise OSError(err.errno, os.strerror(err.errno or 0), f"{host} port {port}") from None


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
