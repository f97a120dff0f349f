"""The page and its parts: read once, served from memory, allowed to load nothing but themselves."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from manifests import storage

_FOLDER = Path(__file__).resolve().parents[1] / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/transcript.js": ("transcript.js", "text/javascript"),
    "/recorder.js": ("recorder.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def routes() -> list[Route]:
    return [_route(path, storage.read_bytes(str(_FOLDER / name)), kind) for path, (name, kind) in _FILES.items()]


def _route(path: str, data: bytes, kind: str) -> Route:
    async def answer(request: Request) -> Response:
        return Response(data, media_type=kind, headers=_HEADERS)

    return Route(path, answer)
