"""Web pages: yt-dlp itself finds what pages on loopback play."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from livesite import Reply, Site, entries, hls, playlist

from asr.live import page as live_page
from asr.live import playlist as live_playlist
from asr.live import url as live_url
from asr.live.feed import Feed, Gap, Note
from tests.ytdlp_plugins import installed

RATE = 16000
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = '<!doctype html><html><head><title>A talk</title></head><body><video src="{}" type="{}"></video></body></html>'

# As yt-dlp loads extractors from packages that are installed beside it: what the server says is all that is known.
EXTRACTOR = r"""
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import ExtractorError

class ToyLiveIE(InfoExtractor):
    _VALID_URL = r"https?://127\.0\.0\.1:\d+/toylive/(?P<id>[\w-]+)"

    def _real_extract(self, url):
        info = self._download_json(url.replace("/toylive/", "/about/"), self._match_id(url))
        if info.get("error"):
            raise ExtractorError(info["error"], expected=True)
        return info
"""


@pytest.fixture(scope="module", autouse=True)
def toylive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("plugins"), "toylive", EXTRACTOR):
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hls")
    hls(folder, (0.2 * np.sin(np.arange(3 * RATE) / 5)).astype(np.float32))
    return folder


def heard(url: str) -> tuple[int, list[Gap | Note]]:
    """Samples, and what lay between them."""
    feed = Feed(RATE)
    live_url.start(url, feed)
    count, events = 0, []
    while (item := feed.take(RATE)) is not None:
        if isinstance(item, np.ndarray):
            count += len(item)
        else:
            events.append(item)
    return count, events


def info(site: Site, **facts: object) -> Reply:
    """What the toy says of a live stream."""
    form = {"url": f"{site.url}/a.m3u8", "protocol": "m3u8_native", "ext": "mp4", "format_id": "1"}
    return Reply(json.dumps({"id": "talk", "title": "A talk", "formats": [form], **facts}).encode())


def test_what_a_page_plays_is_heard(site: Site, recorded: Path) -> None:
    """As yt-dlp's generic extractor finds it."""
    site.play(recorded)
    page = PAGE.format(f"{site.url}/a.m3u8", "application/x-mpegURL")
    site.replies["/talk"] = [Reply(page.encode(), headers=HTML)]
    count, events = heard(f"{site.url}/talk")
    assert abs(count - 3 * RATE) <= 3 * 1024 and events == []


def test_a_live_page_is_asked_again_where_its_stream_has_gone(site: Site, recorded: Path) -> None:
    """Addresses of live streams end after some hours. Nothing is lost: numbers of segments go on."""
    site.play(recorded)
    segments = entries((recorded / "a.m3u8").read_text().splitlines())
    site.replies["/toylive/talk"] = [Reply(b"<html>", headers=HTML)]
    moved = {"url": f"{site.url}/b.m3u8", "protocol": "m3u8_native", "ext": "mp4", "format_id": "1"}
    site.replies["/about/talk"] = [info(site, is_live=True), info(site, is_live=True, formats=[moved])]
    site.replies["/a.m3u8"] = [playlist(segments[:3]), Reply(status=403)]
    site.replies["/b.m3u8"] = [playlist(segments, ended=True)]
    count, events = heard(f"{site.url}/toylive/talk")
    assert abs(count - 3 * RATE) <= 3 * 1024
    assert [event for event in events if isinstance(event, Gap)] == []


def test_a_live_page_whose_stream_has_ended_ends_it(
    site: Site, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its playlist never says so."""
    monkeypatch.setattr(live_playlist, "STALE_S", 0.01)
    site.play(recorded)
    segments = entries((recorded / "a.m3u8").read_text().splitlines())
    site.replies["/toylive/talk"] = [Reply(b"<html>", headers=HTML)]
    site.replies["/about/talk"] = [info(site, is_live=True), info(site, live_status="post_live", formats=[])]
    site.replies["/a.m3u8"] = [playlist(segments[:2])]
    count, events = heard(f"{site.url}/toylive/talk")
    assert abs(count - RATE) <= 3 * 1024 and events == []


@pytest.mark.parametrize(
    ("about", "error"),
    [
        ({"error": "This live event will begin in 3 hours."}, "finds no audio: .*will begin in 3 hours"),
        ({"live_status": "is_upcoming", "formats": []}, "has not begun"),
        ({"formats": [{"url": "file:///etc/passwd", "format_id": "1"}]}, "in a form that can be read|is not followed"),
        ({"formats": [{"url": "rtmp://h/x", "format_id": "1"}]}, "in a form that can be read"),
        ({"_type": "playlist", "entries": [{"id": "a", "url": "http://h/a.mp3"}, {"id": "b", "url": "http://h/b.mp3"}]},
         "is a list of recordings"),
    ],
)  # fmt: skip
def test_a_page_that_plays_nothing_is_an_error_of_one_line(site: Site, about: dict[str, object], error: str) -> None:
    site.replies["/toylive/talk"] = [Reply(b"<html>", headers=HTML)]
    site.replies["/about/talk"] = [info(site, **about)]
    with pytest.raises(ValueError, match=error) as raised:
        heard(f"{site.url}/toylive/talk")
    assert "\n" not in str(raised.value)


def test_a_page_without_media_is_an_error_of_one_line(site: Site) -> None:
    site.replies["/login"] = [Reply(b"<html><body>Please log in.</body></html>", headers=HTML)]
    with pytest.raises(ValueError, match=r"/login: is a web page on which yt-dlp finds no audio: \S"):
        heard(f"{site.url}/login?password=secret")


@pytest.mark.parametrize(("body", "kind"), [(b"<!DOCTYPE html>\n<p>", "audio/mpeg"), (b"<p>no</p>", "text/html")])
def test_without_yt_dlp_a_page_says_what_to_install(
    site: Site, monkeypatch: pytest.MonkeyPatch, body: bytes, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    site.replies["/talk"] = [Reply(body, headers={"Content-Type": kind})]
    with pytest.raises(ValueError, match=r"/talk: is a web page, not audio; .* pip install '\.\[youtube\]'"):
        heard(f"{site.url}/talk")


def test_headers_of_a_page_go_to_its_media(site: Site) -> None:
    found = live_page._found("http://h/page", {"url": "http://h/a", "http_headers": {"Referer": "x", "Bad": "a\nb: c"}})
    assert found is not None and found.place.headers == {"Referer": "x"}
