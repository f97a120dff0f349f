"""A real HTTP server on loopback that plays live media and fails as servers and networks do; and media to play."""

import contextlib
import itertools
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import numpy as np

from tests.webserver import serving


@dataclass(slots=True)
class Reply:
    """An answer. `cut_at`: the connection is reset after so many bytes; `hold`: it goes on when that is set."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True  # says a Content-Length; else the end of the connection is the end
    ranges: bool = True
    cut_at: int | None = None
    hold: threading.Event | None = None
    hold_at: int = 0


@dataclass
class Site:
    """`replies` of a path are used up one a request, the last one stays; or a function makes each."""

    replies: dict[str, list[Reply] | Callable[[], Reply]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and Range of each request
    url: str = ""

    def play(self, folder: Path) -> None:
        """The files of a folder."""
        for path in folder.iterdir():
            self.replies[f"/{path.name}"] = [Reply(path.read_bytes())]

    def reply(self, path: str) -> Reply:
        found = self.replies.get(path)
        if found is None:
            return Reply(status=404)
        return found() if callable(found) else found.pop(0) if len(found) > 1 else found[0]


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, format: str, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.site.asked.append((self.path, wanted))
        reply = self.site.reply(self.path.partition("?")[0])
        body, status, headers = reply.body, reply.status, dict(reply.headers)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        if span and reply.ranges and status == 200:
            begin, end = int(span[1]), int(span[2]) + 1 if span[2] else len(body)
            status, headers["Content-Range"] = 206, f"bytes {begin}-{end - 1}/{len(body)}"
            body = body[begin:end]
        if reply.length:
            headers["Content-Length"] = str(len(body))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(OSError):
                self._send(body, reply)

    def _send(self, body: bytes, reply: Reply) -> None:
        if reply.hold is not None:
            self.wfile.write(body[: reply.hold_at])
            reply.hold.wait(60)
            self.wfile.write(body[reply.hold_at :])
        elif reply.cut_at is None:
            self.wfile.write(body)
        else:
            self.wfile.write(body[: reply.cut_at])
            self.wfile.flush()
            # the kernel sends a reset when a socket that must not linger is closed
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    site = Site()
    with serving(_Handler, site=site) as server:
        site.url = server.url
        yield site


def encode(samples: np.ndarray, rate: int, to: str, form: str, codec: str, options: dict[str, str]) -> None:
    """A file of FFmpeg's muxer `form`; of `hls` a playlist and its segments beside it."""
    container = av.open(to, "w", format=form, options=options)
    stream = container.add_stream(codec, rate=rate, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.round(samples[None] * 32767).astype("<i2"), format="s16", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        container.mux(packet)
    container.close()


def hls(folder: Path, samples: np.ndarray, kind: str = "mpegts", codec: str = "aac", rate: int = 16000,
        name: str = "a", segment_s: float = 0.5) -> list[str]:  # fmt: skip
    """Segments of a recording in a folder, named `name`000.ts and so on; their lines in a playlist."""
    ending = "ts" if kind == "mpegts" else "m4s"
    options = {
        "hls_time": str(segment_s), "hls_list_size": "0", "hls_segment_type": kind, "hls_playlist_type": "vod",
        "hls_fmp4_init_filename": f"{name}.mp4", "hls_segment_filename": str(folder / f"{name}%03d.{ending}"),
    }  # fmt: skip
    encode(samples, rate, str(folder / f"{name}.m3u8"), "hls", codec, options)
    return (folder / f"{name}.m3u8").read_text().splitlines()


def entries(lines: list[str]) -> list[str]:
    """What a playlist says of each segment."""
    return [f"{a}\n{b}" for a, b in itertools.pairwise(lines) if a.startswith("#EXTINF")]


def playlist(segments: list[str], first: int = 0, ended: bool = False, target_s: int = 0, head: str = "") -> Reply:
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{target_s}", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
    text = "\n".join([*lines, *([head] if head else []), *segments, *(["#EXT-X-ENDLIST"] if ended else [])])
    return Reply(text.encode() + b"\n", headers={"Content-Type": "application/vnd.apple.mpegurl"})
