"""The bytes of an http(s) URL from any position on, through cut connections and busy servers.

Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (Range). A URL's query may be a secret, as
in pre-signed URLs: nothing that is shown or kept has it.
"""

import contextlib
import random
import re
import shlex
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import urllib3

from manifests.storefaults import shown
from manifests.web import BUSY, Cut, failures, named, pool, retry_after_s

TRIES = 6  # in a row that bring no byte more than was had before
BACK_OFF_S = 1.0  # after the first failure, then twice as long each time
RETRY_AFTER_LIMIT_S = 600.0  # a server that wants a longer pause is left to the user
CONNECT_S = 30.0
READ_S = 60.0  # without a single byte
CHUNK_BYTES = 1 << 20

_URL = re.compile(r"(://)([^/?#]*@)?([^?#]*)(\?[^#]*)?", re.DOTALL)
_NO_SECRET = ("v=", "list=")
_WHY = {
    401: "it asks for a login",
    403: "it does not give the file away: a link of limited life has ended, or terms are to be accepted first",
    404: "there is no such file",
    410: "the file is gone",
}


class Changed(Exception):
    """What comes is no continuation of what came before: all must begin anew."""


@dataclass(frozen=True, slots=True)
class Version:
    """What tells a file on a server from what it was at another time. Any of it may be unknown (None, "")."""

    size_bytes: int | None
    etag: str
    modified: str

    def condition(self) -> str:
        """The value of If-Range. RFC 9110 allows no weak tag there."""
        return (self.modified if not self.etag else self.etag) if not self.etag.startswith("W/") else ""

    def differs(self, other: "Version") -> bool:
        sizes = (self.size_bytes, other.size_bytes)
        tags = (self.etag, other.etag) if self.etag and other.etag else (self.modified, other.modified)
        return (None not in sizes and sizes[0] != sizes[1]) or (all(tags) and tags[0] != tags[1])


class Patience:
    """How often something may fail: `TRIES` times in a row, where a byte more than ever before ends the row."""

    def __init__(self, what: str) -> None:
        self.failures = 0  # all of them
        self._what = what
        self._in_a_row = 0
        self._furthest = 0

    def reached(self, position: int) -> None:
        if position > self._furthest:
            self._furthest, self._in_a_row = position, 0

    def failed(self, reason: str, after_s: float | None = None) -> None:
        """Wait. Raises ValueError when that was the last try."""
        self.failures += 1
        self._in_a_row += 1
        if self._in_a_row >= TRIES:
            raise ValueError(f"{self._what}: {reason}; gave up after {TRIES} tries. The same command goes on from here")
        wait_s = BACK_OFF_S * 2 ** (self._in_a_row - 1) * random.uniform(0.5, 1.0) if after_s is None else after_s
        if wait_s > RETRY_AFTER_LIMIT_S:
            raise ValueError(f"{self._what}: {reason}; the server asks to come back in {wait_s / 60:.0f} minutes")
        print(f"{self._what}: {reason}; trying again in {wait_s:.0f} s", file=sys.stderr, flush=True)
        time.sleep(wait_s)


def shown_command(words: Iterable[str]) -> str:
    """A command as a shell takes it, with `...` where a URL in it has what may be secret."""
    return shlex.join(_URL.sub(_hide, word) for word in words)


def _hide(url: re.Match[str]) -> str:
    start, login, place, query = url.groups(default="")
    # v and list say which video, which playlist
    pairs = [pair if pair.startswith(_NO_SECRET) else "..." for pair in query[1:].split("&")]
    return f"{start}{'...@' if login else ''}{place}{'?' if query else ''}{'&'.join(pairs)}"


def follow(
    url: str,
    position: int,
    version: Version | None,
    size_bytes: int | None,
    patience: Patience,
    learned: Callable[[Version], None],
) -> Generator[bytes, None, None]:
    """The bytes from `position` to the end. `version`: what is known of the file if some of it came before.

    `size_bytes` is the published size, for servers that do not tell. `learned` is told what each answer says of the
    file before its bytes come; what it raises comes through. Raises Changed when the file is another one, or when the
    server sends whole files only; ValueError when the server refuses or patience has ended.
    """
    end = version.size_bytes if version and version.size_bytes is not None else size_bytes
    while end is None or position < end or version is None:
        try:
            with _answer(url, position, version) as (response, version):
                learned(version)
                end = version.size_bytes if version.size_bytes is not None else size_bytes
                for chunk in _body(response):
                    position += len(chunk)
                    patience.reached(position)
                    yield chunk
            if end is None:
                return
            if position < end:
                raise Cut(f"the server ended after {position} of {end} bytes")
        except Cut as cut:
            patience.failed(str(cut), cut.after_s)


@contextlib.contextmanager
def _answer(url: str, position: int, known: Version | None) -> Iterator[tuple[urllib3.BaseHTTPResponse, Version]]:
    headers = {"User-Agent": "speechmill", "Accept-Encoding": "identity"}
    if position:
        headers["Range"] = f"bytes={position}-"
        if known and known.condition():
            headers["If-Range"] = known.condition()
    with failures(url, CONNECT_S, READ_S):
        response = pool(url, CONNECT_S, READ_S).request(
            "GET", url, headers=headers, preload_content=False, decode_content=False
        )
    try:
        yield response, _checked(url, response, position, known)
    finally:
        response.close()


def _checked(url: str, response: urllib3.BaseHTTPResponse, position: int, known: Version | None) -> Version:
    """What an answer says of the file, if it has the bytes asked for; any other raises."""
    status = response.status
    if status in BUSY or status >= 500:
        raise Cut(f"the server answers {named(status)}", retry_after_s(response.headers.get("Retry-After", "")))
    if status == 416:  # the file ends before
        raise Changed("the file on the server has changed; fetching it anew")
    if status not in (200, 206):
        why = f": {_WHY[status]}" if status in _WHY else ""
        raise ValueError(f"{shown(url)}: the server answers {named(status)}{why}")
    begin, total = "0", response.headers.get("Content-Length", "")
    if status == 206:  # Content-Range: bytes 100-199/200
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        begin = span.partition("-")[0]
    size_bytes = int(total) if total.isdigit() else known.size_bytes if known else None
    version = Version(size_bytes, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
    if known and known.differs(version):
        raise Changed("the file on the server has changed; fetching it anew")
    if begin != str(position):
        raise Changed("the server sends whole files only; fetching it from the start again")
    return version


def _body(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    while True:
        with failures("", CONNECT_S, READ_S):
            chunk = response.read1(CHUNK_BYTES, decode_content=False)
        if not chunk:
            return
        yield chunk
