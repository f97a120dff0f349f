"""Live media over http(s): a first look at what a URL is, its bytes as they come, and patience with what breaks."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import urllib3

from asr.live.feed import Feed
from manifests import web
from manifests.storefaults import shown

CONNECT_S = 10.0
READ_S = 30.0  # without a single byte
PAUSE_S = 0.5  # after the first failure, then twice as long each time
PAUSE_LIMIT_S = 15.0
GIVE_UP_S = 300.0  # in which nothing came

_PIECE_BYTES = 64 << 10
_HTML = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.DOTALL)


class Refused(ValueError):
    """An answer that is none of those that may pass. `status` is HTTP's."""

    def __init__(self, url: str, status: int) -> None:
        self.status, self.answer = status, f"the server answers {web.named(status)}"
        super().__init__(f"{shown(url)}: {self.answer}")


class Unsafe(ValueError):
    """A URL of another scheme than http(s)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where media are, and what a server wants to be told by who reads them."""

    url: str
    headers: Mapping[str, str]


class Answer:
    """What a server sends for a URL from a position on, which it may ignore: `position` is that of the first byte.

    `size_bytes` is where it says that the bytes end; `url` is the one behind redirections.
    """

    def __init__(self, place: Place, position: int = 0, end: int | None = None) -> None:
        """Raises web.Cut for what may pass, Refused and Unsafe."""
        self._place = place
        check_url(place.url)
        headers = {"User-Agent": "speechmill", "Accept-Encoding": "identity", **place.headers}
        if position or end is not None:
            headers["Range"] = f"bytes={position}-{'' if end is None else end - 1}"
        with web.failures(place.url, CONNECT_S, READ_S):
            self._pool = web.pool(place.url, CONNECT_S, READ_S)
            self._response = self._pool.request(
                "GET", place.url, headers=headers, preload_content=False, decode_content=False
            )
        self.headers = self._response.headers
        self.url = self._response.geturl() or place.url
        self.url = place.url if "://" not in self.url else self.url
        _check_status(place.url, self._response)
        self.position = position if self._response.status == 206 else 0  # of the first byte that comes
        length = self.headers.get("Content-Length", "")
        self.size_bytes = self.position + int(length) if length.isdecimal() else None
        self._first = self._read()

    def _read(self) -> bytes:
        with web.failures(self._place.url, CONNECT_S, READ_S):
            return self._response.read1(_PIECE_BYTES, decode_content=False)

    @property
    def is_page(self) -> bool:
        """HTML, by what it says or what it is."""
        kind = self.headers.get("Content-Type", "").lower()
        return kind.startswith(("text/html", "application/xhtml")) or bool(_HTML.match(self._first))

    @property
    def is_playlist(self) -> bool:
        return self._first.removeprefix(b"\xef\xbb\xbf").startswith(b"#EXTM3U")

    @property
    def is_radio(self) -> bool:
        """A station of Icecast or Shoutcast, which never ends by itself."""
        return any(name.lower().startswith("icy-") for name in self.headers)

    def __iter__(self) -> Iterator[bytes]:
        """Raises web.Cut where the connection breaks, also when it ends before the stated length."""
        piece, position = self._first, self.position
        try:
            while piece:
                position += len(piece)
                yield piece
                piece = self._read()
        finally:
            self.close()
        if self.size_bytes is not None and position < self.size_bytes:
            raise web.Cut(f"the server ended after {position} of {self.size_bytes} bytes")

    def close(self) -> None:
        self._response.close()
        self._pool.clear()


def check_url(url: str) -> None:
    """Raises Unsafe for what is no http(s): no playlist, page or redirection may name a file of this machine."""
    if not re.match(r"https?://[^/]", url, re.IGNORECASE):
        raise Unsafe(f"{shown(url)[:200]}: is not followed; live media come over http:// and https:// alone")


def small_text(answer: Answer, limit_bytes: int) -> str:
    """A small file. Raises web.Cut, and ValueError for a large one."""
    data = bytearray()
    for piece in answer:
        data += piece
        if len(data) > limit_bytes:
            answer.close()
            raise ValueError(f"{shown(answer.url)}: has more than {limit_bytes >> 20} MiB, so it is no playlist")
    return data.decode("utf-8-sig", errors="replace")


def _check_status(url: str, response: urllib3.BaseHTTPResponse) -> None:
    status = response.status
    if status in (200, 206):
        return
    response.close()
    if status in web.BUSY or status >= 500:
        raise web.Cut(
            f"the server answers {web.named(status)}", web.retry_after_s(response.headers.get("Retry-After", ""))
        )
    raise Refused(url, status)


class Patience:
    """How long a source tries again what fails: while not `GIVE_UP_S` have gone by in which nothing came."""

    def __init__(self, feed: Feed, what: str) -> None:
        self._feed, self._what = feed, what
        self.in_a_row = 0
        self._since_s = time.monotonic()

    @property
    def at_an_end(self) -> bool:
        return self.lost_s > GIVE_UP_S

    @property
    def lost_s(self) -> float:
        """Since something came."""
        return time.monotonic() - self._since_s

    def progressed(self) -> None:
        self.in_a_row, self._since_s = 0, time.monotonic()

    def failed(self, reason: str, after_s: float | None = None) -> None:
        """Wait a while. Raises ValueError when nothing has come for too long, and Stopped."""
        self.in_a_row += 1
        pause_s = min(PAUSE_LIMIT_S, PAUSE_S * 2 ** (self.in_a_row - 1)) if after_s is None else after_s
        if self.lost_s + pause_s > GIVE_UP_S:
            tries = "1 try" if self.in_a_row == 1 else f"{self.in_a_row} tries"
            raise ValueError(f"{self._what}: {reason}; gave up after {tries} in {self.lost_s:.0f} s")
        self._feed.note(f"{self._what}: {reason}; trying again in {pause_s:.1f} s")
        self._feed.pause(pause_s)
