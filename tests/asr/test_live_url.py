"""Live media over a real HTTP server: what comes is what was sent, and what is missed is told in seconds."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from livesite import Reply, Site, encode, entries, hls, playlist, serve

from asr import audio
from asr.live import hls as live_hls
from asr.live import http as live_http
from asr.live import url as live_url
from asr.live.feed import Feed, Gap, Note
from manifests import web

RATE = 16000
SECONDS = 5


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Five seconds in which no half second is like another."""
    time_s = np.arange(SECONDS * RATE) / RATE
    return (0.3 * np.sin(2 * np.pi * (200 + 150 * time_s) * time_s)).astype(np.float32)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, sound: np.ndarray) -> Path:
    """The sound as an HLS recording: a.m3u8 and its segments of half a second."""
    folder = tmp_path_factory.mktemp("hls")
    hls(folder, sound)
    return folder


class Heard:
    """All that came from a URL, in order."""

    def __init__(self, url: str) -> None:
        feed = Feed(RATE)
        thread = live_url.start(url, feed)
        self.items: list[np.ndarray | Gap | Note] = []
        self.error: Exception | None = None
        try:
            while (item := feed.take(800)) is not None:
                self.items.append(item)
        except Exception as err:
            self.error = err
        thread.join(10)
        assert not thread.is_alive()
        self.samples = np.concatenate([np.empty(0, np.float32), *(i for i in self.items if isinstance(i, np.ndarray))])
        self.gaps = [item for item in self.items if isinstance(item, Gap)]
        self.notes = [item.text for item in self.items if isinstance(item, Note)]

    def part(self, number: int) -> np.ndarray:
        """What came before the first gap, between it and the second one, and so on."""
        parts: list[list[np.ndarray]] = [[np.empty(0, np.float32)]]
        for item in self.items:
            if isinstance(item, Gap):
                parts.append([])
            elif isinstance(item, np.ndarray):
                parts[-1].append(item)
        return np.concatenate(parts[number])


def whole(folder: Path, segments: range, name: str = "a") -> np.ndarray:
    """The segments as one file, read as files are."""
    data = b"".join((folder / f"{name}{n:03d}.ts").read_bytes() for n in segments)
    return audio.read("whole.ts", RATE, data=data)


def ends(folder: Path) -> int:
    return len(list(folder.glob("a*.ts")))


def like(got: np.ndarray, sent: np.ndarray) -> bool:
    """The same sound through a lossy codec, whose first and last frames are its own."""
    count = min(len(got), len(sent))
    return abs(len(got) - len(sent)) <= 4096 and float(np.corrcoef(got[:count], sent[:count])[0, 1]) > 0.9


@pytest.mark.parametrize("kind", ["mpegts", "fmp4"])
def test_a_recording_is_heard_from_its_start_to_its_end(
    site: Site, tmp_path: Path, sound: np.ndarray, kind: str
) -> None:
    hls(tmp_path, sound, kind)
    site.play(tmp_path)
    heard = Heard(f"{site.url}/a.m3u8")
    assert heard.error is None and heard.gaps == []
    if kind == "mpegts":
        np.testing.assert_array_equal(heard.samples, whole(tmp_path, range(ends(tmp_path))))
    # an AAC encoder puts 1,024 samples of its own before the sound, and fills its last frame
    assert len(sound) <= len(heard.samples) <= len(sound) + 3 * 1024
    assert like(heard.samples[1024:], sound)


def growing(site: Site, folder: Path) -> None:
    """/live.m3u8, which shows one segment more at each request, the last six of them, and then its end.

    Only the first time it says how long they are: 1.8 s before the end it is to be joined.
    """
    segments = entries((folder / "a.m3u8").read_text().splitlines())
    shown = [5]

    def reply() -> Reply:
        shown[0] += 1
        count = min(shown[0], len(segments))
        first = max(0, count - 6)
        reply = playlist(segments[first:count], first, ended=shown[0] > len(segments))
        reply.body = reply.body.replace(b"DURATION:0", b"DURATION:0.6") if shown[0] == 6 else reply.body
        return reply

    site.replies["/live.m3u8"] = reply


def test_a_live_stream_begins_near_its_end_and_ends_when_it_says_so(site: Site, recorded: Path) -> None:
    site.play(recorded)
    growing(site, recorded)
    heard = Heard(f"{site.url}/live.m3u8")
    assert heard.error is None and heard.gaps == []
    np.testing.assert_array_equal(heard.samples, whole(recorded, range(2, ends(recorded))))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_loses_nothing(site: Site, recorded: Path, ranges: bool) -> None:
    site.play(recorded)
    data = (recorded / "a001.ts").read_bytes()
    half = Reply(data, cut_at=len(data) // 2, ranges=ranges)
    site.replies["/a001.ts"] = [half, Reply(status=503), Reply(data, ranges=ranges)]
    heard = Heard(f"{site.url}/a.m3u8")
    assert heard.error is None and heard.gaps == []
    np.testing.assert_array_equal(heard.samples, whole(recorded, range(ends(recorded))))
    assert any("the connection was cut; trying again in" in note for note in heard.notes)
    assert ("/a001.ts", f"bytes={len(data) // 2}-") in site.asked


def test_a_server_that_is_away_for_a_while_is_waited_for_and_what_went_by_is_told(site: Site, recorded: Path) -> None:
    site.play(recorded)
    segments = entries((recorded / "a.m3u8").read_text().splitlines())
    site.replies["/a.m3u8"] = [
        playlist(segments[:2]), Reply(status=404), Reply(status=502), Reply(b"<html>no", status=404),
        playlist(segments[4:], 4, ended=True),
    ]  # fmt: skip
    heard = Heard(f"{site.url}/a.m3u8")
    assert heard.error is None
    np.testing.assert_array_equal(heard.part(0), whole(recorded, range(2)))
    np.testing.assert_array_equal(heard.part(1), whole(recorded, range(4, ends(recorded))))
    (gap,) = heard.gaps
    assert gap.missed_s == pytest.approx(1.0, abs=0.1) and "2 segments gone" in gap.why
    assert sum("trying again" in note for note in heard.notes) == 3


def test_a_segment_that_never_comes_is_missed_and_told(site: Site, recorded: Path) -> None:
    site.play(recorded)
    site.replies["/a002.ts"] = [Reply(status=404)]
    heard = Heard(f"{site.url}/a.m3u8")
    assert heard.error is None
    np.testing.assert_array_equal(heard.part(0), whole(recorded, range(2)))
    np.testing.assert_array_equal(heard.part(1), whole(recorded, range(3, ends(recorded))))
    assert [round(gap.missed_s, 1) for gap in heard.gaps] == [0.5] and "404 Not Found" in heard.gaps[0].why


def test_a_stream_that_is_started_again_goes_on(site: Site, recorded: Path) -> None:
    """Its server counts from 0 again."""
    site.play(recorded)
    segments = entries((recorded / "a.m3u8").read_text().splitlines())
    site.replies["/a.m3u8"] = [playlist(segments[:2], 500), playlist(segments[5:], 0, ended=True)]
    heard = Heard(f"{site.url}/a.m3u8")
    assert heard.error is None and [gap.why for gap in heard.gaps] == ["the stream began anew"]
    np.testing.assert_array_equal(heard.part(1), whole(recorded, range(5, ends(recorded))))


@pytest.mark.parametrize("tagged", [True, False])
def test_codec_and_rate_may_change_in_the_middle(site: Site, tmp_path: Path, sound: np.ndarray, tagged: bool) -> None:
    """Where the playlist says so nothing is lost, and where it does not, at most the segment in which it happens."""
    rate = 44100
    other = np.interp(np.arange(SECONDS * rate) / rate, np.arange(len(sound)) / RATE, sound).astype(np.float32)
    before = entries(hls(tmp_path, sound, name="a"))
    after = entries(hls(tmp_path, other, codec="mp2", rate=rate, name="b"))
    site.play(tmp_path)
    site.replies["/live.m3u8"] = [
        playlist([*before, *(["#EXT-X-DISCONTINUITY"] if tagged else []), *after, *after, *after], ended=True)
    ]
    heard = Heard(f"{site.url}/live.m3u8")
    assert heard.error is None
    assert like(heard.samples[1024 : 1024 + len(sound)], sound)
    if tagged:
        assert abs(len(heard.samples) - 4 * len(sound)) < 4096 and heard.notes == []
    else:
        assert len(heard.samples) > 4 * len(sound) - RATE
        assert len(heard.notes) == 1 and "a part cannot be decoded" in heard.notes[0]


def test_the_rate_of_packed_audio_may_change_too(site: Site, tmp_path: Path, sound: np.ndarray) -> None:
    encode(sound, RATE, str(tmp_path / "a.aac"), "adts", "aac", {})
    encode(sound, 48000, str(tmp_path / "b.aac"), "adts", "aac", {})
    site.play(tmp_path)
    site.replies["/a.m3u8"] = [playlist(["#EXTINF:5,\na.aac", "#EXTINF:1.7,\nb.aac"], ended=True)]
    heard = Heard(f"{site.url}/a.m3u8")
    assert heard.error is None and heard.notes == []
    assert abs(len(heard.samples) - len(sound) * 4 / 3) < 4096


def test_a_playlist_of_playlists_leads_to_its_sound(site: Site, recorded: Path) -> None:
    site.play(recorded)
    site.replies["/main.m3u8"] = [
        Reply(
            b'#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=900000,CODECS="avc1.4d401e,mp4a.40.2",RESOLUTION=640x360\nno.m3u8\n'
            b'#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS="mp4a.40.5"\nlow.m3u8\n'
            b'#EXT-X-STREAM-INF:BANDWIDTH=128000,CODECS="mp4a.40.2"\na.m3u8\n'
        )
    ]
    heard = Heard(f"{site.url}/main.m3u8")
    assert heard.error is None
    np.testing.assert_array_equal(heard.samples, whole(recorded, range(ends(recorded))))


@pytest.mark.parametrize(
    "secret", ["file://{}", "concat:{}", "pipe:0", "{}", "subfile,,start,0,end,0,,:{}", "ftp://h{}"]
)
def test_a_playlist_cannot_name_files_of_this_machine(
    site: Site, tmp_path: Path, sound: np.ndarray, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(sound, RATE, str(tmp_path / "secret.wav"), "wav", "pcm_s16le", {})
    monkeypatch.chdir(tmp_path)
    url = secret.format(tmp_path / "secret.wav")
    for text in (f"#EXTINF:5,\n{url}", f'#EXT-X-MAP:URI="{url}"\n#EXTINF:5,\n{site.url}/x.m4s'):
        site.replies["/a.m3u8"] = [playlist([text], ended=True)]
        heard = Heard(f"{site.url}/a.m3u8")
        assert len(heard.samples) == 0
        # an absolute path is one on the server
        assert "is not followed" in str(heard.error) or secret == "{}" or heard.gaps
    site.replies["/list"] = [Reply(b"ffconcat version 1.0\nfile secret.wav\n", length=False)]
    heard = Heard(f"{site.url}/list")
    assert len(heard.samples) == 0 and "cannot be read as audio" in str(heard.error)
    site.replies["/moved"] = [Reply(status=302, headers={"Location": url})]
    heard = Heard(f"{site.url}/moved")
    assert len(heard.samples) == 0 and heard.error is not None


def test_playlists_that_lead_to_each_other_are_refused(site: Site) -> None:
    for name, other in (("a", "b"), ("b", "a"), ("c", "c")):
        site.replies[f"/{name}.m3u8"] = [Reply(f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{other}.m3u8\n".encode())]
    for name in "ac":
        assert "lead to one another and to no sound" in str(Heard(f"{site.url}/{name}.m3u8").error)
    assert len(site.asked) < 20


def test_a_count_that_jumps_far_is_no_gap_of_years(site: Site, recorded: Path) -> None:
    """As of an encoder that was started again and counts from the clock: --save-audio would fill the disk."""
    site.play(recorded)
    segments = entries((recorded / "a.m3u8").read_text().splitlines())
    site.replies["/a.m3u8"] = [playlist(segments[:2]), playlist(segments[2:4], 1_764_123_456, ended=True)]
    heard = Heard(f"{site.url}/a.m3u8")
    assert heard.error is None and len(heard.samples) > 0
    assert [gap.why for gap in heard.gaps] == ["the stream began anew"] and heard.gaps[0].missed_s < 60


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("\u00b2", None), ("-5", None), ("soon", None), ("Mon, 01 Jan 2001 00:00:00 +9999999", None)],
)
def test_a_wait_that_is_none_is_passed_over(value: str, seconds: float | None) -> None:
    assert web.retry_after_s(value) == seconds


def test_an_error_shows_little_of_a_long_line() -> None:
    for line in (
        "#EXTINF:" + "9" * 10_000,
        "#EXT-X-MEDIA-SEQUENCE:" + "x" * 10_000,
        "#EXTINF:1,\nfile:" + "x" * 10_000,
    ):
        with pytest.raises(ValueError) as caught:
            live_hls.parse(f"#EXTM3U\n{line}\na.ts", "http://h/a.m3u8")
        assert len(str(caught.value)) < 500


def test_an_encrypted_stream_is_refused(site: Site, recorded: Path) -> None:
    site.replies["/a.m3u8"] = [playlist(['#EXT-X-KEY:METHOD=AES-128,URI="key"', "#EXTINF:1,\na.ts"])]
    assert "is encrypted, which is not read" in str(Heard(f"{site.url}/a.m3u8").error)


def test_nothing_new_for_too_long_is_an_error(site: Site, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_http, "GIVE_UP_S", 0.1)
    site.play(recorded)
    segments = entries((recorded / "a.m3u8").read_text().splitlines())
    site.replies["/a.m3u8"] = [playlist(segments[:2])]
    heard = Heard(f"{site.url}/a.m3u8")
    assert "nothing new has come for" in str(heard.error)
    np.testing.assert_array_equal(heard.samples, whole(recorded, range(2)))
    site.replies["/a.m3u8"] = [playlist(segments[:2]), Reply(status=503)]
    assert "503 Service Unavailable; gave up after" in str(Heard(f"{site.url}/a.m3u8").error)


# --- what playlists say

LINES = st.sampled_from([
    "#EXTM3U", "#EXTINF:2.5,", "#EXTINF:", "#EXTINF:-1", "#EXTINF:1e999", "a.ts", "../b.ts", "http://h/c.ts?x", "http://[",
    "file:///etc/passwd", "#EXT-X-BYTERANGE:10@5", "#EXT-X-BYTERANGE:10", "#EXT-X-BYTERANGE:-1@-1", "#EXT-X-ENDLIST",
    "#EXT-X-TARGETDURATION:2", "#EXT-X-TARGETDURATION:nan", "#EXT-X-MEDIA-SEQUENCE:7", "#EXT-X-MEDIA-SEQUENCE:-1",
    "#EXT-X-DISCONTINUITY", '#EXT-X-MAP:URI="i.mp4",BYTERANGE="9@0"', "#EXT-X-MAP:", "#EXT-X-KEY:METHOD=NONE",
    "#EXT-X-STREAM-INF:BANDWIDTH=1", "#EXT-X-STREAM-INF:BANDWIDTH=x", '#EXT-X-MEDIA:TYPE=AUDIO,URI="s.m3u8"',
    "", "\x00",
])  # fmt: skip


@given(lines=st.lists(st.one_of(LINES, st.text(max_size=20)), max_size=14))
def test_any_text_is_a_playlist_of_web_addresses_or_an_error_of_one_line(lines: list[str]) -> None:
    try:
        found = live_hls.parse("\n".join(["#EXTM3U", *lines]), "https://host/live/a.m3u8?token=1")
    except ValueError as err:
        assert "\n" not in str(err) and str(err).startswith(("http", "file:", "/"))
        return
    if isinstance(found, live_hls.Choice):
        assert found.url.startswith(("http://", "https://"))
        return
    assert found.first <= found.live_start() <= found.end
    for segment in found.segments:
        assert segment.data.url.startswith(("http://", "https://")) and segment.data.offset >= 0
        assert segment.duration_s >= 0


def test_ranges_of_one_file_follow_each_other() -> None:
    text = "#EXTM3U\n#EXTINF:1,\n#EXT-X-BYTERANGE:10@100\na.ts\n#EXTINF:1,\n#EXT-X-BYTERANGE:20\na.ts\n"
    found = live_hls.parse(text, "http://h/a.m3u8")
    assert isinstance(found, live_hls.Media)
    assert [(s.data.offset, s.data.length) for s in found.segments] == [(100, 10), (110, 20)]


@pytest.mark.parametrize("ranges", [True, False])
def test_segments_may_be_ranges_of_one_file(site: Site, recorded: Path, ranges: bool) -> None:
    pieces = [(recorded / f"a{n:03d}.ts").read_bytes() for n in range(ends(recorded))]
    site.replies["/all.ts"] = [Reply(b"".join(pieces), ranges=ranges)]
    lengths = [
        f"#EXTINF:0.5,\n#EXT-X-BYTERANGE:{len(piece)}{'@0' * (n == 0)}\nall.ts" for n, piece in enumerate(pieces)
    ]
    site.replies["/a.m3u8"] = [playlist(lengths, ended=True)]
    heard = Heard(f"{site.url}/a.m3u8")
    assert heard.error is None
    np.testing.assert_array_equal(heard.samples, whole(recorded, range(ends(recorded))))


# --- other media


@pytest.fixture(scope="module")
def mp3(tmp_path_factory: pytest.TempPathFactory, sound: np.ndarray) -> bytes:
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    encode(sound, RATE, str(path), "mp3", "mp3", {"write_xing": "0"})
    return path.read_bytes()


def test_a_file_on_a_web_server_is_read_as_one(site: Site, tmp_path: Path, sound: np.ndarray) -> None:
    encode(sound, RATE, str(tmp_path / "a.wav"), "wav", "pcm_s16le", {})
    site.play(tmp_path)
    data = (tmp_path / "a.wav").read_bytes()
    site.replies["/a.wav"] = [Reply(data), Reply(data), Reply(data, cut_at=50_000), Reply(data)]
    heard = Heard(f"{site.url}/a.wav")
    assert heard.error is None
    np.testing.assert_array_equal(heard.samples, audio.read(str(tmp_path / "a.wav")))


def test_a_stream_of_no_stated_length_is_heard_to_its_end(site: Site, mp3: bytes, sound: np.ndarray) -> None:
    site.replies["/live"] = [Reply(mp3, length=False)]
    heard = Heard(f"{site.url}/live")
    assert heard.error is None and heard.gaps == []
    assert abs(len(heard.samples) - len(sound)) < 4096


def test_a_station_that_breaks_off_is_called_again_until_it_is_gone(
    site: Site, mp3: bytes, sound: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    icy = {"icy-name": "Radio Toy"}
    site.replies["/radio"] = [
        Reply(mp3, headers=icy, length=False, cut_at=len(mp3) // 2),
        Reply(status=404),
        Reply(mp3, headers=icy, length=False),
        Reply(status=404),
    ]
    heard = Heard(f"{site.url}/radio")
    assert heard.error is None
    assert len(heard.gaps) == 1 and heard.gaps[0].missed_s < 5
    assert len(heard.part(0)) > RATE and abs(len(heard.part(1)) - len(sound)) < 4096
    assert heard.notes[-1] == f"{site.url}/radio: is no more there, so it has ended"


def test_a_stop_ends_the_thread_whatever_it_waits_for(
    site: Site, recorded: Path, mp3: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause before the next try, a full queue."""
    monkeypatch.setattr(live_http, "PAUSE_S", 100.0)
    site.play(recorded)
    site.replies["/a001.ts"] = [Reply(status=503)]
    for feed in (Feed(RATE), Feed(RATE, limit_s=0.1)):
        thread = live_url.start(f"{site.url}/a.m3u8", feed)
        assert isinstance(feed.take(100), np.ndarray)
        feed.stop(drop=True)
        thread.join(10)
        assert not thread.is_alive() and feed.take(100) is None


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=404), "the server answers 404 Not Found"),
        (Reply(status=403), "the server answers 403 Forbidden"),
        (Reply(b"", length=False), "cannot be read as audio: it has no sound"),
        (Reply(b'{"error": "no"}', length=False), "cannot be read as audio"),
        (Reply(b"\0" * 300_000, length=False), "cannot be read as audio"),
        (Reply(b"#EXTM3U\n#EXTINF:x,\na.ts\n"), "is no HLS playlist that can be read"),
    ],
)
def test_what_is_no_audio_is_an_error_of_one_line(site: Site, reply: Reply, error: str) -> None:
    site.replies["/x"] = [reply]
    heard = Heard(f"{site.url}/x?token=secret")
    assert isinstance(heard.error, ValueError) and error in str(heard.error)
    assert "\n" not in str(heard.error) and "secret" not in str(heard.error)


def test_a_server_that_is_not_there_is_told_soon() -> None:
    with serve() as site:
        url = f"{site.url}/x"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_http, "PAUSE_S", 0.01)
        assert "Connection refused" in str(Heard(url).error)


def test_only_the_web_is_listened_to() -> None:
    for url in ("file:///etc/passwd", "concat:a|b", "/etc/passwd", "rtmp://host/live", "https:///x"):
        with pytest.raises(ValueError, match="over http:// and https:// alone"):
            live_url.start(url, Feed(RATE))
