"""May a video be used, and which of its captions: licence, take-down, language, and who wrote them.

The same question is asked of what yt-dlp knows before anything is downloaded, and of the info.json that it leaves.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from manifests import storage

NOT_STATED = "not stated"  # as YouTube does for its standard licence
_FREE = re.compile(r"(?i)\s*(?:creative commons|cc0\b|cc[- ]by\b|public domain)|.*\bcreativecommons\.org/")
_YOUTUBE_ID = re.compile(r"[\w-]{11}", re.ASCII)
_IN_PATH = re.compile(r"/(?:shorts|embed|live|v)/([\w-]{11})(?:/|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asks for. `takedown`: video ids and URLs, as `takedown` gives them."""

    language: str
    any_licence: bool = False
    automatic: bool = False
    takedown: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Track:
    """Captions by their language tag: `en`, `en-GB`, `en-orig`."""

    name: str
    automatic: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a video is left out; `reason` is one of a few fixed words."""

    reason: str
    detail: str


def refuse(info: Mapping[str, Any], wanted: Wanted) -> Refusal | None:
    """What speaks against a video whatever its captions; `info` is yt-dlp's."""
    if keys(info) & wanted.takedown:
        return Refusal("taken down", "is on the list of --takedown")
    if not wanted.any_licence and not is_free(licence(info)):
        return Refusal("licence", f"{licence(info)}; --any-licence takes it, if you may use it")
    language = spoken_language(info)
    if language and _base(language) != _base(wanted.language):
        return Refusal("wrong language", f"{language} is spoken, so captions in {wanted.language} are a translation")
    return None


def choose(
    info: Mapping[str, Any], uploaded: Collection[str], automatic: Collection[str], wanted: Wanted
) -> Track | Refusal:
    """The captions to take of a video, from the tracks that there are."""
    if refusal := refuse(info, wanted):
        return refusal
    fitting = sorted((t for t in uploaded if _fits(t, wanted.language)), key=lambda t: (t != wanted.language, t))
    if fitting:
        return Track(fitting[0], automatic=False)
    # en-orig is what was recognised; a plain en can be a translation, and en-de always is one
    others = [t for t in sorted(automatic) if _fits(t, wanted.language) and t.rpartition("-")[2].isupper()]
    recognised = [t for t in (f"{wanted.language}-orig", wanted.language, *others) if t in automatic]
    if recognised and wanted.automatic:
        return Track(recognised[0], automatic=True)
    if recognised:
        return Refusal("automatic captions", f"only {recognised[0]}; --automatic-captions takes them")
    there = ", ".join(sorted({*uploaded, *automatic})[:8]) or "none at all"
    return Refusal("no captions", f"none in {wanted.language}; there are {there}")


def licence(info: Mapping[str, Any]) -> str:
    return " ".join(str(info.get("license") or "").split()) or NOT_STATED


def is_free(text: str) -> bool:
    """Creative Commons of any kind (also NC and ND: the row says which), CC0 and the public domain."""
    return _FREE.match(text) is not None


def spoken_language(info: Mapping[str, Any]) -> str:
    """The language of the sound, "" when nothing tells it. YouTube recognises speech in the language that it is in."""
    if info.get("language"):
        return str(info["language"])
    recognised = [
        track.removesuffix("-orig") for track in tracks(info, "automatic_captions") if track.endswith("-orig")
    ]
    return recognised[0] if recognised else ""


def tracks(info: Mapping[str, Any], kind: str) -> list[str]:
    """`kind`: subtitles, which people uploaded, or automatic_captions."""
    found = info.get(kind)
    return [track for track in found if track != "live_chat"] if isinstance(found, dict) else []


def is_youtube(info: Mapping[str, Any]) -> bool:
    """True also where nothing but an id is known that looks like one of YouTube's."""
    extractor = info.get("extractor_key") or info.get("extractor")
    return str(extractor).lower().startswith("youtube") if extractor else is_youtube_id(str(info.get("id", "")))


def is_youtube_id(text: str) -> bool:
    return _YOUTUBE_ID.fullmatch(text) is not None


def watch_url(video_id: str) -> str:
    return f"https://www.youtube.com/watch?v={video_id}"


def source(info: Mapping[str, Any]) -> str:
    """The page of a video."""
    if is_youtube(info):
        return watch_url(str(info["id"]))
    return str(info.get("webpage_url") or info.get("original_url") or info.get("id", ""))


def keys(info: Mapping[str, Any]) -> frozenset[str]:
    """All that a list of take-downs may call the video."""
    urls = [str(info[key]) for key in ("webpage_url", "original_url") if info.get(key)]
    return frozenset([str(info.get("id", "")), *(video_key(url) for url in urls)])


def video_key(entry: str) -> str:
    """The id in a URL of YouTube's, or another URL without its fragment and last slash; an id as it is."""
    if "://" not in entry:
        return entry
    parts = urlsplit(entry)
    host = (parts.hostname or "").removeprefix("www.").removeprefix("m.").removeprefix("music.")
    if host == "youtu.be":
        return parts.path.strip("/")
    if host in ("youtube.com", "youtube-nocookie.com"):
        video = parse_qs(parts.query).get("v", [""])[0]
        match = _IN_PATH.match(parts.path)
        return video or (match[1] if match else entry)
    return parts._replace(fragment="").geturl().rstrip("/")


def takedown(uri: str) -> frozenset[str]:
    """The list of what must not be used: an id or a URL a line, `#` begins a comment at the start of a line or after a
    blank. Raises ValueError for a page of YouTube's that is no video."""
    if not storage.exists(uri):
        raise ValueError(f"--takedown {uri}: no such file")
    found = set()
    for number, line in enumerate(storage.read_text(uri).split("\n"), 1):
        entry = re.sub(r"(?:^|\s)#.*", "", line).strip()
        key = video_key(entry)
        if len(entry.split()) > 1 or ("youtube.com/" in key and "://" in key):
            raise ValueError(f"--takedown {uri}, line {number}: {entry!r} is neither the id nor the URL of a video")
        found.add(key)
    return frozenset(found - {""})


def _fits(track: str, language: str) -> bool:
    tag, asked = track.lower().replace("_", "-"), language.lower().replace("_", "-")
    return (tag == asked or tag.startswith(asked + "-")) and not tag.endswith("-orig")


def _base(language: str) -> str:
    return re.split("[-_]", language.lower(), maxsplit=1)[0]
