"""Augmented copies: speech stays where it was, what is recorded is what was done, and a seed always gives the same."""

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import audio, codecs, rooms
from asr.formats.source import AudioError
from asr.waveform import augment
from asr.waveform_config import (
    Codec,
    Level,
    Noise,
    Reverberation,
    Speed,
    WaveformConfig,
    audio_files,
    load_config,
)
from configs import load
from manifests import storage

CONFIGS = load.names("augment")
ROOT = Path(__file__).resolve().parents[2]
WORST_LAG_S = 0.002


@pytest.fixture(scope="module")
def speech(speech_data: Path) -> np.ndarray:
    """Two seconds of a reading, at 16 kHz; loud, soft and silent."""
    path = sorted((speech_data / "LibriSpeech/test-other").rglob("*.flac"))[0]
    return audio.read(str(path), 16000, 1.0, 2.0)


def lag_s(changed_t: np.ndarray, samples_t: np.ndarray, rate: int = 16000) -> float:
    """Where the strongest sample of the response is that makes the one of the other (by regularised division)."""
    size = len(changed_t) + len(samples_t)
    spectrum, changed = np.fft.rfft(samples_t, size), np.fft.rfft(changed_t, size)
    power = np.abs(spectrum) ** 2
    response_t = np.fft.irfft(spectrum.conj() * changed / (power + 0.1 * power.mean()), size)
    place = int(np.abs(response_t).argmax())
    return (place if place < len(samples_t) else place - size) / rate


def level_db(samples_t: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples_t, dtype=np.float64))))


def snr_db(changed_t: np.ndarray, samples_t: np.ndarray) -> float:
    return level_db(samples_t) - level_db(changed_t - samples_t)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_what_it_is_for_and_changes_speech(name: str, speech: np.ndarray) -> None:
    assert (load.FOLDER / "augment" / f"{name}.yaml").read_text().startswith("# ")
    config = load_config(name)
    done = [augment(speech, 16000, config, seed) for seed in range(12)]
    named = {what["name"] for _, applied in done for what in applied}
    wanted = {part for part in ("speed", "reverberation", "noise", "level", "codec") if getattr(config, part)}
    assert named >= wanted and json.loads(json.dumps([applied for _, applied in done])) == [a for _, a in done]
    for changed_t, applied in done:
        assert changed_t.dtype == np.float32 and np.isfinite(changed_t).all() and np.abs(changed_t).max() <= 1
        factor = next((what["factor"] for what in applied if what["name"] == "speed"), 1.0)
        assert len(changed_t) == round(len(speech) / factor)
        assert bool(applied) != np.array_equal(changed_t, speech)
    assert len({changed_t.tobytes() for changed_t, _ in done}) == len({json.dumps(applied) for _, applied in done}) > 5


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("codec", list(codecs.KBITS))
def test_a_codec_leaves_speech_where_it_was(codec: str, rate: int, speech: np.ndarray) -> None:
    samples_t = speech[:: 16000 // rate]
    for kbits in (codecs.KBITS[codec][0], codecs.KBITS[codec][-1]):
        coded_t = codecs.round_trip(samples_t, rate, codec, kbits)
        assert coded_t.dtype == np.float32 and len(coded_t) == len(samples_t)
        assert abs(lag_s(coded_t, samples_t, rate)) <= WORST_LAG_S
        assert abs(level_db(coded_t) - level_db(samples_t)) < 4  # the telephone leaves out the fundamental
    assert snr_db(coded_t, samples_t) > (5 if codec in codecs.CHOSEN else 2.5)  # at the best bit rate


@pytest.mark.parametrize("codec", codecs.CHOSEN)
def test_more_bits_are_nearer_to_the_original(codec: str, speech: np.ndarray) -> None:
    ends = codecs.KBITS[codec][0], codecs.KBITS[codec][-1]
    low_db, high_db = (snr_db(codecs.round_trip(speech, 16000, codec, kbits), speech) for kbits in ends)
    assert high_db > low_db + 6


@pytest.mark.parametrize("codec", ["mulaw", "alaw", "gsm"])
def test_the_telephone_has_its_band(codec: str) -> None:
    noise_t = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    hz, power = scipy.signal.welch(codecs.round_trip(noise_t, 16000, codec, codecs.KBITS[codec][0]), 16000)
    inside = power[(hz > 400) & (hz < 3300)].mean()
    assert power[hz > 4100].mean() < inside / 1e4 and power[hz < 150].mean() < inside / 10


def test_speech_stays_in_place_in_all_rooms_and_keeps_its_level(speech: np.ndarray) -> None:
    near = WaveformConfig(reverberation=Reverberation(1.0, (0.2, 0.8), (0.5, 2.0), (50, 300)))
    for seed in range(8):
        changed_t, (what,) = augment(speech, 16000, near, seed)
        assert set(what) == {"name", "t60_s", "distance_m", "volume_m3"}
        assert len(changed_t) == len(speech) and not np.array_equal(changed_t, speech)
        assert abs(lag_s(changed_t, speech)) <= WORST_LAG_S, what
        assert abs(level_db(changed_t) - level_db(speech)) < 0.01


@pytest.mark.parametrize("t60_s", [0.2, 0.5, 1.0])
def test_a_made_up_room_decays_as_it_says(t60_s: float) -> None:
    response_t = rooms.response(16000, t60_s, 2.0, 100.0, np.random.default_rng(1)).astype(np.float64)
    assert response_t[0] == 1
    energy = np.sum(response_t[1:] ** 2)
    assert energy == pytest.approx((2.0 / rooms.critical_distance_m(t60_s, 100.0)) ** 2, rel=1e-3)
    # Schroeder's backward integration: from -5 to -25 dB in a third of T60
    decay_db = 10 * np.log10(np.cumsum(response_t[::-1] ** 2)[::-1] / energy)[1:]
    fall_s = (np.argmax(decay_db < -25) - np.argmax(decay_db < -5)) / 16000
    assert 3 * fall_s == pytest.approx(t60_s, rel=0.15)


def test_a_recorded_response_is_aligned_at_its_direct_sound(speech: np.ndarray, tmp_path: Path) -> None:
    """Not at the beginning of the file, nor at a reflection that is stronger than the direct sound."""
    response_t = np.zeros(4000)
    response_t[[500, 700]] = 0.6, -0.9
    soundfile.write(tmp_path / "hall.wav", response_t, 16000)
    config = WaveformConfig(reverberation=Reverberation(1.0, files=(str(tmp_path),)))
    changed_t, (what,) = augment(speech, 16000, config, 3)
    assert what == {"name": "reverberation", "file": f"{tmp_path}/hall.wav"}
    wanted_t = 0.6 * speech - 0.9 * np.concatenate([np.zeros(200, np.float32), speech[:-200]])
    factor = 10 ** ((level_db(speech) - level_db(wanted_t)) / 20)
    np.testing.assert_allclose(changed_t, wanted_t * factor, atol=1e-3)


@pytest.mark.parametrize("decay", [-1.0, 0.0, 2.0])
def test_the_noise_is_as_strong_as_it_says(decay: float, speech: np.ndarray) -> None:
    config = WaveformConfig(noise=Noise(1.0, (3.0, 20.0), (decay, decay)))
    said = []
    for seed in range(8):
        changed_t, applied = augment(speech, 16000, config, seed)
        assert [what["name"] for what in applied] == ["noise"] and applied[0]["decay"] == decay
        assert snr_db(changed_t, speech) == pytest.approx(applied[0]["snr_db"], abs=0.02)
        said.append(applied[0]["snr_db"])
    assert 2.9 < min(said) < 10 < max(said) < 20.1
    hz, power = scipy.signal.welch(changed_t - speech, 16000)
    tilt_db = 10 * np.log10(power[hz > 4000].mean() / power[(hz > 100) & (hz < 1000)].mean())
    assert abs(tilt_db) < 1 if decay == 0 else tilt_db * decay < -10


@pytest.mark.parametrize(("decay", "db_per_octave"), [(0.5, -3), (1.0, -6)])
def test_noise_is_pink_and_brown_as_documented(decay: float, db_per_octave: float) -> None:
    tone_t: np.ndarray = np.sin(np.arange(160_000, dtype=np.float32) / 5) / np.float32(16)
    changed_t, _ = augment(tone_t, 16000, WaveformConfig(noise=Noise(1.0, (0, 0), (decay, decay))), 2)
    hz, power = scipy.signal.welch(changed_t - tone_t, 16000, nperseg=2048)
    octaves = [10 * np.log10(power[(hz > low) & (hz <= 2 * low)].mean()) for low in (500, 1000, 2000, 4000)]
    assert np.polyfit(range(4), octaves, 1)[0] == pytest.approx(db_per_octave, abs=1)


def test_noise_comes_from_files_of_any_rate_and_format(speech: np.ndarray, speech_data: Path, tmp_path: Path) -> None:
    """Also when they are shorter than the utterance, and also from below a folder."""
    (tmp_path / "street").mkdir()
    for place, seconds, rate, name in ((tmp_path, 0.7, 8000, "a.flac"), (tmp_path / "street", 0.9, 44100, "b.wav")):
        hum = 0.2 * np.sin(2 * np.pi * 1000 * np.arange(round(seconds * rate)) / rate)
        soundfile.write(place / name, hum, rate)
    config = WaveformConfig(noise=Noise(1.0, (10.0, 10.0), files=(str(tmp_path),)))
    used = set()
    for seed in range(6):
        changed_t, (what,) = augment(speech, 16000, config, seed)
        assert what["snr_db"] == pytest.approx(10, abs=0.05) == snr_db(changed_t, speech)
        assert len(what["files"]) >= 3
        used |= set(what["files"])
        hz, power = scipy.signal.welch(changed_t - speech, 16000, nperseg=1024)
        assert abs(hz[power.argmax()] - 1000) < 20
    assert used == {f"{tmp_path}/a.flac", f"{tmp_path}/street/b.wav"}


def test_noise_in_an_object_store_is_the_same_noise(bucket: str, speech: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 80000), 16000)
    storage.write_bytes(f"{bucket}/noise/a.wav", (tmp_path / "a.wav").read_bytes())
    here, there = (
        augment(speech, 16000, WaveformConfig(noise=Noise(1.0, (0, 9), files=(files,))), 5)
        for files in (str(tmp_path), f"{bucket}/noise")
    )
    assert np.array_equal(here[0], there[0]) and there[1][0]["files"] == [f"{bucket}/noise/a.wav"]


def test_a_config_is_loaded_with_the_files_that_its_folders_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noise").mkdir()
    for name in ("b.wav", "a.opus", "readme.txt"):
        (tmp_path / "noise" / name).write_bytes(b"")
    (tmp_path / "mine.yaml").write_text("noise: {share: 1, snr_db: [5, 10], files: [noise, x.flac]}")
    monkeypatch.chdir(tmp_path)
    noise = load_config("mine.yaml").noise
    assert noise and noise.files == tuple(f"{tmp_path}/{name}" for name in ("noise/a.opus", "noise/b.wav", "x.flac"))
    with pytest.raises(ValueError, match=f"{tmp_path}/none: no audio files"):
        audio_files((f"{tmp_path}/none",))


def test_a_file_that_is_no_noise_or_response_is_told_by_its_name(speech: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF no sound")
    soundfile.write(tmp_path / "silent.wav", np.zeros(800), 16000)
    with pytest.raises(AudioError, match=r"silent\.wav: is silent"):
        augment(speech, 16000, WaveformConfig(reverberation=Reverberation(1.0, files=(f"{tmp_path}/silent.wav",))), 0)
    with pytest.raises(AudioError, match=r"bad\.wav"):
        augment(speech, 16000, WaveformConfig(noise=Noise(1.0, (5, 10), files=(f"{tmp_path}/bad.wav",))), 0)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_speed_changes_length_and_pitch_together(rate: int) -> None:
    tone_t = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)).astype(np.float32)
    for seed in range(5):
        changed_t, (what,) = augment(tone_t, rate, WaveformConfig(speed=Speed(1.0, (0.8, 1.2))), seed)
        assert len(changed_t) == round(rate / what["factor"])
        hz, power = scipy.signal.periodogram(changed_t, rate)
        assert hz[power.argmax()] == pytest.approx(1000 * what["factor"], abs=2)


def test_what_would_clip_is_scaled_down_and_that_is_recorded(speech: np.ndarray) -> None:
    loud_t: np.ndarray = speech / np.abs(speech).max()
    changed_t, (level, scaled) = augment(loud_t, 16000, WaveformConfig(level=Level(1.0, (5, 6))), 1)
    assert level["name"] == "level" and 5 <= level["gain_db"] <= 6
    assert scaled["name"] == "scaled" and scaled["gain_db"] == pytest.approx(-level["gain_db"], abs=0.001)
    np.testing.assert_allclose(changed_t, loud_t, atol=1e-6)
    soft_t, (level,) = augment((speech / 4).astype(np.float32), 16000, WaveformConfig(level=Level(1.0, (-9, -8))), 1)
    assert level_db(soft_t) - level_db(speech / 4) == pytest.approx(level["gain_db"], abs=1e-3)
    too_loud_t, applied = augment(3 * loud_t, 16000, WaveformConfig(), 0)
    assert [what["name"] for what in applied] == ["scaled"] and np.abs(too_loud_t).max() <= 1


def test_silence_stays_silence_and_nothing_is_said_of_it() -> None:
    for seed in range(5):
        changed_t, applied = augment(np.zeros(8000, np.float32), 16000, load_config("all"), seed)
        assert applied == [] and not changed_t.any()


def test_a_share_of_the_utterances_is_changed(speech: np.ndarray) -> None:
    config = WaveformConfig(level=Level(0.3, (-6, -3)))
    changed = [augment(speech[:1600], 16000, config, seed) for seed in range(300)]
    assert 60 < sum(bool(applied) for _, applied in changed) < 120
    assert all(np.array_equal(samples_t, speech[:1600]) for samples_t, applied in changed if not applied)


ALWAYS = WaveformConfig(
    Speed(0.5, (0.8, 1.25)), Reverberation(0.7), Noise(0.7, (0, 40)), Level(0.7, (-30, 20)),
    Codec(0.7, ("mp3", "opus", "mulaw", "alaw", "gsm"), (6, 64)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 3000),
    rate=st.sampled_from([8000, 16000, 22050, 44100]),
    seed=st.integers(0, 1 << 64),
    loudness=st.sampled_from([1e-6, 0.01, 1.0]),
)
def test_any_utterance_stays_one(count: int, rate: int, seed: int, loudness: float) -> None:
    samples_t = np.random.default_rng(count).uniform(-loudness, loudness, count).astype(np.float32)
    before = samples_t.copy()
    changed_t, applied = augment(samples_t, rate, ALWAYS, seed)
    factor = next((what["factor"] for what in applied if what["name"] == "speed"), 1.0)
    assert changed_t.dtype == np.float32 and len(changed_t) == max(1, round(count / factor))
    assert np.isfinite(changed_t).all() and np.abs(changed_t).max() <= 1
    assert np.array_equal(samples_t, before)
    json.dumps(applied, allow_nan=False)


IN_ANOTHER_PROCESS = """
import hashlib, sys
import numpy as np, torch
from asr.waveform import augment
from asr.waveform_config import load_config

torch.set_num_threads(int(sys.argv[1]))
samples_t = np.load(sys.argv[2])
for seed in map(int, sys.argv[3].split(",")):
    changed_t, applied = augment(samples_t, 16000, load_config("all"), seed)
    print(hashlib.sha256(changed_t.tobytes()).hexdigest(), applied)
"""


def test_a_seed_gives_the_same_bytes_in_any_process_order_and_number_of_threads(
    speech: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "speech.npy", speech)
    seeds = range(19, -1, -1)
    argv = [sys.executable, "-c", IN_ANOTHER_PROCESS, "2", f"{tmp_path}/speech.npy", ",".join(map(str, seeds))]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    here = [augment(speech, 16000, load_config("all"), seed) for seed in range(20)]
    lines = [f"{hashlib.sha256(changed_t.tobytes()).hexdigest()} {applied}" for changed_t, applied in here]
    assert done.stdout.splitlines() == lines[::-1] and len(set(lines)) > 15


def test_the_generators_and_threads_of_the_process_are_left_as_they_were(speech: np.ndarray) -> None:
    def state() -> list[Any]:
        numbers = np.random.get_state(legacy=False)["state"]["key"]
        return [torch.get_rng_state().tolist(), random.getstate(), numbers.tolist(), torch.get_num_threads()]

    before = state()
    augment(speech, 16000, replace(ALWAYS, noise=Noise(1.0, (0, 10))), 7)
    assert state() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed: {share: 1.5, factor: [0.9, 1.1]}", "augment.speed.share is 1.5; it is a share of the utterances"),
        ("speed: {share: 1, factor: [1.1, 0.9]}", r"augment.speed.factor is \[1.1, 0.9\]; write \[least, most\]"),
        ("speed: {share: 1, factor: [0, 1]}", r"augment.speed.factor is \[0.0, 1.0\]; both must be from 0.5 to 2"),
        ("speed: {factor: [0.9, 1.1]}", "speed: share is missing"),
        ("noise: {share: 1, snr: [5, 20]}", r"noise: unknown key snr \(did you mean snr_db"),
        ("noise: {share: 1, snr_db: [5, .inf]}", "augment.noise.snr_db is .*; both must be from -40 to 100"),
        ("reverberation: {share: 1, distance_m: [0, 1]}", "augment.reverberation.distance_m is .* above 0"),
        ("level: {share: 1, gain_db: [3, 3]}", "augment.level.gain_db is .* must differ"),
        ("codec: {share: 1, names: [mp4]}", "codec.names is 'mp4'; it can be mp3, opus"),
        ("codec: {share: 1, names: []}", "augment.codec.names is empty; there are mp3"),
        ("codec: {share: 1, names: [gsm, mp3], kbits: [9, 11]}", "mp3 can have 8, 16"),
        ("rooms: 1", "unknown key rooms"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_words(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(f"{tmp_path}/a.yaml")
