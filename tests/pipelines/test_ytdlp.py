"""Fetching videos: yt-dlp itself against sites on loopback, which also fail as sites do."""

import argparse
import io
import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from manifests.schema import Dropped
from pipelines.candidates import Candidate, toy
from pipelines.corpora import youtube
from pipelines.youtube import queue, ytdlp
from pipelines.youtube.queue import Bucket
from tests.ytdlp_plugins import installed

FREE = "Creative Commons Attribution license (reuse allowed)"
CAPTIONS = "WEBVTT\n\n00:00.500 --> 00:02.500\n>> A page that speaks,\n\n00:02.500 --> 00:04.000\nand its captions.\n"
JSON3 = json.dumps({"events": [{"tStartMs": 500, "dDurationMs": 2500, "segs": [{"utf8": "Said in json3."}]}]})

# An extractor as yt-dlp loads them from packages that are installed beside it: what the server says of a video is all
# that is known of it. No site that can be served here states a licence.
EXTRACTOR = r"""
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import ExtractorError

class ToyTubeIE(InfoExtractor):
    _VALID_URL = r"https?://127\.0\.0\.1:\d+/watch/(?P<id>[\w-]+)"

    def _real_extract(self, url):
        info = self._download_json(url.replace("/watch/", "/about/"), self._match_id(url))
        if info.get("error"):
            raise ExtractorError(info["error"], expected=True)
        return info

class ToyTubeListIE(InfoExtractor):
    _VALID_URL = r"https?://127\.0\.0\.1:\d+/list/(?P<id>[\w-]+)"

    def _real_extract(self, url):
        urls = self._download_json(url.replace("/list/", "/about/"), self._match_id(url))
        return self.playlist_result([self.url_result(one) for one in urls], self._match_id(url), "a list")
"""


@dataclass
class Site:
    """Pages by path; requests as they came in, with their Range. `faults`: statuses to answer with first."""

    pages: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ranges: dict[str, list[str]] = field(default_factory=dict)
    faults: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # bytes after which the connection breaks
    url: str = ""

    def sound(self) -> list[str]:
        """Requests for audio."""
        return [path for path in self.asked if path.endswith(".mp3")]

    def video(self, id: str, **info: Any) -> str:
        """A video of five seconds with uploaded captions in English unless `info` says otherwise; its URL."""
        self.pages[f"/{id}.mp3"] = mp3(id)
        self.pages["/captions.vtt"] = CAPTIONS.encode()
        self.pages["/captions.json3"] = JSON3.encode()
        about = {
            "id": id,
            "title": f"The video {id}",
            "channel": "Toys",
            "license": FREE,
            "language": "en",
            "duration": 5,
            "formats": [{"url": f"{self.url}/{id}.mp3", "ext": "mp3", "vcodec": "none", "format_id": "sound"}],
            "subtitles": {"en": self.track()},
            **info,
        }
        self.pages[f"/about/{id}"] = json.dumps(about).encode()
        return f"{self.url}/watch/{id}"

    def track(self) -> list[dict[str, str]]:
        return [{"url": f"{self.url}/captions.{ext}", "ext": ext} for ext in ("json3", "vtt")]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        site.asked.append(path)
        wanted = self.headers.get("Range", "")
        site.ranges.setdefault(path, []).append(wanted)
        faults = site.faults.get(path, [])
        status = faults.pop(0) if faults else 200 if path in site.pages else 404
        body = site.pages[path] if status == 200 else b"no"
        start = 0
        if status == 200 and (match := re.match(r"bytes=(\d+)-", wanted)):
            status, start = 206, int(match[1])
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        kinds = {"mp3": "audio/mpeg", "vtt": "text/vtt", "html": "text/html"}
        self.send_header("Content-Type", kinds.get(path.rpartition(".")[2], "application/json"))
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if path in site.cut and status in (200, 206):
            self.wfile.write(body[start : max(start, site.cut[path])])
            self.connection.close()
            return
        self.wfile.write(body[start:])

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfSite", (Handler,), {"site": site}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module", autouse=True)
def toytube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("plugins"), "toytube", EXTRACTOR):
        yield


def mp3(name: str, duration_s: float = 5.0) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, toy(name, duration_s, 48000), 48000, format="MP3")
    return data.getvalue()


def arguments(root: Path, *argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    youtube.add_arguments(parser)
    args = parser.parse_args(["--root", str(root), "--sleep-s", "0", "--videos-per-hour", "1e9", *argv])
    args.json = False
    return args


def fetched(root: Path, *argv: str) -> tuple[list[Candidate], dict[str, str]]:
    """Fetch, then list: the utterances, and reasons by id of what was dropped."""
    args = arguments(root, *argv)
    youtube.fetch(args)
    return listed(args)


def listed(args: argparse.Namespace) -> tuple[list[Candidate], dict[str, str]]:
    rows = list(youtube.candidates(args))
    return [r for r in rows if isinstance(r, Candidate)], {r.id: r.reason for r in rows if isinstance(r, Dropped)}


def test_a_plain_page_with_audio_and_captions(site: Site, tmp_path: Path) -> None:
    site.pages["/talk.html"] = (
        b"<html><head><title>A talk</title></head><body><audio src=/talk.mp3><track kind=captions srclang=en "
        b"src=/talk.vtt><track kind=captions srclang=de src=/de.vtt></audio></body></html>"
    )
    site.pages["/talk.mp3"], site.pages["/talk.vtt"] = mp3("talk"), CAPTIONS.encode()
    utterances, dropped = fetched(tmp_path, "--any-licence", "--urls", f"{site.url}/talk.html")
    assert dropped == {}
    (one,) = utterances
    assert one.text_raw == "A page that speaks, and its captions."
    assert (one.offset_s, one.duration_s) == (0.5, 3.5)
    assert Path(one.audio).read_bytes() == site.pages["/talk.mp3"]
    assert (one.licence, one.source) == ("not stated", f"{site.url}/talk.html")
    told = json.loads(one.extra)
    assert (told["video"], told["captions"], told["track"]) == ("talk-1", "uploaded", "en")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", told["fetched"]) and re.match(r"\d{4}\.", told["yt_dlp"])
    assert "/de.vtt" not in site.asked


def test_without_a_free_licence_no_sound_is_downloaded(site: Site, tmp_path: Path) -> None:
    url = site.video("Uh0hL1cence", license=None)
    assert fetched(tmp_path, "--urls", url) == ([], {"Uh0hL1cence": "licence"})
    assert site.asked == ["/about/Uh0hL1cence"]


def test_a_free_video_comes_with_the_best_captions_and_a_second_run_asks_for_nothing(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = site.video("Fr33V1deo_1")
    (one,), dropped = fetched(tmp_path, "--urls", url)
    assert (one.text_raw, one.licence, one.split, dropped) == ("Said in json3.", FREE, "train", {})
    assert site.asked == ["/about/Fr33V1deo_1", "/captions.json3", "/Fr33V1deo_1.mp3"]
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    stem = folder.name
    names = {"fetch.json", f"{stem}.en.json3", f"{stem}.info.json", f"{stem}.mp3"}
    assert {path.name for path in folder.iterdir()} == names
    assert f"1/1 {stem}: 5 s, uploaded captions in en" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    site.asked.clear()
    (again,), _ = fetched(tmp_path, "--urls", url, url)
    assert again == one and site.asked == []
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_captions_that_a_machine_wrote_come_only_when_they_are_asked_for(site: Site, tmp_path: Path) -> None:
    recognised = {"en-orig": site.track(), "en": site.track(), "de": site.track()}
    url = site.video("Aut0mat1c_1", subtitles={"de": site.track()}, automatic_captions=recognised, language=None)
    assert fetched(tmp_path, "--urls", url)[1].popitem()[1] == "automatic captions"
    assert site.sound() == []
    (one,), dropped = fetched(tmp_path, "--urls", url, "--automatic-captions")
    assert (one.split, json.loads(one.extra)["track"], dropped) == ("train-automatic", "en-orig", {})
    # without the option what lies there is not used either
    assert listed(arguments(tmp_path))[1].popitem()[1] == "automatic captions"


def test_a_video_that_is_gone_is_not_asked_for_again_but_one_that_was_busy_is(site: Site, tmp_path: Path) -> None:
    private, busy, missing = site.video("Pr1vate_vid"), site.video("Busy_video1"), f"{site.url}/watch/N0tThere_01"
    site.pages["/about/Pr1vate_vid"] = json.dumps({"error": "Private video. Sign in if you may see it"}).encode()
    site.faults["/about/Busy_video1"] = [503]
    utterances, dropped = fetched(tmp_path, "--urls", private, busy, missing)
    assert utterances == [] and set(dropped.values()) == {"not available"} and len(dropped) == 3
    details = {row.detail for row in youtube.candidates(arguments(tmp_path)) if isinstance(row, Dropped)}
    assert any("Private video" in d for d in details) and any("503" in d for d in details)
    site.asked.clear()
    utterances, dropped = fetched(tmp_path, "--urls", private, busy, missing)
    assert site.asked[0] == "/about/Busy_video1" and not {"/about/Pr1vate_vid", "/about/N0tThere_01"} & set(site.asked)
    assert len(utterances) == 1 and len(dropped) == 2  # what failed first left no row behind


def test_playlists_are_taken_one_by_one_and_a_bad_video_does_not_stop_them(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [site.video(f"L1st_video{i}") for i in range(3)]
    site.pages["/about/inner"] = json.dumps(good[1:]).encode()
    urls = [good[0], f"{site.url}/watch/gone", f"{site.url}/list/inner", good[0]]
    site.pages["/about/outer"] = json.dumps(urls).encode()
    (tmp_path / "urls.txt").write_text(f"# mine\n\n{site.url}/list/outer  # all of it\n")
    utterances, dropped = fetched(tmp_path / "root", "--url-list", str(tmp_path / "urls.txt"))
    assert [json.loads(u.extra)["video"] for u in utterances] == ["L1st_video0", "L1st_video1", "L1st_video2"]
    assert list(dropped.values()) == ["not available"]
    assert site.sound() == ["/L1st_video0.mp3", "/L1st_video1.mp3", "/L1st_video2.mp3"]
    assert "4 videos or lists of them" in capsys.readouterr().out


def test_several_sounds_on_one_page_are_several_videos(site: Site, tmp_path: Path) -> None:
    audio = "<audio src=/{0}.mp3><track kind=captions srclang=en src=/{0}.vtt></audio>"
    site.pages["/two.html"] = f"<html><title>Two</title>{audio.format('one')}{audio.format('two')}</html>".encode()
    for name in ("one", "two"):
        site.pages[f"/{name}.mp3"], site.pages[f"/{name}.vtt"] = mp3(name), CAPTIONS.encode()
    site.faults["/two.mp3"] = [403]
    utterances, dropped = fetched(tmp_path, "--any-licence", "--urls", f"{site.url}/two.html")
    assert len(utterances) == 1 and list(dropped.values()) == ["not available"]
    site.asked.clear()
    utterances, dropped = fetched(tmp_path, "--any-licence", "--urls", f"{site.url}/two.html")
    assert dropped == {} and len({u.id for u in utterances}) == 2 and "/one.mp3" not in site.asked


def test_a_sound_cut_short_goes_on_at_its_byte(site: Site, tmp_path: Path) -> None:
    url = site.video("Cut_sh0rt_1")
    path, whole = "/Cut_sh0rt_1.mp3", site.pages["/Cut_sh0rt_1.mp3"]
    site.cut[path] = 20_000
    assert list(fetched(tmp_path, "--urls", url)[1].values()) == ["not available"]
    (part,) = tmp_path.glob("*/*.part")
    size_bytes = part.stat().st_size
    assert 0 < size_bytes <= 20_000
    site.cut.clear()
    site.ranges.clear()
    (one,), dropped = fetched(tmp_path, "--urls", url)
    assert dropped == {} and Path(one.audio).read_bytes() == whole
    assert site.ranges[path] == [f"bytes={size_bytes}-"]


def test_a_video_that_was_whole_when_the_run_was_killed_is_not_loaded_again(site: Site, tmp_path: Path) -> None:
    url = site.video("Wh0leKilled")
    fetched(tmp_path, "--urls", url)
    (record,) = tmp_path.glob("*/fetch.json")
    record.unlink()  # it is written last
    site.asked.clear()
    utterances, dropped = fetched(tmp_path, "--urls", url)
    assert len(utterances) == 1 and dropped == {} and site.sound() == []


def test_a_site_that_wants_less_is_given_time_and_then_left_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queue, "BACK_OFF_S", (0.0, 0.0))
    first, second, third = (site.video(f"Sl0wDown__{i}") for i in range(3))
    site.faults["/about/Sl0wDown__0"] = [429, 429]
    site.faults["/about/Sl0wDown__1"] = [429] * 3
    with pytest.raises(ValueError, match=r"^the site does not answer any more .*429.* 1 video done, and the same"):
        fetched(tmp_path, "--urls", first, second, third)
    assert capsys.readouterr().out.count("asked to slow down") == 4
    assert site.sound() == ["/Sl0wDown__0.mp3"]
    site.asked.clear()
    utterances, dropped = fetched(tmp_path, "--urls", first, second, third)
    assert len(utterances) == 3 and dropped == {} and "/about/Sl0wDown__0" not in site.asked


def test_a_robot_check_is_no_missing_video(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BACK_OFF_S", ())
    url = site.video("R0botCheck_")
    site.pages["/about/R0botCheck_"] = json.dumps({"error": "Sign in to confirm you’re not a bot"}).encode()
    with pytest.raises(ValueError, match="fewer --videos-per-hour"):
        fetched(tmp_path, "--urls", url)
    assert listed(arguments(tmp_path)) == ([], {})


def test_what_is_live_is_left_for_later(site: Site, tmp_path: Path) -> None:
    url = site.video("L1ve_now___", is_live=True, live_status="is_live")
    assert list(fetched(tmp_path, "--urls", url)[1].values()) == ["not available"] and site.sound() == []
    site.video("L1ve_now___", is_live=False, live_status="was_live")
    assert len(fetched(tmp_path, "--urls", url)[0]) == 1


def test_what_was_taken_down_is_not_even_asked_for(site: Site, tmp_path: Path) -> None:
    url, other = site.video("TakenDown_1"), site.video("Other_vide0")
    (tmp_path / "down.txt").write_text(f"{url}  # by its owner\n")
    down = ("--takedown", str(tmp_path / "down.txt"))
    utterances, dropped = fetched(tmp_path / "root", "--urls", url, other, *down)
    assert len(utterances) == 1 and list(dropped.values()) == ["taken down"]
    assert "/about/TakenDown_1" not in site.asked
    # one that was fetched before is dropped as well, and keeps the date of its fetching
    (tmp_path / "down.txt").write_text(f"{other}\n")
    utterances, dropped = fetched(tmp_path / "root", "--urls", other, *down)
    assert utterances == [] and list(dropped.values()) == ["taken down", "taken down"]
    assert len(fetched(tmp_path / "root", "--urls", url, other)[0]) == 2


def test_options_that_make_no_sense_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--urls nonsense: is neither a URL nor the id"):
        fetched(tmp_path, "--urls", "nonsense")
    with pytest.raises(ValueError, match="give a local folder"):
        youtube.fetch(arguments(tmp_path, "--root", "s3://bucket/videos", "--urls", "q7Rz0mXbT1k"))
    with pytest.raises(ValueError, match="--videos-per-hour above 0"):
        fetched(tmp_path, "--urls", "q7Rz0mXbT1k", "--videos-per-hour", "0")
    with pytest.raises(ValueError, match=r"none\.txt: no such file"):
        fetched(tmp_path, "--url-list", str(tmp_path / "none.txt"))
    (tmp_path / "fetch.json").write_text("{}")
    with pytest.raises(ValueError, match=r"fetch\.json: was not written by prepare-corpus"):
        fetched(tmp_path, "--urls", "q7Rz0mXbT1k")
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    match = r"^videos are fetched by yt-dlp; type in the folder of this project: pip install '\.\[youtube\]'$"
    with pytest.raises(ValueError, match=match):
        fetched(tmp_path, "--urls", "q7Rz0mXbT1k")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("q7Rz0mXbT1k", "https://www.youtube.com/watch?v=q7Rz0mXbT1k"),
        ("-7Rz0mXbT1_", "https://www.youtube.com/watch?v=-7Rz0mXbT1_"),
        (
            "PLrAXtmErZgOeiKm4sgNOknGvNjby9efdf",
            "https://www.youtube.com/playlist?list=PLrAXtmErZgOeiKm4sgNOknGvNjby9efdf",
        ),
        ("UCBR8-60-B28hp2BmDPdntcQ", "https://www.youtube.com/channel/UCBR8-60-B28hp2BmDPdntcQ"),
        ("@reading", "https://www.youtube.com/@reading"),
        ("https://vimeo.com/1", "https://vimeo.com/1"),
    ],
)
def test_ids_become_pages(text: str, url: str) -> None:
    assert ytdlp.as_url(text) == url


@given(
    per_hour=st.floats(1, 10_000),
    burst=st.integers(1, 10),
    pauses_s=st.lists(st.floats(0, 100), min_size=1, max_size=40),
)
def test_no_stretch_of_time_sees_more_videos_than_agreed(per_hour: float, burst: int, pauses_s: list[float]) -> None:
    now_s = 0.0

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        assert duration_s > 0
        now_s += duration_s

    bucket = Bucket(per_hour, burst, lambda: now_s, sleep)
    taken_s = []
    for pause_s in pauses_s:
        now_s += pause_s
        bucket.take()
        taken_s.append(now_s)
    for first in range(len(taken_s)):
        for last in range(first, len(taken_s)):
            allowed = burst + (taken_s[last] - taken_s[first]) * per_hour / 3600
            assert last - first + 1 <= allowed + 1e-6
