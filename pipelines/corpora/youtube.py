"""Speech with captions from YouTube and other sites: fetched through yt-dlp, or a folder that yt-dlp left.

By default only what is free (a Creative Commons licence, or the public domain) and only captions that people uploaded,
in the language that is spoken. Everything else is dropped with its reason, and its hours are counted.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from configs import cli
from manifests import storage
from manifests.schema import Dropped, safe_id
from pipelines.candidates import Candidate, extra, write_toy
from pipelines.source import File
from pipelines.youtube import captions, cues, queue, rolling, transcribed, usable
from pipelines.youtube.captions import Cue
from pipelines.youtube.spoken import Spoken, spoken
from pipelines.youtube.transcribed import Row
from pipelines.youtube.usable import Refusal, Track, Wanted
from pipelines.youtube.videos import INFO, Video, videos

HELP = "videos with captions: ids, URLs, playlists and channels through yt-dlp, or a folder that it left"

CORPUS = "youtube"
SPLIT = "train"
AUTOMATIC = (
    "-automatic"  # after the split of what a machine wrote down, so that nobody takes it for a truth unknowingly
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, help="the folder of the videos, or the one to fetch them to")
    parser.add_argument(
        "--language", default="en", help="of speech and captions; en takes en-GB (default: %(default)s)"
    )
    parser.add_argument("--any-licence", action="store_true", help="also what is neither Creative Commons nor free")
    parser.add_argument(
        "--automatic-captions",
        action="store_true",
        help=f"take them where there are no uploaded ones, as split {SPLIT}{AUTOMATIC}",
    )
    parser.add_argument("--takedown", metavar="FILE", help="ids or URLs, one a line, of what must not be used")
    parser.add_argument("--list", metavar="FILE.csv", help="with ID and Transcription (and start, end): no captions")
    parser.add_argument(
        "--urls", nargs="+", default=[], metavar="URL", help="fetch these: videos, playlists, channels, or ids"
    )
    parser.add_argument("--url-list", metavar="FILE", help="more of them, one a line; # begins a comment")
    parser.add_argument(
        "--sleep-s", type=float, default=5.0, help="wait so long, up to twice, between videos (default: %(default)g)"
    )
    parser.add_argument(
        "--videos-per-hour", type=float, default=250.0, help="ask for no more than these (default: %(default)g)"
    )


def fetch(args: argparse.Namespace) -> None:
    """Download what --urls and --url-list name to --root. Raises ValueError for what the user can mend."""
    if not args.urls and not args.url_list:
        return
    if args.list:
        raise ValueError("--list: describes sound that is already there; leave out --urls and --url-list")
    urls = [*args.urls, *(queue.read_urls(args.url_list) if args.url_list else [])]
    pace = queue.Pace(args.sleep_s, args.videos_per_hour)
    queue.fetch(args.root, urls, _wanted(args), pace, lambda line: cli.say(args, line))


def candidates(args: argparse.Namespace) -> Iterator[Candidate | Dropped]:
    """Raises ValueError for a missing root, and for a list that cannot be read."""
    wanted = _wanted(args)
    if args.list:
        yield from _from_list(args.root, args.list, wanted)
        return
    found = list(videos(args.root))
    if found and all(isinstance(v, Video) and not (v.info or v.captions or v.record or v.fault) for v in found):
        raise ValueError(
            f"--root {args.root}: holds no captions and no info.json, which yt-dlp leaves beside the sound"
        )
    for item in found:
        if isinstance(item, File):
            detail = (
                "neither sound nor info.json beside it; captions are named as <name>.en.vtt, the sound as <name>.webm"
            )
            yield Dropped(safe_id(item.path), CORPUS, SPLIT, item.uri, 0.0, "", "missing file", detail)
        else:
            yield from _from_video(item, wanted)


def _wanted(args: argparse.Namespace) -> Wanted:
    takedown = usable.takedown(args.takedown) if args.takedown else frozenset()
    return Wanted(args.language, args.any_licence, args.automatic_captions, takedown)


def _from_video(video: Video, wanted: Wanted) -> Iterator[Candidate | Dropped]:
    chosen = _choose(video, wanted)
    if isinstance(chosen, Track):
        file = next(video.captions[chosen.name][f] for f in captions.FORMATS if f in video.captions[chosen.name])
        read = _read(file, chosen, wanted)
        if isinstance(read, Refusal):
            chosen = read
    if isinstance(chosen, Refusal):
        yield _left_out(video, chosen)
        return
    assert isinstance(read, list) and video.sound is not None
    automatic = chosen.automatic or rolling.rolls(read)
    split = SPLIT + AUTOMATIC * automatic
    about = _about(video, captions="automatic" if automatic else "uploaded", track=chosen.name)
    for stretch in cues.utterances(read, round(video.duration_s * 1000) or None):
        id = safe_id(f"{video.key}-{stretch.start_ms:07d}")
        offset_s, duration_s = stretch.start_ms / 1000, (stretch.end_ms - stretch.start_ms) / 1000
        if stretch.reason:
            detail = f"{storage.name(file.path)}, {stretch.detail}"
            yield Dropped(id, CORPUS, split, video.sound.uri, duration_s, stretch.text, stretch.reason, detail)
        else:
            yield _candidate(id, split, wanted.language, video, offset_s, duration_s, stretch.text, about)


def _candidate(
    id: str, split: str, language: str, video: Video, offset_s: float, duration_s: float | None, text: str, about: str
) -> Candidate:
    assert video.sound is not None
    return Candidate(
        id=id,
        corpus=CORPUS,
        split=split,
        language=language,
        speaker="",
        audio=video.sound.uri,
        size_bytes=video.sound.size_bytes,
        offset_s=offset_s,
        duration_s=duration_s,
        text_raw=text,
        licence=usable.licence(video.info),
        source=usable.source(video.info),
        extra=about,
    )


def _choose(video: Video, wanted: Wanted) -> Track | Refusal:
    if video.record.get("reason") and not video.sound:
        return Refusal(str(video.record["reason"]), str(video.record.get("detail", "")))
    if video.fault:
        return Refusal("broken info.json", video.fault)
    recognised = set(usable.tracks(video.info, "automatic_captions")) - set(usable.tracks(video.info, "subtitles"))
    automatic = {track for track in video.captions if track.endswith("-orig") or track in recognised}
    chosen = usable.choose(video.info, video.captions.keys() - automatic, automatic, wanted)
    if isinstance(chosen, Track) and not video.sound:
        return Refusal("missing file", f"no sound, such as {storage.name(video.stem)}.webm")
    return chosen


def _read(file: File, track: Track, wanted: Wanted) -> list[Cue] | Refusal:
    name = storage.name(file.path)
    try:
        found = captions.read(storage.read_text(file.uri), file.path.rpartition(".")[2].lower())
    except captions.CaptionError as err:
        return Refusal("broken captions", f"{name}, {err}")
    except ValueError as err:  # not UTF-8; it names the file
        return Refusal("broken captions", str(err))
    if not found:
        return Refusal("no captions", f"{name} holds none")
    if rolling.rolls(found) and not track.automatic and not wanted.automatic:
        detail = f"{name} rolls up the screen as only a machine writes; --automatic-captions takes it"
        return Refusal("automatic captions", detail)
    return found


def _left_out(video: Video, refusal: Refusal) -> Dropped:
    uri = video.sound.uri if video.sound else ""
    return Dropped(safe_id(video.key), CORPUS, SPLIT, uri, video.duration_s, "", refusal.reason, refusal.detail)


def _about(video: Video, **more: str) -> str:
    channel = str(video.info.get("channel") or video.info.get("uploader") or "")
    known = {"video": str(video.info["id"]), "channel": channel, "licence": usable.licence(video.info)}
    return extra(**known, **more, fetched=video.fetched, yt_dlp=video.yt_dlp)


def _from_list(root: str, list_uri: str, wanted: Wanted) -> Iterator[Candidate | Dropped]:
    """A row is an utterance; what speaks against its video speaks against it, only that it needs no captions."""
    there = {video.key: video for video in videos(root) if isinstance(video, Video)}
    for row in transcribed.read(list_uri):
        video = there.get(row.id)
        heard = spoken(row.text.split("\n"))
        refusal = _refuse_row(row, video, wanted, heard)
        whole_s = video.duration_s if video else 0.0
        if refusal is not None:
            id = safe_id(f"{row.id or 'row'}-line-{row.line}")
            uri = video.sound.uri if video and video.sound else ""
            detail = f"{storage.name(list_uri)}, line {row.line}: {refusal.detail}"
            lost_s = max(0.0, (whole_s if row.end_s is None else row.end_s) - row.start_s)
            yield Dropped(id, CORPUS, SPLIT, uri, lost_s, row.text, refusal.reason, detail)
        else:
            assert video is not None
            id = safe_id(f"{row.id}-{round(row.start_s * 1000):07d}")
            duration_s = None if row.end_s is None else row.end_s - row.start_s
            about = _about(video, captions="list")
            yield _candidate(id, SPLIT, wanted.language, video, row.start_s, duration_s, heard.text, about)


def _refuse_row(row: Row, video: Video | None, wanted: Wanted, heard: Spoken) -> Refusal | None:
    if row.fault:
        return Refusal("bad row", row.fault)
    if video is None or video.sound is None:
        return Refusal("missing file", f"no sound of {row.id}, such as {row.id}.webm")
    if not heard.text:
        return Refusal(heard.reason or "no words", "its transcription holds no words that are spoken")
    return usable.refuse(video.info, wanted)


def tiny(folder: Path) -> list[str]:
    """Two videos, one of which may not be used; returns the arguments that read them."""
    for id, licence in (("T0yV1de0_01", "Creative Commons Attribution license (reuse allowed)"), ("T0yV1de0_02", "")):
        stem = storage.join(str(folder), id, id)
        write_toy(f"{stem}.mp3", 6.0, 48000)
        lines = [
            "WEBVTT",
            "00:00.000 --> 00:01.000\n[Music]",
            "00:01.000 --> 00:02.500\n>> This is a toy",
            "00:02.500 --> 00:03.200\nof a corpus.",
            "00:04.000 --> 00:05.800\nIt holds nothing.",
        ]
        storage.write_text(f"{stem}.en.vtt", "\n\n".join(lines) + "\n")
        info = {"id": id, "duration": 6, "license": licence, "subtitles": {"en": [{"ext": "vtt"}]}, "channel": "Toys"}
        storage.write_text(stem + INFO, json.dumps(info))
    return ["--root", str(folder)]
