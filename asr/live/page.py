"""The media behind a web page, such as a video or live stream on YouTube, as yt-dlp finds it."""

from dataclasses import dataclass
from typing import Any

from asr.live.http import Place, check_url
from manifests import ytdlp
from manifests.storefaults import shown

# what is read here: files and HLS; not DASH, whose pieces yt-dlp itself would have to fetch
_READABLE = "[protocol~='^(https?|m3u8(_native)?)$']"


class NotFound(ValueError):
    """No sound on a page; `again`: it may be there the next time."""

    def __init__(self, url: str, why: str, again: bool = False) -> None:
        super().__init__(f"{shown(url)}: is a web page on which yt-dlp finds no audio: {why}")
        self.again = again


@dataclass(frozen=True, slots=True)
class Found:
    """What is on a page."""

    place: Place
    live: bool  # it is going on now


def find(url: str) -> Found | None:
    """None for a live stream that has ended or not begun. Raises NotFound, and ValueError without yt-dlp."""
    try:
        library = ytdlp.library()
    except ValueError:
        raise ValueError(
            f"{shown(url)}: is a web page, not audio; to have yt-dlp look for what it plays, type in the folder of "
            "this project: pip install '.[youtube]'"
        ) from None
    try:
        with library.YoutubeDL(_options()) as tool:
            info = tool.extract_info(url, download=False)
    except Exception as err:
        failure = ytdlp.failure(err)
        raise NotFound(url, failure.detail, failure.again) from None
    return _found(url, info or {})


def _options() -> dict[str, Any]:
    """For yt-dlp; explained in the documentation of yt_dlp.YoutubeDL."""
    return {
        "quiet": True,
        "noprogress": True,
        "logger": ytdlp.Silent(),
        "color": "no_color",
        "noplaylist": True,  # watch?v=...&list=... is one video
        "playlist_items": "1:2",  # to see that there are several
        "format": f"bestaudio{_READABLE}/best{_READABLE}",
        "ignore_no_formats_error": True,  # what has ended, or not begun, has none
        "socket_timeout": 30,
        "allowed_extractors": ["default"],
        "enable_file_urls": False,
        "cachedir": False,
    }


def _found(url: str, info: dict[str, Any]) -> Found | None:
    entries = list(info.get("entries") or [info])
    if len(entries) != 1 or not entries[0]:
        raise ValueError(f"{shown(url)}: is a list of recordings; give the URL of one of them")
    one = entries[0]
    media = one.get("url")
    if not media and one.get("live_status") in ("was_live", "post_live", "is_upcoming"):
        return None
    if not media:
        raise NotFound(url, "there is none in a form that can be read here")
    check_url(media)
    live = bool(one.get("is_live")) or one.get("live_status") == "is_live"
    headers = {str(k): str(v) for k, v in (one.get("http_headers") or {}).items() if "\n" not in f"{k}{v}"}
    return Found(Place(media, headers), live)
