"""yt-dlp as this project uses it: what it is told, what to call a video, and what its errors mean."""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pipelines.youtube import usable
from pipelines.youtube.captions import FORMATS

REQUEST_SLEEP_S = 0.75  # between the requests that one video takes, as in yt-dlp's own preset `sleep`

_TOO_FAST = re.compile(r"(?i)not a bot|captcha|rate-?limit|too many requests")
_LATER = re.compile(r"(?i)will begin|premieres in")
_NEVER = (400, 401, 404, 410, 451)  # other HTTP errors may be gone the next time
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_PLAYLIST = re.compile(r"(?:PL|UU|FL|OL|LL)[\w-]{10,}", re.ASCII)
_CHANNEL = re.compile(r"UC[\w-]{22}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a video did not come. `again`: worth a try the next time. `too_fast`: the site asks to slow down."""

    detail: str
    again: bool
    too_fast: bool = False


def library() -> ModuleType:
    """Raises ValueError with what to type where it is not installed."""
    try:
        import yt_dlp
    except ImportError:
        raise ValueError(
            "videos are fetched by yt-dlp; type in the folder of this project: pip install '.[youtube]'"
        ) from None
    return yt_dlp


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


class _Silent:
    """yt-dlp's logger. What it has to say comes as exceptions, which become reasons."""

    def debug(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...

    def error(self, message: str) -> None: ...


def options(root: str, sleep_s: float) -> dict[str, Any]:
    """For yt-dlp; explained in the documentation of yt_dlp.YoutubeDL."""

    def slower(n: int) -> float:
        return min(2.0**n, 60.0) if sleep_s else 0.0

    return {
        "quiet": True,
        "noprogress": True,
        "logger": _Silent(),
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


def failure(err: Exception) -> Failure:
    """Why a video did not come. Raises OSError for a disk that is full, or may not be written to."""
    causes = list(_causes(err))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _DISK:
            raise cause
    message = re.sub(r"^ERROR: |; please report this issue on .*|\s*\(caused by .*", "", str(err), flags=re.DOTALL)
    message = " ".join(message.split())
    if not any(type(cause).__module__.startswith("yt_dlp.") for cause in causes):
        return Failure(f"yt-dlp failed with {type(err).__name__}: {message}", again=True)
    status = next((cause.status for cause in causes if hasattr(cause, "status")), None)
    if status == 429 or _TOO_FAST.search(message):
        return Failure(message, again=True, too_fast=True)
    if status is not None:
        return Failure(message, again=status not in _NEVER)
    network = any(type(cause).__module__.startswith("yt_dlp.networking") for cause in causes)
    expected = any(getattr(cause, "expected", False) for cause in causes)
    return Failure(message, again=network or not expected or bool(_LATER.search(message)))


def _causes(err: BaseException) -> Iterator[BaseException]:
    """The error and everything that it came from. yt-dlp keeps some of it in attributes of its own."""
    waiting: list[object] = [err]
    seen: list[object] = []
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and not any(cause is other for other in seen):
            seen.append(cause)
            yield cause
            kept = getattr(cause, "exc_info", None) or (None, None)
            waiting += [kept[1], getattr(cause, "cause", None), cause.__cause__, cause.__context__]
