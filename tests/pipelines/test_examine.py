"""What listening to the audio finds, and what the row then says; through prepare-corpus folder with real files."""

import signal
import sys
from pathlib import Path
from types import FrameType

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from asr import audio
from manifests.parquet import read_manifests
from manifests.schema import MIX, Utterance
from pipelines import featurize, prepare
from pipelines.candidates import Candidate, toy
from pipelines.examine import Rules, examine

RATE = 16000
Out = pytest.CaptureFixture[str]


def speechlike(name: str, duration_s: float = 2.0) -> np.ndarray:
    """A toy that comes in bursts, as speech does, at about -20 dBFS."""
    samples = toy(name, duration_s)
    return samples * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * np.arange(len(samples)) / RATE))


def prepared(folder: Path, sounds: dict[str, np.ndarray], *options: str) -> tuple[dict[str, Utterance], dict[str, str]]:
    """The rows by id and the reasons by id, of one file for each sound."""
    lines = ["path\ttext"]
    (folder / "audio").mkdir()
    for name, samples in sounds.items():
        soundfile.write(folder / "audio" / f"{name}.wav", samples, RATE, subtype="FLOAT")
        lines.append(f"{name}.wav\tsome words of {name}")
    (folder / "list.tsv").write_text("\n".join(lines))
    argv = ["folder", "--list", f"{folder}/list.tsv", "--root", f"{folder}/audio", "--out", f"{folder}/out"]
    assert prepare.main([*argv, "--workers", "1", *options]) == 0
    reasons = {row["id"]: row["reason"] for row in pq.read_table(folder / "out" / "dropped.parquet").to_pylist()}
    return {row.id: row for row in read_manifests([f"{folder}/out"])}, reasons


def test_what_cannot_be_heard_or_is_cut_off_at_full_scale_is_dropped(tmp_path: Path) -> None:
    clear = speechlike("clear")
    sounds = {
        "clear": clear,
        "nothing": np.zeros(2 * RATE),
        "faint": 1e-4 * speechlike("faint"),
        "clipped": np.clip(30 * speechlike("clipped"), -1, 1),
    }
    rows, reasons = prepared(tmp_path, sounds)
    assert set(rows) == {"clear"}
    assert reasons == {"nothing": "too quiet", "faint": "too quiet", "clipped": "clipped"}
    assert rows["clear"].notes == "" and rows["clear"].channel == MIX


def test_the_channel_that_speaks_is_the_one_that_is_heard_later(tmp_path: Path) -> None:
    """What is decided when a corpus is prepared holds when its features are computed."""
    left, right = speechlike("left"), speechlike("right")
    sounds = {
        "both": np.stack([left, left], axis=1),
        "right-only": np.stack([np.zeros(len(right)), right], axis=1),
        "opposite": np.stack([0.9 * left, -left], axis=1)[::-1],
    }
    rows, _ = prepared(tmp_path, sounds, "--keep-leaks", "audio", "sentence")
    assert {id_: row.channel for id_, row in rows.items()} == {"both": MIX, "right-only": 1, "opposite": 1}
    assert rows["right-only"].notes and rows["opposite"].notes
    for id_ in ("right-only", "opposite"):
        row = rows[id_]
        samples = audio.read(row.audio, RATE, row.offset_s, row.duration_s, channel=row.channel)
        np.testing.assert_allclose(samples, sounds[id_][:, 1], atol=1e-6)


def test_an_offset_is_noted_and_taken_out_of_the_features(tmp_path: Path) -> None:
    clear = speechlike("clear")
    rows, _ = prepared(tmp_path, {"clear": clear, "offset": clear + 0.1}, "--keep-leaks", "audio")
    assert rows["offset"].dc_offset == pytest.approx(0.1, abs=0.01) and "offset" in rows["offset"].notes
    assert rows["clear"].dc_offset == 0.0
    shards = [f"{tmp_path}/out", "--out", f"{tmp_path}/shards", "--workers", "0"]
    assert featurize.main(["--manifest", *shards]) == 0
    feats = {}
    for row in pq.read_table(tmp_path / "shards" / "index.parquet").to_pylist():
        data = (tmp_path / "shards" / row["shard"]).read_bytes()
        values = np.frombuffer(data, np.float16, row["feature_length"] // 2, row["feature_offset"])
        feats[row["id"]] = values.astype(np.float32)
    assert np.abs(feats["offset"] - feats["clear"]).mean() < 0.05


def test_loudness_is_set_where_the_peak_allows_it(tmp_path: Path) -> None:
    quiet = 0.03 * speechlike("quiet")
    spiky = 0.03 * speechlike("spiky")
    spiky[RATE] = 0.5
    rows, _ = prepared(tmp_path, {"quiet": quiet, "spiky": spiky}, "--loudness", "-23")
    row = rows["quiet"]
    assert row.loudness_lufs is not None and row.loudness_lufs + row.gain_db == pytest.approx(-23, abs=0.01)
    assert 0 < rows["spiky"].gain_db < 6


def test_silent_ends_are_trimmed_and_the_row_says_how_much(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    speech = speechlike("speech")
    padded = np.concatenate([np.zeros(RATE), speech, np.zeros(3 * RATE)]) + 1e-5 * rng.standard_normal(6 * RATE)
    rows, _ = prepared(tmp_path, {"padded": padded}, "--trim", "40")
    row = rows["padded"]
    assert row.offset_s <= 1.0 and row.offset_s + row.duration_s >= 3.0 and row.duration_s < 3.0
    assert row.notes.startswith("trimmed 0.")


def test_headers_alone_say_nothing_about_levels(tmp_path: Path) -> None:
    rows, reasons = prepared(tmp_path, {"a": speechlike("a"), "nothing": np.zeros(RATE)}, "--headers-only")
    assert set(rows) == {"a", "nothing"} and not reasons
    assert rows["a"].loudness_lufs is None
    assert len(pq.read_table(tmp_path / "out" / "fingerprints.parquet")) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--headers-only", "--trim", "40"], "--headers-only: --loudness and --trim need the audio"),
        (["--loudness", "23"], "--loudness 23: must be between -70 and 0 LUFS"),
        (["--trim", "3"], "--trim 3: must be between 10 and 120 dB"),
    ],
)
def test_options_that_make_no_sense_are_one_line(tmp_path: Path, capsys: Out, options: list[str], message: str) -> None:
    argv = ["folder", "--list", "l.tsv", "--root", str(tmp_path), "--out", f"{tmp_path}/out", *options]
    assert prepare.main(argv) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_stretches_of_one_file_are_those_of_the_file_decoded_alone(tmp_path: Path) -> None:
    """A file is decoded once for all its utterances; what is measured must be what is read later."""
    path = tmp_path / "talk.ogg"
    soundfile.write(path, np.concatenate([speechlike(f"part {i}", 3.0) for i in range(4)]), RATE, format="OGG")
    spans = [(0.0, 2.5), (2.75, 3.25), (6.0, 5.9)]
    candidates = [
        Candidate(f"t-{i}", "c", "train", "en", "s", str(path), 0, start_s, length_s, "words", "", "")
        for i, (start_s, length_s) in enumerate(spans)
    ]
    together = examine(candidates, Rules()).utterances
    alone = [examine([candidate], Rules()).utterances[0] for candidate in candidates]
    for row, other in zip(together, alone, strict=True):
        assert row.duration_s == pytest.approx(other.duration_s, abs=1 / RATE)
        assert row.loudness_lufs == pytest.approx(other.loudness_lufs, abs=0.05)


def test_samples_far_beyond_full_scale_are_no_recording(tmp_path: Path) -> None:
    rows, reasons = prepared(tmp_path, {"clear": speechlike("clear"), "wild": 1e30 * speechlike("wild")})
    assert set(rows) == {"clear"} and reasons == {"wild": "undecodable"}


def test_damage_behind_good_headers_is_found_by_listening(speech_data: Path, tmp_path: Path) -> None:
    source = next((speech_data / "LibriSpeech" / "test-other").rglob("*.flac"))
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    (tmp_path / "bad.flac").write_bytes(data)
    (tmp_path / "good.flac").write_bytes(source.read_bytes())
    (tmp_path / "list.tsv").write_text("path\ttext\nbad.flac\tsome words\ngood.flac\tother words\n")
    argv = ["folder", "--list", f"{tmp_path}/list.tsv", "--root", str(tmp_path), "--out", f"{tmp_path}/out"]
    assert prepare.main([*argv, "--workers", "1"]) == 0
    assert [row.id for row in read_manifests([f"{tmp_path}/out"])] == ["good"]
    assert pq.read_table(tmp_path / "out" / "dropped.parquet")["reason"].to_pylist() == ["undecodable"]


def test_ctrl_c_while_a_file_is_decoded_stops_and_drops_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.wav")
    soundfile.write(uri, toy("a", 2.0), RATE)
    candidate = Candidate("a", "c", "train", "en", "", uri, 1, 0.0, None, "some words", "", "")
    sent = []

    def press(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code.co_name == "vio_read" and not sent:  # libsndfile wants bytes
            sent.append(event)
            signal.raise_signal(signal.SIGINT)

    before, handler = sys.gettrace(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.settrace(press)
        with pytest.raises(KeyboardInterrupt):
            examine([candidate], Rules())
    finally:
        sys.settrace(before)
        signal.signal(signal.SIGINT, handler)
    assert sent and len(examine([candidate], Rules()).utterances) == 1
