"""Fetching the sound and captions of videos: one polite queue, which goes on where it was stopped.

Each video is asked for once; whether it may be used is decided from the answer, before any sound is downloaded. A video
has a folder of its own below the root, and in it, written last, fetch.json: when it was fetched, or why it was not. The
queue is never spread over processes: sites count the requests of an address, and block the ones in a hurry.
"""

import json
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from types import ModuleType
from typing import Any

from configs.wording import counted
from manifests import storage
from manifests.schema import safe_id
from pipelines.youtube import usable, ytdlp
from pipelines.youtube.captions import FORMATS
from pipelines.youtube.usable import Refusal, Track, Wanted
from pipelines.youtube.videos import RECORD, read_json
from pipelines.youtube.ytdlp import Failure

BURST = 5  # so many videos may come faster than --videos-per-hour, which later ones then wait for
_FIELDS = {"name", "key", "wanted", "reason", "again", "file"}  # of a fetch.json, those that decide here
BACK_OFF_S = (60.0, 300.0, 900.0)  # after answers that ask to slow down; one more, and the queue stops


@dataclass(frozen=True, slots=True)
class Pace:
    """Between two videos `sleep_s` to twice that, and in the long run no more than `videos_per_hour`."""

    sleep_s: float
    videos_per_hour: float


@dataclass(frozen=True, slots=True)
class _Item:
    """Something to ask for; or with `info`, a video that the page of a playlist already told all about."""

    url: str
    id: str = ""
    info: dict[str, Any] | None = None


class Bucket:
    """A token bucket: `take` returns at once `burst` times, and then no more often than `per_hour` allows."""

    def __init__(
        self,
        per_hour: float,
        burst: int = BURST,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.per_s, self.burst, self.clock, self.sleep = per_hour / 3600, burst, clock, sleep
        self.tokens, self.at_s = float(burst), clock()

    def take(self) -> None:
        self._fill()
        if self.tokens < 1:
            self.sleep((1 - self.tokens) / self.per_s)
            self._fill()
        self.tokens -= 1

    def _fill(self) -> None:
        now_s = self.clock()
        self.tokens = min(float(self.burst), self.tokens + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s


def read_urls(uri: str) -> list[str]:
    """The lines of a list; `#` begins a comment at the start of a line or after a blank."""
    if not storage.exists(uri):
        raise ValueError(f"--url-list {uri}: no such file")
    lines = (re.sub(r"(?:^|\s)#.*", "", line).strip() for line in storage.read_text(uri).split("\n"))
    return [line for line in lines if line]


def fetch(root: str, urls: Sequence[str], wanted: Wanted, pace: Pace, say: Callable[[str], None]) -> None:
    """Fetch what `urls` name into folders below `root`: videos, playlists, channels, or YouTube's ids of these.

    What may not be used, or is not there, gets a fetch.json with the reason. Raises ValueError for a root that is not
    on this machine, for options and URLs that make no sense, without yt-dlp, and when a site refuses to go on.
    """
    if not storage.is_local(root):
        raise ValueError(f"--root {root}: yt-dlp fetches to this machine; give a local folder, and copy it afterwards")
    if not (pace.sleep_s >= 0 and pace.videos_per_hour > 0):
        raise ValueError("--sleep-s must be 0 or more and --videos-per-hour above 0")
    queue = [_Item(ytdlp.as_url(url)) for url in urls]
    yt_dlp = ytdlp.library()
    with yt_dlp.YoutubeDL(ytdlp.options(root, pace.sleep_s)) as ydl:
        _Queue(yt_dlp, ydl, root, wanted, pace, say).run(queue)


class _Queue:
    """What is still to be asked for, what is known of earlier runs, and how fast it goes."""

    def __init__(
        self, yt_dlp: ModuleType, ydl: Any, root: str, wanted: Wanted, pace: Pace, say: Callable[[str], None]
    ) -> None:
        self.yt_dlp, self.ydl, self.root, self.wanted, self.pace, self.say = yt_dlp, ydl, root, wanted, pace, say
        self.bucket = Bucket(pace.videos_per_hour)
        self.records = dict(_records(root))
        self.asked = 0
        self.done = 0
        self.waiting: deque[_Item] = deque()

    def run(self, items: Sequence[_Item]) -> None:
        self.waiting.extend(items)
        seen: set[str] = set()
        while self.waiting:
            item = self.waiting.popleft()
            key = _key(item)
            record = self.records.get(key)
            if key in seen:
                continue
            seen.add(key)
            down = bool({key, item.id} & self.wanted.takedown)
            if record is not None and self._holds(record):
                self._tell(record["name"], record["reason"] or ("taken down" if down else "already there"))
            elif down:
                self._leave(item, Refusal("taken down", "is on the list of --takedown"), again=True)
            else:
                self._take(item)

    def _holds(self, record: dict[str, Any]) -> bool:
        """Whether nothing would come out differently this time."""
        if record["again"]:
            return False
        if record["reason"]:
            return bool(record["wanted"] == _as_dict(self.wanted))
        there = storage.exists(storage.join(self.root, record["name"], record["file"]))
        return bool(there and record["wanted"]["language"] == self.wanted.language)

    def _take(self, item: _Item) -> None:
        info = item.info if item.info is not None else self._ask(item)
        if isinstance(info, Failure):
            self._leave(item, Refusal("not available", info.detail), again=info.again)
        elif info.get("_type", "video") in ("playlist", "multi_video"):
            entries = [self._entry(entry, item) for entry in info.get("entries") or () if entry]
            self.waiting.extendleft(reversed(entries))
            self.say(f"{item.url}: {counted(len(entries), 'video or list', 'videos or lists')} of them")
        else:
            self._take_video(item, info)

    def _entry(self, entry: dict[str, Any], item: _Item) -> _Item:
        url, id = str(entry.get("url") or ""), str(entry.get("id") or "")
        if entry.get("_type") in ("url", "url_transparent"):
            return _Item(url, id)
        return _Item(item.url, id, entry)

    def _ask(self, item: _Item) -> dict[str, Any] | Failure:
        if self.asked:
            time.sleep(self.pace.sleep_s * (1 + random.random()))
        self.bucket.take()
        self.asked += 1
        return self._patiently(lambda: self.ydl.extract_info(item.url, download=False))

    def _take_video(self, item: _Item, info: dict[str, Any]) -> None:
        tracks = {
            kind: [t for t in usable.tracks(info, kind) if any(f.get("ext") in FORMATS for f in info[kind][t])]
            for kind in ("subtitles", "automatic_captions")
        }
        chosen = usable.choose(info, tracks["subtitles"], tracks["automatic_captions"], self.wanted)
        if isinstance(chosen, Track) and (info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming")):
            self._leave(item, Refusal("not available", "is live; fetch it when it has ended"), again=True, info=info)
        elif isinstance(chosen, Refusal):
            self._leave(item, chosen, again=chosen.reason == "taken down", info=info)
        else:
            fetched = self._patiently(lambda: self._download(info, chosen, _name(item, info)))
            if isinstance(fetched, Failure):
                self._leave(item, Refusal("not available", fetched.detail), again=fetched.again, info=info)
                return
            self._record(item, info, file=storage.name(fetched["requested_downloads"][0]["filepath"]))
            kind = "automatic" if chosen.automatic else "uploaded"
            self._tell(_name(item, info), f"{info.get('duration') or '?'} s, {kind} captions in {chosen.name}")

    def _download(self, info: dict[str, Any], track: Track, name: str) -> dict[str, Any]:
        """As yt-dlp does with a saved info.json. Of captions that are not taken only the names stay in it."""
        saved = self.ydl.sanitize_info(info, remove_private_keys=True)
        for kind, automatic in (("subtitles", False), ("automatic_captions", True)):
            chosen = {track.name} if track.automatic == automatic else set()
            saved[kind] = {
                name: formats if name in chosen else [{"ext": formats[0].get("ext")}]
                for name, formats in (info.get(kind) or {}).items()
                if formats
            }
        self.ydl.params |= {
            "outtmpl": {**self.ydl.params["outtmpl"], "default": f"{name}/{name}.%(ext)s"},
            "subtitleslangs": [re.escape(track.name)],
            "writesubtitles": not track.automatic,
            "writeautomaticsub": track.automatic,
        }
        return dict(self.ydl.process_ie_result(saved, download=True))

    def _patiently(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any] | Failure:
        """The call's result, or why there is none. Waits where the site asks for it; raises ValueError when in vain."""
        for wait_s in (*BACK_OFF_S, None):
            try:
                return call() or Failure("yt-dlp found nothing there", again=True)
            except Exception as err:  # also what yt-dlp did not foresee: one page must not end the run
                failure = ytdlp.failure(err)
            if not failure.too_fast:
                return failure
            if wait_s is not None:
                self.say(f"asked to slow down ({failure.detail}); waiting {wait_s:g} s")
                time.sleep(wait_s)
        raise ValueError(
            f"the site does not answer any more ({failure.detail}); {counted(self.done, 'video')} done, and the same "
            "command goes on with the others: wait for some hours, and give fewer --videos-per-hour"
        )

    def _leave(self, item: _Item, refusal: Refusal, again: bool, info: dict[str, Any] | None = None) -> None:
        self._record(item, info, refusal.reason, refusal.detail, again)
        self._tell(_name(item, info), f"{refusal.reason}: {refusal.detail}")

    def _record(
        self,
        item: _Item,
        info: dict[str, Any] | None,
        reason: str = "",
        detail: str = "",
        again: bool = False,
        file: str = "",
    ) -> None:
        name = _name(item, info)
        record = {
            "name": name,
            "key": _key(item),
            "id": (info or {}).get("id") or item.id or name,
            "url": usable.source(info) if info else item.url,
            "fetched": datetime.now(UTC).date().isoformat(),
            "yt_dlp": self.yt_dlp.version.__version__,
            "duration_s": (info or {}).get("duration"),
            "wanted": _as_dict(self.wanted),
            "reason": reason,
            "detail": detail,
            "again": again,
            "file": file,
        }
        text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
        storage.write_text(storage.join(self.root, name, RECORD), text)
        before = self.records.get(_key(item))
        if before is not None and before["name"] != name:  # a failure, when only the URL was known
            storage.delete(storage.join(self.root, before["name"], RECORD))

    def _tell(self, name: str, what: str) -> None:
        self.done += 1
        self.say(f"{self.done}/{self.done + len(self.waiting)} {name}: {what}")


def _records(root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every fetch.json below `root` by the key of what was asked for."""
    for uri, _ in storage.list_files(root):
        if storage.name(uri) == RECORD:
            record = read_json(uri)
            if not record.keys() >= _FIELDS:
                raise ValueError(f"{uri}: was not written by prepare-corpus; delete it, or fetch to another --root")
            yield record["key"], record


def _as_dict(wanted: Wanted) -> dict[str, Any]:
    return {
        "language": wanted.language,
        "any_licence": wanted.any_licence,
        "automatic_captions": wanted.automatic,
    }


def _key(item: _Item) -> str:
    """What an item is known by before it is asked for."""
    return usable.video_key(item.url) + (f"#{item.id}" if item.info is not None else "")


def _name(item: _Item, info: dict[str, Any] | None) -> str:
    """Of a video's folder and files. Ids that are not YouTube's may be there twice, so they get a hash of the URL."""
    if info is None:
        key = _key(item)
        return key if usable.is_youtube_id(key) else safe_id(key)
    if usable.is_youtube(info):
        return str(info["id"])
    return safe_id(f"{info['id']}-{sha256(usable.source(info).encode()).hexdigest()[:8]}")
