"""Videos as yt-dlp leaves them in a folder: sound, captions and info.json, each name starting with the same stem.

`<id>/<id>.webm`, or flat: `<title> [<id>].webm`; beside it `.en.vtt`, `.en-orig.json3`, ..., and `.info.json`. What
this project fetched also has a fetch.json in the video's own folder: when, with which yt-dlp, or why it failed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from manifests import storage
from pipelines.source import File, files
from pipelines.youtube import usable
from pipelines.youtube.captions import FORMATS

RECORD = "fetch.json"
INFO = ".info.json"
SOUND = (
    *("webm", "m4a", "mp3", "opus", "ogg", "oga", "weba", "mp4", "mkv", "mka", "mov", "m4b", "aac", "flac", "wav"),
    *("aiff", "avi", "3gp", "ts"),
)
# Of an info.json, which can have half a megabyte of formats and translations
KEPT = (
    *("id", "title", "duration", "language", "license", "channel", "uploader", "ext", "extractor", "extractor_key"),
    *("webpage_url", "original_url", "subtitles", "automatic_captions", "epoch", "_version"),
)
_ID_IN_NAME = re.compile(r".*\[([^\[\]]+)\]")


@dataclass(frozen=True, slots=True)
class Video:
    """What lies there of one video. `info` is yt-dlp's, with at least an id; `captions` by track and extension.

    `stem` is its place in the folder, without extension. `record` is its fetch.json, {} where there is none. `fault`:
    what is wrong with its info.json.
    """

    stem: str
    info: Mapping[str, Any]
    sounds: tuple[File, ...] = ()
    captions: Mapping[str, Mapping[str, File]] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def key(self) -> str:
        """What the ids of its utterances start with. Of ids only those of YouTube are known to mean one video."""
        return str(self.info["id"]) if usable.is_youtube(self.info) else storage.name(self.stem)

    @property
    def sound(self) -> File | None:
        """Of several the one that info.json tells of: the others were made of it."""
        told = [file for file in self.sounds if _extension(file.path) == self.info.get("ext")]
        return next(iter([*told, *self.sounds]), None)

    @property
    def duration_s(self) -> float:
        """0 if it is not known."""
        value = self.info.get("duration") or self.record.get("duration_s")
        return float(value) if isinstance(value, int | float) and 0 < value < 1e7 else 0.0

    @property
    def fetched(self) -> str:
        """The date, "" if it is not known."""
        epoch = self.info.get("epoch")
        told = datetime.fromtimestamp(epoch, UTC).date().isoformat() if isinstance(epoch, int | float) else ""
        return str(self.record.get("fetched") or told)

    @property
    def yt_dlp(self) -> str:
        """The version that fetched it, "" if it is not known."""
        version = self.info.get("_version")
        told = version.get("version") if isinstance(version, Mapping) else None
        return str(self.record.get("yt_dlp") or told or "")


@dataclass(slots=True)
class _Files:
    """The files of one stem."""

    info: File | None = None
    sounds: list[File] = field(default_factory=list)
    captions: dict[str, dict[str, File]] = field(default_factory=dict)


def videos(root: str) -> Iterator[Video | File]:
    """The videos below `root` by their place, then the captions that belong to none.

    Raises ValueError for a root that is missing, and for a fetch.json that is none.
    """
    found: dict[str, _Files] = {}
    captions: list[File] = []
    records: dict[str, File] = {}
    for file in files(root):
        folder, _, name = file.path.rpartition("/")
        extension = _extension(name)
        if name == RECORD:
            records[folder] = file
        elif name.endswith(INFO):
            found.setdefault(file.path.removesuffix(INFO), _Files()).info = file
        elif extension in SOUND:
            found.setdefault(file.path.rpartition(".")[0], _Files()).sounds.append(file)
        elif extension in FORMATS:
            captions.append(file)
    without = [file for file in captions if not _takes(found, file)]
    for folder in set(records) - {stem.rpartition("/")[0] for stem in found}:  # nothing came of these
        found[storage.join(folder, storage.name(folder))] = _Files()
    for stem in sorted(found):
        record = records.get(stem.rpartition("/")[0])
        video = _video(stem, found[stem], read_json(record.uri) if record else {})
        if video is not None:
            yield video
    yield from without


def read_json(uri: str) -> dict[str, Any]:
    """A JSON object. Raises ValueError for what is none."""
    try:
        value = json.loads(storage.read_text(uri))
    except json.JSONDecodeError as err:
        raise ValueError(f"{uri}, line {err.lineno}: not JSON ({err.msg})") from None
    except RecursionError:
        raise ValueError(f"{uri}: brackets in brackets, no JSON object of a downloader") from None
    if not isinstance(value, dict):
        raise ValueError(f"{uri}: not a JSON object")
    return value


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _takes(found: dict[str, _Files], captions: File) -> bool:
    """`<stem>.<track>.<extension>` goes to the video of that stem, if there is one."""
    stem, _, track = captions.path.rpartition(".")[0].rpartition(".")
    if stem in found:
        found[stem].captions.setdefault(track, {})[_extension(captions.path)] = captions
    return stem in found


def _video(stem: str, of_stem: _Files, record: dict[str, Any]) -> Video | None:
    """None for the info.json of a playlist."""
    match = _ID_IN_NAME.fullmatch(storage.name(stem))
    info: dict[str, Any] = {"id": match[1] if match else storage.name(stem)}
    if record:
        info |= {"id": record.get("id") or info["id"], "webpage_url": record.get("url")}
    fault = ""
    if of_stem.info:
        try:
            whole = read_json(of_stem.info.uri)
        except ValueError as err:
            fault, whole = str(err), {}
        if whole.get("_type", "video") != "video":
            if not of_stem.sounds and not of_stem.captions:
                return None
            fault, whole = f"{storage.name(of_stem.info.path)}: is that of a playlist", {}
        info |= {key: whole[key] for key in KEPT if whole.get(key) is not None}
    return Video(stem, info, tuple(of_stem.sounds), of_stem.captions, record, fault)
