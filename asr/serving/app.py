"""The addresses of the server: the page, /stream (WebSocket), /transcribe, /health, /ready and /metrics."""

import re
from ipaddress import ip_address

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asr.serving import live, metrics, page, upload
from asr.serving.hub import Hub

_LOCAL = re.compile(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?")


def make(hub: Hub) -> Starlette:
    """The application, over streams that are at work already."""

    async def stream(socket: WebSocket) -> None:
        if _foreign(socket, hub):
            hub.metrics.refusals["origin"] += 1
            await socket.send_denial_response(_not_from_here())
            return
        await live.serve(socket, hub)

    async def transcribe(request: Request) -> Response:
        if _foreign(request, hub):
            hub.metrics.refusals["origin"] += 1
            return _not_from_here()
        return await upload.serve(request, hub)

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        """Whether a new stream would be served."""
        if not hub.alive:
            return PlainTextResponse("stopping\n", 503)
        if hub.at_work >= hub.limits.streams:
            return PlainTextResponse(f"no room: {hub.limits.streams} of {hub.limits.streams} streams are in use\n", 503)
        return PlainTextResponse("ready\n")

    async def count(request: Request) -> Response:
        text = hub.metrics.text(hub.at_work, hub.limits.streams, hub.queued_s())
        return Response(text, media_type=metrics.CONTENT_TYPE)

    routes = [
        WebSocketRoute("/stream", stream),
        Route("/transcribe", transcribe, methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", count),
        *page.routes(),
    ]
    allowed = Middleware(
        CORSMiddleware, allow_origins=hub.limits.origins, allow_methods=["POST"], allow_headers=["Content-Type"]
    )
    app = Starlette(routes=routes, middleware=[allowed] if hub.limits.origins else [])
    app.router.redirect_slashes = False  # it would lead to whatever host the client names
    return app


def _foreign(connection: HTTPConnection, hub: Hub) -> bool:
    """Whether a page of another site asks. Programs that are no browsers name no origin."""
    origin = connection.headers.get("origin")
    if origin is None or origin in hub.limits.origins:
        return False
    host = connection.headers.get("host", "")
    if origin not in (f"http://{host}", f"https://{host}"):
        return True
    address, _ = connection.scope["server"]
    # the name of another site can be made to lead to this machine (DNS rebinding)
    return ip_address(address).is_loopback and not _LOCAL.fullmatch(host)


def _not_from_here() -> Response:
    return PlainTextResponse("this page may not use the server; it would have to be named by --allow-origin\n", 403)
