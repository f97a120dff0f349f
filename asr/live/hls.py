"""HTTP Live Streaming: what a playlist says (RFC 8216, section 4), read without FFmpeg.

FFmpeg's own reader passes over segments that fail without a word and cannot go on where a connection broke; and a
playlist is somebody else's text, so nothing in it may reach FFmpeg's protocols.
"""

import math
import re
import statistics
from dataclasses import dataclass
from urllib.parse import urljoin

from asr.live.http import Unsafe, check_url
from manifests.storefaults import shown

MOST_CHARS = 200  # of what an error shows of somebody else's text
LIMIT_BYTES = 16 << 20  # of a playlist: that of a day of two-second segments has 5 MB

_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"]*"|[^,]*)')
_PICTURE = re.compile(r"avc|hvc|hev|vp0?[89]|av01|dvh|mp4v|theora", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a URL: `length` from `offset` on; None: all."""

    url: str
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    data: Part
    head: Part | None  # to be read before it where it differs from that of the segment before (EXT-X-MAP)
    duration_s: float
    breaks: bool  # EXT-X-DISCONTINUITY: from here on format and clock may be others


@dataclass(frozen=True, slots=True)
class Media:
    """Segments, numbered from `first` on. More may come unless `ended`."""

    first: int
    target_s: float
    segments: tuple[Segment, ...]
    ended: bool

    @property
    def end(self) -> int:
        return self.first + len(self.segments)

    @property
    def usual_s(self) -> float:
        """The duration of most segments."""
        return statistics.median(s.duration_s for s in self.segments) if self.segments else self.target_s

    def live_start(self) -> int:
        """Where to begin: of what still grows, three target durations before its end (RFC 8216, section 6.3.3)."""
        if self.ended:
            return self.first
        number, left_s = self.end, 3 * max(self.target_s, self.usual_s)
        while number > self.first and left_s > 0:
            number -= 1
            left_s -= self.segments[number - self.first].duration_s
        return number


@dataclass(frozen=True, slots=True)
class Choice:
    """A playlist of playlists: the one whose sound is to be read."""

    url: str


def parse(text: str, url: str) -> Media | Choice:
    """What a playlist says that was read from `url`. Raises ValueError for one that is none, or cannot be followed."""
    lines = [line.strip() for line in text.splitlines()]
    if not lines or not lines[0].startswith("#EXTM3U"):
        raise ValueError(f"{shown(url)}: is no HLS playlist (it does not begin with #EXTM3U)")
    try:
        if any(line.startswith("#EXT-X-STREAM-INF:") for line in lines):
            return Choice(_chosen(lines, url))
        return _media(lines, url)
    except Unsafe:
        raise
    except ValueError as err:
        raise ValueError(f"{shown(url)}: is no HLS playlist that can be read ({str(err)[:MOST_CHARS]})") from None


def _media(lines: list[str], url: str) -> Media:
    first, target_s, ended, breaks = 0, 0.0, False, False
    duration_s: float | None = None
    span: tuple[int, int | None] = (0, None)
    head: Part | None = None
    segments: list[Segment] = []
    for line in lines:
        tag, _, value = line.partition(":")
        if tag == "#EXTINF":
            duration_s = _seconds(value.partition(",")[0])
        elif tag == "#EXT-X-BYTERANGE":
            span = _span(value, segments[-1].data if segments else None)
        elif tag == "#EXT-X-TARGETDURATION":
            target_s = _seconds(value)
        elif tag == "#EXT-X-MEDIA-SEQUENCE":
            first = int(value)
        elif tag == "#EXT-X-DISCONTINUITY":
            breaks = True
        elif tag == "#EXT-X-ENDLIST":
            ended = True
        elif tag == "#EXT-X-MAP":
            head = _head(_attributes(value), url)
        elif tag == "#EXT-X-KEY" and _attributes(value).get("METHOD", "NONE") != "NONE":
            raise ValueError("it is encrypted, which is not read")
        elif line and not line.startswith("#") and duration_s is not None:
            segments.append(Segment(Part(_joined(url, line), *span), head, duration_s, breaks))
            duration_s, span, breaks = None, (0, None), False
    if first < 0:
        raise ValueError("it counts from below 0")
    return Media(first, target_s, tuple(segments), ended)


def _head(attributes: dict[str, str], url: str) -> Part:
    offset, length = _span(attributes["BYTERANGE"], None) if "BYTERANGE" in attributes else (0, None)
    return Part(_joined(url, attributes.get("URI", "")), offset, length)


def _span(value: str, before: Part | None) -> tuple[int, int | None]:
    """(offset, length) of `length[@offset]`; without an offset it follows the segment before."""
    length, _, offset = value.partition("@")
    begin = int(offset) if offset else (before.offset + (before.length or 0) if before else 0)
    if int(length) <= 0 or begin < 0:
        raise ValueError(f"a range of bytes is {value!r}")
    return begin, int(length)


def _seconds(value: str) -> float:
    seconds = float(value)
    if not (math.isfinite(seconds) and 0 <= seconds < 1e6):
        raise ValueError(f"a duration is {value!r}")
    return seconds


def _attributes(value: str) -> dict[str, str]:
    return {name: text.strip('"') for name, text in _ATTRIBUTE.findall(value)}


def _joined(base: str, url: str) -> str:
    joined = urljoin(base, url)
    check_url(joined)
    return joined


def _chosen(lines: list[str], url: str) -> str:
    """Sound alone where there is some, the best of it; else the smallest picture.

    A group of sounds (EXT-X-MEDIA) counts where it has a URL, the default one first.
    """
    sounds = [_attributes(line.partition(":")[2]) for line in lines if line.startswith("#EXT-X-MEDIA:")]
    sounds = [s for s in sounds if s.get("TYPE") == "AUDIO" and s.get("URI")]
    if sounds:
        sounds.sort(key=lambda s: s.get("DEFAULT") != "YES")
        return _joined(url, sounds[0]["URI"])
    best: tuple[tuple[bool, int], str] | None = None
    for number, line in enumerate(lines):
        if line.startswith("#EXT-X-STREAM-INF:"):
            facts = _attributes(line.partition(":")[2])
            target = next((after for after in lines[number + 1 :] if after and not after.startswith("#")), "")
            rate = int(facts.get("BANDWIDTH") or 0)
            alone = bool(facts.get("CODECS")) and not _PICTURE.search(facts["CODECS"]) and "RESOLUTION" not in facts
            rank = (alone, rate if alone else -rate)
            if target and (best is None or rank > best[0]):
                best = (rank, _joined(url, target))
    if best is None:
        raise ValueError("it names no stream")
    return best[1]
