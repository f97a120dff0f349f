"""A folder that yt-dlp left: which videos and captions are taken, what is told of the others, the older CSV."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from asr import audio
from manifests.schema import Dropped
from manifests.text import normalise
from pipelines.candidates import Candidate, write_toy
from pipelines.corpora import youtube
from pipelines.youtube import usable, videos
from pipelines.youtube.usable import Refusal, Track, Wanted

FREE = "Creative Commons Attribution license (reuse allowed)"
VTT = "WEBVTT\n\n00:00.000 --> 00:02.000\nOne caption\n\n00:02.000 --> 00:03.500\nof two.\n"
ROLLING = """WEBVTT

00:00:00.000 --> 00:00:01.990
 
one<00:00:00.500><c> two</c><00:00:01.000><c> three</c>

00:00:01.990 --> 00:00:02.000
one two three
 

00:00:02.000 --> 00:00:03.990
one two three
four<00:00:02.500><c> five</c>

00:00:03.990 --> 00:00:04.000
four five
 
"""  # noqa: W293


def arguments(root: Path, *argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    youtube.add_arguments(parser)
    return parser.parse_args(["--root", str(root), *argv])


def listed(root: Path, *argv: str) -> tuple[list[Candidate], list[Dropped]]:
    rows = list(youtube.candidates(arguments(root, *argv)))
    return [r for r in rows if isinstance(r, Candidate)], [r for r in rows if isinstance(r, Dropped)]


def video(stem: Path, captions: dict[str, str], **info: Any) -> None:
    """`captions`: text by what stands between the stem and nothing, such as .en.vtt. `info` None: no info.json."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_toy(f"{stem}.mp3", 5.0, 48000)
    for ending, text in captions.items():
        Path(f"{stem}{ending}").write_text(text)
    told = {"id": stem.name, "duration": 5, "license": FREE, "channel": "Toys", "language": "en", **info}
    Path(f"{stem}.info.json").write_text(json.dumps(told))


def reasons(root: Path, *argv: str) -> list[tuple[str, float]]:
    utterances, dropped = listed(root, *argv)
    assert utterances == []
    return [(row.reason, row.duration_s) for row in dropped]


def test_real_speech_by_default_only_what_is_free_and_written_by_people(speech_data: Path) -> None:
    utterances, dropped = listed(speech_data / "youtube")
    by_video = {json.loads(u.extra)["video"] for u in utterances}
    assert by_video == {"Lk-3vPd_9aE", "Sh4k3sp3are", "q7Rz0mXbT1k"}
    assert len({u.id for u in utterances}) == len(utterances)
    for row in utterances:
        info = audio.probe(row.audio)
        assert row.duration_s is not None and 1 <= row.duration_s <= 20
        assert row.offset_s + row.duration_s <= info.duration_s + 0.05
        assert normalise(row.text_raw, row.language)
        assert (row.split, row.language, row.speaker) == ("train", "en", "")
        assert row.licence.startswith(("Creative Commons", "Public Domain"))
        assert row.source == f"https://www.youtube.com/watch?v={json.loads(row.extra)['video']}"
    lost = [(row.reason, row.duration_s) for row in dropped if row.id == "wRdT1m3d_01"]
    assert lost == [("licence", 26.72)]
    assert {row.reason for row in dropped} == {"licence", "no words", "inaudible", "only a number"}


def test_real_speech_with_the_options_that_take_more(speech_data: Path) -> None:
    assert {r.reason for r in listed(speech_data / "youtube", "--any-licence")[1]} >= {"automatic captions"}
    utterances, _ = listed(speech_data / "youtube", "--any-licence", "--automatic-captions")
    splits = {(json.loads(u.extra)["video"], u.split, json.loads(u.extra)["captions"]) for u in utterances}
    assert ("wRdT1m3d_01", "train-automatic", "automatic") in splits
    assert ("q7Rz0mXbT1k", "train", "uploaded") in splits and len(splits) == 4
    assert {u.licence for u in utterances if u.split != "train"} == {"not stated"}


def test_flat_files_with_titles(tmp_path: Path) -> None:
    video(tmp_path / "A talk. Part 1 [q7Rz0mXbT1k]", {".en-GB.vtt": VTT, ".de.vtt": "WEBVTT"}, id="q7Rz0mXbT1k")
    write_toy(str(tmp_path / "No info [Lk-3vPd_9aE].flac"), 5.0)
    (tmp_path / "No info [Lk-3vPd_9aE].en.srt").write_text("1\n00:00:01,000 --> 00:00:04,000\nSaid.\n")
    (tmp_path / "A list [PLxyz].info.json").write_text(json.dumps({"id": "PLxyz", "_type": "playlist"}))
    (tmp_path / "stray.en.vtt").write_text(VTT)
    (tmp_path / "half [Sh4k3sp3are].webm.part").write_text("half")
    utterances, dropped = listed(tmp_path)
    assert [(u.id, u.text_raw) for u in utterances] == [("q7Rz0mXbT1k-0000000", "One caption of two.")]
    assert json.loads(utterances[0].extra)["track"] == "en-GB"
    assert [(d.id, d.reason) for d in dropped] == [("Lk-3vPd_9aE", "licence"), ("stray_en_vtt", "missing file")]
    utterances, _ = listed(tmp_path, "--any-licence")
    assert [u.id for u in utterances] == ["q7Rz0mXbT1k-0000000", "Lk-3vPd_9aE-0001000"]
    assert utterances[1].source == "https://www.youtube.com/watch?v=Lk-3vPd_9aE"


@pytest.mark.parametrize(
    ("captions", "info", "reason", "detail"),
    [
        ({".en.vtt": VTT}, {"license": None}, "licence", "not stated; --any-licence takes it"),
        ({".en.vtt": VTT}, {"license": "Standard YouTube License"}, "licence", "Standard YouTube License; --any"),
        ({".en.vtt": VTT}, {"language": "de"}, "wrong language", "de is spoken"),
        ({".en.vtt": VTT}, {"language": None, "automatic_captions": {"de-orig": []}}, "wrong language", "de is spoken"),
        ({}, {}, "no captions", "none in en; there are none at all"),
        ({".de.vtt": VTT, ".fr.vtt": VTT}, {}, "no captions", "none in en; there are de, fr"),
        ({".en-orig.vtt": VTT}, {}, "automatic captions", "only en-orig; --automatic-captions takes them"),
        ({".en.vtt": VTT}, {"automatic_captions": {"en": []}}, "automatic captions", "only en; --automatic"),
        ({".en.vtt": ROLLING}, {"subtitles": {"en": []}}, "automatic captions", "x.en.vtt rolls up the screen"),
        ({".en.vtt": "WEBVTT\n"}, {}, "no captions", "x.en.vtt holds none"),
        ({".en.vtt": "WEBVTT\n\n1 --> 2\na"}, {}, "broken captions", "x.en.vtt, line 3: '1 --> 2' is not two times"),
        ({".en.json3": "{", ".en.vtt": VTT}, {}, "broken captions", "x.en.json3, line 1: not JSON"),
    ],
)
def test_a_video_that_is_left_out_says_why_and_how_long_it_is(
    tmp_path: Path, captions: dict[str, str], info: dict[str, Any], reason: str, detail: str
) -> None:
    video(tmp_path / "x", captions, **info)
    utterances, (row,) = listed(tmp_path)
    assert utterances == []
    assert (row.id, row.reason, row.duration_s) == ("x", reason, 5.0)
    assert row.detail.startswith(detail)


def test_broken_and_missing_files_are_told(tmp_path: Path) -> None:
    video(tmp_path / "bytes", {})
    (tmp_path / "bytes.en.vtt").write_bytes("WEBVTT\n\n00:01.000 --> 00:02.000\ncafé\n".encode("latin1"))
    video(tmp_path / "info", {".en.vtt": VTT})
    (tmp_path / "info.info.json").write_text('{"id": ')
    video(tmp_path / "sound", {".en.vtt": VTT})
    (tmp_path / "sound.mp3").unlink()
    _, dropped = listed(tmp_path)
    assert [(d.id, d.reason, d.duration_s) for d in dropped] == [
        ("bytes", "broken captions", 5.0),
        ("info", "broken info.json", 0.0),
        ("sound", "missing file", 5.0),
    ]
    assert "not UTF-8" in dropped[0].detail and "line 1: not JSON" in dropped[1].detail
    with pytest.raises(ValueError, match="no such folder"):
        listed(tmp_path / "nowhere")


def test_automatic_captions_are_a_split_of_their_own(tmp_path: Path) -> None:
    video(tmp_path / "x", {".en-orig.vtt": ROLLING, ".en.vtt": ROLLING}, automatic_captions={"en": [], "en-orig": []})
    (one,), dropped = listed(tmp_path, "--automatic-captions")
    assert (one.text_raw, one.split, dropped) == ("one two three four five", "train-automatic", [])
    assert json.loads(one.extra)["captions"] == "automatic" and json.loads(one.extra)["track"] == "en-orig"


def test_languages(tmp_path: Path) -> None:
    video(tmp_path / "x", {".pt-BR.vtt": VTT, ".en.vtt": VTT, ".pt.vtt": VTT.replace("One", "Uma")}, language="pt-BR")
    assert reasons(tmp_path) == [("wrong language", 5.0)]
    assert listed(tmp_path, "--language", "pt")[0][0].text_raw.startswith("Uma")
    assert listed(tmp_path, "--language", "pt-BR")[0][0].language == "pt-BR"
    assert listed(tmp_path, "--language", "pt-BR")[0][0].text_raw.startswith("One")


def test_what_is_known_of_the_fetching_is_kept(tmp_path: Path) -> None:
    video(tmp_path / "a" / "x", {".en.vtt": VTT}, epoch=1700000000, _version={"version": "2023.11.16"})
    told = json.loads(listed(tmp_path)[0][0].extra)
    assert told == {
        **{"video": "x", "channel": "Toys", "licence": FREE, "captions": "uploaded", "track": "en"},
        **{"fetched": "2023-11-14", "yt_dlp": "2023.11.16"},
    }
    (tmp_path / "a" / "fetch.json").write_text(json.dumps({"fetched": "2026-11-25", "yt_dlp": "2026.10.26"}))
    told = json.loads(listed(tmp_path)[0][0].extra)
    assert (told["fetched"], told["yt_dlp"]) == ("2026-11-25", "2026.10.26")


def test_what_was_left_out_of_a_video_says_where(tmp_path: Path) -> None:
    cues = ["00:00.000 --> 00:01.000\n[Music]", "00:01.000 --> 00:03.000\nWords.", "00:04.500 --> 00:09.000\n- Late."]
    video(tmp_path / "x", {".en.vtt": "\n\n".join(["WEBVTT", *cues, "00:07.000 --> 00:09.000\nLater.\n"])})
    (one,), (music, late, later) = listed(tmp_path)
    assert (one.offset_s, one.duration_s) == (1.0, 2.0)
    assert (music.reason, music.text_raw, music.detail) == ("no words", "[Music]", "x.en.vtt, line 3")
    assert (late.reason, late.duration_s) == ("too short", 0.5)  # it is cut to the end of the sound
    assert later.reason == "beyond the end" and later.detail.endswith("starts at 7.00 s, the sound ends at 5.00 s")
    assert one.audio == later.audio == str(tmp_path / "x.mp3")


def test_the_list_of_takedowns(tmp_path: Path) -> None:
    for name in ("q7Rz0mXbT1k", "Lk-3vPd_9aE"):
        video(tmp_path / "root" / name / name, {".en.vtt": VTT})
    video(tmp_path / "root" / "other", {".en.vtt": VTT}, extractor_key="Vimeo", webpage_url="https://vimeo.com/12/")
    down = tmp_path / "down.txt"
    down.write_text(
        "# by its owner\nhttps://youtu.be/q7Rz0mXbT1k?t=3\n\nLk-3vPd_9aE # too\nhttps://vimeo.com/12#here\n"
    )
    assert reasons(tmp_path / "root", "--takedown", str(down)) == [("taken down", 5.0)] * 3
    down.write_text("fine\nhttps://www.youtube.com/@someone\n")
    with pytest.raises(ValueError, match=r"down\.txt, line 2: 'https://www\.youtube\.com/@someone' is neither"):
        listed(tmp_path / "root", "--takedown", str(down))
    with pytest.raises(ValueError, match=r"--takedown .*none\.txt: no such file"):
        listed(tmp_path / "root", "--takedown", str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    "url",
    [
        "https://www.youtube.com/watch?v=q7Rz0mXbT1k&list=PL123",
        "https://m.youtube.com/watch?app=desktop&v=q7Rz0mXbT1k",
        "http://youtu.be/q7Rz0mXbT1k",
        "https://www.youtube.com/shorts/q7Rz0mXbT1k",
        "https://www.youtube-nocookie.com/embed/q7Rz0mXbT1k?rel=0",
        "https://youtube.com/live/q7Rz0mXbT1k",
        "q7Rz0mXbT1k",
    ],
)
def test_all_addresses_of_a_video_are_one_key(url: str) -> None:
    assert usable.video_key(url) == "q7Rz0mXbT1k"


@pytest.mark.parametrize(
    ("text", "free"),
    [
        (FREE, True),
        ("Public Domain", True),
        ("CC0 1.0 Universal", True),
        ("CC-BY-SA", True),
        ("cc by 4.0", True),
        ("http://creativecommons.org/licenses/by-nc/4.0/", True),
        ("Standard YouTube License", False),
        ("not Creative Commons", False),
        ("", False),
        ("ccx", False),
    ],
)
def test_which_licences_are_free(text: str, free: bool) -> None:
    assert usable.is_free(text) is free


def test_translations_by_a_machine_are_never_taken() -> None:
    wanted = Wanted("en", automatic=True)
    info = {"id": "x", "license": FREE}
    assert usable.choose(info, [], ["en-de", "de"], wanted) == Refusal("no captions", "none in en; there are de, en-de")
    assert usable.choose(info, [], ["en-US", "en-de"], wanted) == Track("en-US", automatic=True)
    assert usable.choose(info, ["en-orig"], ["en", "en-orig"], wanted) == Track("en-orig", automatic=True)


def test_the_older_csv(tmp_path: Path) -> None:
    for name in ("q7Rz0mXbT1k", "Lk-3vPd_9aE"):
        video(tmp_path / "root" / name, {})
    write_toy(str(tmp_path / "root" / "bare.mp3"), 2.0, 48000)
    rows = tmp_path / "list.csv"
    rows.write_text(
        "ID,Transcription,Start,End\n"
        'q7Rz0mXbT1k,">> Said, ""so"".",,\n'
        "Lk-3vPd_9aE,One,0.5,2\n"
        "Lk-3vPd_9aE,[Music],2,3\n"
        "Lk-3vPd_9aE,Two,3,2\n"
        "gone,Three,,\n"
        "bare,Four,,\n"
        "short\n"
    )
    utterances, dropped = listed(tmp_path / "root", "--list", str(rows))
    assert [(u.id, u.text_raw, u.offset_s, u.duration_s) for u in utterances] == [
        ("q7Rz0mXbT1k-0000000", 'Said, "so".', 0.0, None),
        ("Lk-3vPd_9aE-0000500", "One", 0.5, 1.5),
    ]
    assert [(d.id, d.reason) for d in dropped] == [
        ("Lk-3vPd_9aE-line-4", "no words"),
        ("Lk-3vPd_9aE-line-5", "bad row"),
        ("gone-line-6", "missing file"),
        ("bare-line-7", "licence"),
        ("row-line-8", "bad row"),
    ]
    assert dropped[1].detail == "list.csv, line 5: ends at 2 s, not after its start at 3 s"
    assert len(listed(tmp_path / "root", "--list", str(rows), "--any-licence")[0]) == 3
    down = tmp_path / "down.txt"
    down.write_text("q7Rz0mXbT1k\n")
    assert len(listed(tmp_path / "root", "--list", str(rows), "--takedown", str(down))[0]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Id,Text\na,b\n", r"list\.csv: has no column transcription; it has id, text"),
        ("", r"list\.csv: has no column id and no transcription"),
        ('ID,Transcription\na,"b\n', r"list\.csv, line 2: not CSV"),
    ],
)
def test_a_csv_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        listed(tmp_path, "--list", str(tmp_path / "list.csv"))


def test_an_info_json_of_a_playlist_does_not_hide_a_video(tmp_path: Path) -> None:
    video(tmp_path / "x", {".en.vtt": VTT}, _type="playlist")
    assert reasons(tmp_path) == [("broken info.json", 0.0)]


def test_of_several_sounds_the_one_that_was_downloaded_is_read(tmp_path: Path) -> None:
    video(tmp_path / "x", {".en.vtt": VTT}, ext="wav")
    write_toy(str(tmp_path / "x.wav"), 5.0)
    (found,) = videos.videos(str(tmp_path))
    assert isinstance(found, videos.Video) and found.sound is not None and found.sound.path == "x.wav"
