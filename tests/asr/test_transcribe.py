"""The command: files in every form, many at once, and what is live, on a terminal and not, until it is stopped."""

import contextlib
import io
import itertools
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from livesite import Reply, Site, encode, entries, hls, playlist

from asr import checkpoint, transcribe
from asr.checkpoint import Bundle
from asr.live import http as live_http
from asr.live import screen as live_screen
from asr.transcribing import batch, transcript
from asr.transcribing.recordings import find
from asr.words import Word

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, hum: np.ndarray) -> Path:
    """A bundle, and recordings of several lengths and containers, one of them damaged."""
    folder = tmp_path_factory.mktemp("transcribe")
    checkpoint.save(str(folder / "bundle"), bundle)
    audio = folder / "audio"
    (audio / "b").mkdir(parents=True)
    soundfile.write(audio / "a.wav", hum, 16000)
    soundfile.write(audio / "b" / "c.flac", np.concatenate([hum[5000:], np.zeros(40000), hum]), 16000)
    soundfile.write(audio / "b" / "a.ogg", np.stack([hum[:20000], hum[:20000]], 1), 16000)
    soundfile.write(audio / "z.wav", np.zeros(8000), 16000)
    (audio / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*argv: object) -> tuple[int, str, str]:
        code = transcribe.main([*map(str, argv), "--bundle", str(folder / "bundle")])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def words(json_lines: str) -> list[list[tuple[str, float]]]:
    return [[(w["word"], w["start_s"]) for w in json.loads(line)["words"]] for line in json_lines.splitlines()]


def test_a_folder_is_every_audio_file_in_it_in_order(folder: Path, command: Command) -> None:
    code, out, err = command(folder / "audio", "--format", "json")
    assert code == 0 and err == "transcribe: files that are no audio by their names, left out: 1\n"
    names = [json.loads(line)["file"] for line in out.splitlines()]
    assert names == [str(folder / "audio" / name) for name in ("a.wav", "b/a.ogg", "b/c.flac", "z.wav")]
    said = words(out)
    assert len(said[0]) > 4 and len(said[2]) > 10 and said[3] == []
    assert all(start <= after for one in said for (_, start), (_, after) in itertools.pairwise(one))


@pytest.mark.parametrize("form", ["json", "text"])
def test_words_and_lines_do_not_depend_on_the_chunks(folder: Path, command: Command, form: str) -> None:
    outs = {command(folder / "audio", "--format", form, "--chunk-ms", ms)[1] for ms in (0, 37, 320)}
    assert len(outs) == 1


def test_many_at_once_say_what_each_says_alone(folder: Path, command: Command) -> None:
    alone = command(folder / "audio", "--format", "json", "--no-endpoints")
    assert command(folder / "audio", "--format", "json", "--batch") == alone
    # a line a file, also for one in which nothing is said
    code, out, _ = command(folder / "audio", "--batch")
    assert code == 0 and out.splitlines() == [json.loads(line)["text"] for line in alone[1].splitlines()]


@pytest.mark.parametrize("streams", [1, 2])
def test_files_that_end_make_place_for_others(folder: Path, bundle: Bundle, streams: int) -> None:
    from asr import runtimes

    listener = runtimes.open_listener(str(folder / "bundle"))
    files = [recording.uri for recording in find([str(folder / "audio")])[0]] * 2
    results = sorted(batch.recognise(listener, files, streams=streams), key=lambda result: result.number)
    assert [result.number for result in results] == list(range(8))
    texts = [" ".join(word.text for word in result.words) for result in results]
    assert texts[:4] == texts[4:] and len(set(texts)) == 4


def test_each_form_holds_the_words_of_the_others(folder: Path, command: Command) -> None:
    file = folder / "audio" / "b" / "c.flac"
    said = [word for word, _ in words(command(file, "--format", "json")[1])[0]]
    assert command(file)[1].split() == " ".join(said).split()
    srt = command(file, "--format", "srt")[1]
    assert re.sub(r"(?m)^\d+$|^.* --> .*$", "", srt).split() == " ".join(said).split()
    vtt = command(file, "--format", "vtt")[1]
    assert vtt.startswith("WEBVTT\n") and vtt.count("-->") == srt.count("-->") > 1
    rows = [line.split() for line in command(file, "--format", "ctm")[1].splitlines()]
    assert [row[4] for row in rows] == ["_".join(word.split()) for word in said] and rows[0][:2] == ["c", "1"]


def test_out_has_a_transcript_for_each_file(folder: Path, tmp_path: Path, command: Command) -> None:
    code, out, _ = command(folder / "audio", "--format", "srt", "--out", tmp_path)
    wanted = [str(tmp_path / name) for name in ("a.srt", "b/a.srt", "b/c.srt", "z.srt")]
    assert code == 0 and out.splitlines() == wanted
    assert all(Path(name).is_file() for name in wanted) and (tmp_path / "z.srt").read_text() == ""
    one = command(folder / "audio" / "a.wav", "--format", "srt")[1]
    assert (tmp_path / "a.srt").read_text() == one != ""


@pytest.mark.parametrize("many", [(), ("--batch",)])
def test_a_file_that_cannot_be_read_gets_a_line_and_the_others_go_on(
    folder: Path, tmp_path: Path, command: Command, many: tuple[str, ...]
) -> None:
    data = (folder / "audio" / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.wav").write_text("no audio")
    inputs = [tmp_path / "cut.wav", tmp_path / "text.wav", tmp_path / "none.wav", folder / "audio" / "a.wav"]
    code, out, err = command(*inputs, "--no-endpoints", *many)
    assert code == 1
    assert len(out.splitlines()) == 4 and out.splitlines()[1:3] == ["", ""] and out.splitlines()[3] != ""
    *reasons, last = err.splitlines()
    assert [reason.split(": ")[1] for reason in reasons] == [str(path) for path in inputs[:3]]
    assert last == "transcribe: error: 3 of 4 files could not be read to the end"
    code, out, err = command(*inputs, "--format", "json", "--out", tmp_path / "out", *many)
    assert code == 1 and [path.name for path in (tmp_path / "out").iterdir()] == ["a.json"]
    errors = [json.loads(line).get("error") for line in command(*inputs, "--format", "json", *many)[1].splitlines()]
    assert [bool(error) for error in errors] == [True, True, True, False]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["a.wav", "--chunk-ms", "-1"], "--chunk-ms must be 0 or more"),
        (["a.wav", "--out", ""], "--out is empty"),
        (["file.wav", "--out", "file.wav/o"], "file.wav/o: Not a directory"),
        (["a.wav", "--threads", "100000"], "--threads 100000: must be from 1 to 256"),
        (["a.wav", "--lm-weight", "nan"], "--lm-weight nan: must be from 0 to 10"),
        (["a.wav", "--save-audio", "b.wav"], "--save-audio and --microphone are for"),
        (["mic", "--batch"], "--batch and --chunk-ms 0 are for files"),
        (["mic", "--save-audio", "a.mp3"], "must end in .wav or .flac"),
        (["a.wav", "b.wav", "--format", "srt"], "name a folder for them with --out"),
        (["x/a.wav", "y/a.flac", "--out", "o"], "the transcripts of both would be o/a.txt"),
        (["."], "no audio file is in this folder"),
        (
            ["file.wav", "mic"],
            "mic: the microphone is heard alone; leave out mic or the others (a file of this name: ./mic)",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: Path, tmp_path: Path, command: Command, argv: list[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.wav").write_bytes((folder / "audio" / "a.wav").read_bytes()) if "file.wav" in argv else None
    code, _, err = command(*argv)
    assert code == 1 and error in err.splitlines()[-1]


def test_an_error_of_the_system_names_the_file(command: Command) -> None:
    for many in ((), ("--batch",)):
        assert "transcribe: error: /proc/self/mem: Input/output error" in command("/proc/self/mem", *many)[2]


@pytest.mark.parametrize("many", [(), ("--batch",)])
def test_a_file_that_is_not_there_is_one_line_and_nothing_else(command: Command, many: tuple[str, ...]) -> None:
    code, out, err = command("none.wav", *many)
    assert code == 1 and out == "" and err.startswith("transcribe: error: none.wav: ") and err.count("\n") == 1


@pytest.mark.parametrize("form", ["json", "ctm"])
def test_a_file_may_have_any_name(folder: Path, tmp_path: Path, command: Command, form: str) -> None:
    """Also one that is no text, which neither JSON nor a terminal can have."""
    names = [os.fsdecode(b"\xff\xfe.wav"), "a b.wav", "new\nline.wav", "\u65e5\u672c#1+2?%20.wav"]
    (tmp_path / "audio").mkdir()
    for name in names:
        (tmp_path / "audio" / name).write_bytes((folder / "audio" / "a.wav").read_bytes())
    code, _, _ = command(tmp_path / "audio", "--format", form, "--out", tmp_path / "out")
    texts = {path.read_text() for path in (tmp_path / "out").iterdir()}
    assert code == 0 and len(texts) == 4 and all(texts)


def test_a_terminal_that_lacks_letters_gets_escapes(
    folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "\u65e5.wav").write_bytes((folder / "audio" / "a.wav").read_bytes())
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    code, _, _ = command(tmp_path / "\u65e5.wav", "--format", "json")
    assert code == 0 and b"\\u65e5.wav" in written.getvalue() and len(written.getvalue().splitlines()) == 1


def test_where_standard_output_is_closed_it_says_nothing(folder: Path, tmp_path: Path) -> None:
    code = "from asr import commands; commands.transcribe()"
    argv = [str(folder / "audio" / "a.wav"), "--out", str(tmp_path), "--bundle", str(folder / "bundle")]
    script = 'exec "$@" >&-'
    child = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-c", code, *argv], capture_output=True, timeout=60
    )
    assert (child.returncode, child.stderr) == (0, b"") and (tmp_path / "a.txt").read_text() != ""


# --- live


def test_a_live_transcript_is_in_its_file_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the machine may die; and that the file cannot be written shows before anything is said."""
    word = Word("hello", 0.1, 0.4, 0.9, 0)
    monkeypatch.setattr(live_screen, "KEEP_S", 1000.0)
    kept = live_screen.Kept(str(tmp_path / "a.txt"))
    assert (tmp_path / "a.txt").read_text() == ""
    screen = live_screen.Plain(transcript.Text(), kept)
    screen.show([word], [], True, "")
    assert (tmp_path / "a.txt").read_text() == "hello\n"
    screen.show([word], [], True, "")  # too soon after
    assert (tmp_path / "a.txt").read_text() == "hello\n"
    monkeypatch.setattr(live_screen, "KEEP_S", 0.0)
    screen.show([], [], False, "")
    assert (tmp_path / "a.txt").read_text() == "hello\nhello\n"
    with pytest.raises(OSError):
        live_screen.Kept(str(tmp_path / "a.txt" / "b.txt"))


def test_what_a_server_says_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "http://h/\x1b]0;title\x07\x1b[2J: is gone\n"
    live_screen.Plain(transcript.Text(), sys.stdout).note(text)
    live_screen.Terminal(sys.stdout).note(text)
    out, err = capsys.readouterr()
    assert "\x07" not in out + err and "\x1b[2J" not in out + err and "\x1b" not in err


def test_a_live_stream_says_what_its_recording_says(
    folder: Path, tmp_path: Path, site: Site, command: Command, hum: np.ndarray
) -> None:
    """Through a break, too: --save-audio keeps what was heard, with silence where something is missed."""
    hls(tmp_path, np.concatenate([hum, hum, hum]), kind="fmp4")
    site.play(tmp_path)
    segments = entries((tmp_path / "a.m3u8").read_text().splitlines())
    head = '#EXT-X-MAP:URI="a.mp4"'
    site.replies["/live.m3u8"] = [
        playlist(segments[:3], head=head), Reply(status=503), playlist(segments[6:], 6, ended=True, head=head)
    ]  # fmt: skip
    kept = tmp_path / "kept.flac"
    code, out, err = command(f"{site.url}/live.m3u8", "--save-audio", kept, "--format", "json")
    assert code == 0
    said = [word for line in words(out) for word in line]
    assert len(said) > 8
    assert "503 Service Unavailable; trying again in 0.0 s" in err
    assert re.search(r"missed 1\.5 s: 3 segments gone from the playlist", err) and "heard 4." in err.splitlines()[-1]
    sound, _ = soundfile.read(kept)
    segments_s = [float(text.partition(":")[2].partition(",")[0]) for text in segments]
    hole = round(sum(segments_s[:3]) * 16000)
    assert np.abs(sound[hole + 10 : hole + 23000]).max() == 0 < np.abs(sound[hole - 2000 : hole]).max()
    # times are those of the recording
    starts = [start for _, start in said]
    assert starts == sorted(starts) and not any(hole / 16000 < start < hole / 16000 + 1.4 for start in starts)


def wav_stream(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV", subtype="PCM_16")
    data = bytearray(file.getvalue())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # as who does not know the end writes it
    return bytes(data)


def test_ctrl_c_ends_with_the_transcript_and_the_sound_so_far(
    folder: Path, tmp_path: Path, site: Site, command: Command, hum: np.ndarray
) -> None:
    """On a terminal of 60 columns, where words are shown before they are final."""
    never = threading.Event()
    data = wav_stream(np.concatenate([hum, hum]))
    site.replies["/live"] = [Reply(data + bytes(64_000), length=False, hold=never, hold_at=len(data))]
    kept = tmp_path / "kept.wav"
    ours, theirs = pty.openpty()
    code = "import sys; from asr import transcribe; sys.exit(transcribe.main(sys.argv[1:]))"
    argv = [f"{site.url}/live", "--save-audio", str(kept), "--bundle", str(folder / "bundle")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "60"}
    child = subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=theirs, stderr=subprocess.PIPE, env=environment
    )
    os.close(theirs)
    shown, sent = b"", False
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(ours, 65536):
            shown += piece
            if shown.count(b" ") > 4 and not sent:
                child.send_signal(signal.SIGINT)
                sent = True
    os.close(ours)
    _, err = child.communicate(timeout=60)
    never.set()
    assert child.returncode == 130 and b"Traceback" not in err
    sound, _ = soundfile.read(kept, dtype="int16")
    assert len(sound) > 8000
    np.testing.assert_array_equal(sound, np.frombuffer(data[44:], "<i2")[: len(sound)])
    # on the screen remain the words of what was kept, no more and no fewer
    assert "\x1b[2m" in shown.decode()
    rows = [re.split(r"\r\x1b\[K", row)[-1] for row in shown.decode().replace("\r\n", "\n").split("\n")]
    said = " ".join(row for row in rows if "heard " not in row).split()
    assert said == command(kept)[1].split() != []


def test_out_keeps_a_live_transcript_in_its_form(folder: Path, tmp_path: Path, site: Site, command: Command,
                                                  hum: np.ndarray) -> None:  # fmt: skip
    encode(hum, 16000, str(tmp_path / "talk.wav"), "wav", "pcm_s16le", {})
    site.play(tmp_path)
    argv = (f"{site.url}/talk.wav", "--format", "srt", "--out", tmp_path / "out")
    code, out, _ = command(*argv)
    assert code == 0 and out == command(tmp_path / "talk.wav")[1] != ""
    assert (tmp_path / "out" / "talk.srt").read_text() == command(tmp_path / "talk.wav", "--format", "srt")[1] != ""
    code, _, err = command(*argv)
    assert code == 1 and "talk.srt: is already there; name another folder" in err


def test_an_error_in_the_middle_keeps_the_words_before_it(
    folder: Path, tmp_path: Path, site: Site, command: Command, hum: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_http, "GIVE_UP_S", 0.05)
    hls(tmp_path, hum)
    site.play(tmp_path)
    segments = entries((tmp_path / "a.m3u8").read_text().splitlines())
    site.replies["/live.m3u8"] = [playlist(segments[:3]), Reply(status=500)]
    code, out, err = command(f"{site.url}/live.m3u8")
    assert code == 1 and out.strip() != "" and out.endswith("\n")
    assert "500 Internal Server Error; gave up after" in err.splitlines()[-1]


def test_an_address_that_leads_nowhere_is_one_line(site: Site, command: Command) -> None:
    code, out, err = command(f"{site.url}/gone.mp3")
    assert code == 1 and out == ""
    assert err == f"transcribe: error: {site.url}/gone.mp3: the server answers 404 Not Found\n"


def test_a_full_disk_ends_the_recording_and_not_the_words(
    folder: Path, tmp_path: Path, site: Site, command: Command, hum: np.ndarray
) -> None:
    encode(hum, 16000, str(tmp_path / "talk.wav"), "wav", "pcm_s16le", {})
    site.play(tmp_path)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code, out, err = command(f"{site.url}/talk.wav", "--save-audio", tmp_path / "kept.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert code == 1 and out == command(tmp_path / "talk.wav")[1] != ""
    assert "File too large; the recording ends at 0.3 s" in err.splitlines()[-1]
    assert len(soundfile.read(tmp_path / "kept.wav")[0]) == 5120
