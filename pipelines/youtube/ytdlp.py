"""yt-dlp as videos are fetched with it: what it is told, and what to call a video."""

import re
from typing import Any

from manifests.ytdlp import Failure, Silent, failure, library
from pipelines.youtube import usable
from pipelines.youtube.captions import FORMATS

__all__ = ["Failure", "Silent", "as_url", "failure", "library", "options"]

REQUEST_SLEEP_S = 0.75  # between the requests that one video takes, as in yt-dlp's own preset `sleep`

_PLAYLIST = re.compile(r"(?:PL|UU|FL|OL|LL)[\w-]{10,}", re.ASCII)
_CHANNEL = re.compile(r"UC[\w-]{22}", re.ASCII)


def as_url(text: str) -> str:
    """A URL as it is; the page of an id of YouTube's. Raises ValueError for anything else."""
    if "://" in text:
        return text
    if usable.is_youtube_id(text):
        return usable.watch_url(text)
    if _PLAYLIST.fullmatch(text):
        return f"https://www.youtube.com/playlist?list={text}"
    if _CHANNEL.fullmatch(text):
        return f"https://www.youtube.com/channel/{text}"
    if text.startswith("@"):
        return f"https://www.youtube.com/{text}"
    raise ValueError(f"--urls {text}: is neither a URL nor the id of a video, playlist or channel on YouTube")


def options(root: str, sleep_s: float) -> dict[str, Any]:
    """For yt-dlp; explained in the documentation of yt_dlp.YoutubeDL."""

    def slower(n: int) -> float:
        return min(2.0**n, 60.0) if sleep_s else 0.0

    return {
        "quiet": True,
        "noprogress": True,
        "logger": Silent(),
        "color": "no_color",
        "extract_flat": "in_playlist",  # the videos of a playlist are asked for one by one, in our own time
        "noplaylist": True,  # watch?v=...&list=... is one video
        "format": "bestaudio/best",
        "fixup": "never",  # needs ffmpeg, and what it would mend is no trouble to our readers
        "subtitlesformat": "/".join(FORMATS),
        "writeinfojson": True,
        "allow_playlist_files": False,
        "updatetime": False,
        "paths": {"home": root},
        "retries": 10,
        "fragment_retries": 10,
        "extractor_retries": 3,
        "retry_sleep_functions": {"http": slower, "fragment": slower, "extractor": slower},
        "sleep_interval_requests": REQUEST_SLEEP_S if sleep_s else 0,
        "sleep_interval_subtitles": sleep_s,
        "socket_timeout": 30,
    }
