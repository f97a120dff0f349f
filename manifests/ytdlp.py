"""yt-dlp, which finds the media behind web pages: how it is loaded, kept silent, and what its errors mean."""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

_TOO_FAST = re.compile(r"(?i)not a bot|captcha|rate-?limit|too many requests")
_LATER = re.compile(r"(?i)will begin|premieres in")
_NEVER = (400, 401, 404, 410, 451)  # other HTTP errors may be gone the next time
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


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


class Silent:
    """yt-dlp's logger. What it has to say comes as exceptions, which become reasons."""

    def debug(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...

    def error(self, message: str) -> None: ...


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
