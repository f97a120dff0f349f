"""A real HTTP server on loopback that serves archives and, when asked to, fails as servers and networks do."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.webserver import serving


@dataclass(slots=True)
class Fault:
    """What happens to one request. `cut_at`: the connection ends after so many bytes of the body."""

    status: int = 0  # an answer of this status instead of the file
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    reset: bool = False  # it ends with a reset, not with an orderly close
    hold_at: int | None = None  # after so many bytes nothing comes until `release` is set
    before: Callable[[], None] = lambda: None  # called before the answer


@dataclass(slots=True)
class Seen:
    """One request as it was answered."""

    path: str
    range: str
    status: int
    sent: int = 0  # bytes of the body


@dataclass
class Site:
    """Files by path (without the query), and how they are served. `faults` are used up one a request."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    ranges: bool = True
    framing: str = "length"  # how the end is told: by a Content-Length, "chunked", or "close" of the connection
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(seen.sent for seen in self.seen)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        path = path.removeprefix(site.url)  # a proxy is asked for whole URLs
        seen = Seen(self.path, self.headers.get("Range", ""), 404)
        site.seen.append(seen)
        fault = site.faults.pop(0) if site.faults else Fault()
        fault.before()
        data = site.files.get(path)
        seen.status = fault.status or (404 if data is None else 200)
        if seen.status != 200 or data is None:
            self._answer(seen.status, {"Content-Length": "0"} | fault.headers)
            return
        begin, end = self._span(len(data))
        headers = {"ETag": site.etag, "Content-Type": "application/gzip"} | fault.headers
        if begin:
            seen.status = 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            if begin >= len(data):
                seen.status, headers["Content-Range"], data = 416, f"bytes */{len(data)}", b""
        if site.framing == "length":
            headers.setdefault("Content-Length", str(len(data[begin:end])))
        elif site.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Connection"] = "close"
            self.close_connection = True
        self._answer(seen.status, headers)
        with contextlib.suppress(OSError):
            self._body(data[begin:end], fault, seen)

    def _span(self, size: int) -> tuple[int, int]:
        """The bytes that are asked for; of a range that begins at 0 all."""
        begin, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        same = self.headers.get("If-Range", self.site.etag) == self.site.etag
        if not begin or begin == "0" or not same or not self.site.ranges:
            return 0, size
        return int(begin), int(last) + 1 if last else size

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _body(self, body: bytes, fault: Fault, seen: Seen) -> None:
        stop = min(x for x in (fault.cut_at, fault.hold_at, len(body)) if x is not None)
        self._send(body[:stop], seen)
        if fault.hold_at is not None:
            self.site.held.set()
            self.site.release.wait(60)
            self._send(body[stop:], seen)
        elif fault.cut_at is not None:
            self.close_connection = True
            if fault.reset:  # the kernel sends one when a socket that must not linger is closed
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            return
        if self.site.framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, piece: bytes, seen: Seen) -> None:
        if piece:
            chunked = self.site.framing == "chunked"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.wfile.flush()
            seen.sent += len(piece)


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    site = Site()
    with serving(_Handler, site=site) as server:
        site.url = server.url
        try:
            yield site
        finally:
            site.release.set()
