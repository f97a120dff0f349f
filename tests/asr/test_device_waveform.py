"""Audio changed in batches: by as much as is said, the same for the same seed, and nothing comes from or to padding."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr import device_waveform, rooms, waveform_recordings
from asr.augment import AugmentConfig
from asr.device_frontend import logmel
from asr.device_waveform import WaveformAugment, change, check_waveform
from asr.formats.source import AudioError
from asr.recipe import TrainConfig
from asr.waveform_config import Level, Noise, Reverberation
from configs import load
from shards.content import Content
from shards.spec import FrontendSpec

RATE = 16000
ALL = WaveformAugment(Reverberation(0.7), Noise(0.7, (0, 40)), Level(0.7, (-30, 20)))


def batch(examples: list[np.ndarray], more: int = 0, filler: float = 0.0) -> tuple[Tensor, Tensor]:
    """[b, n] with `filler` after each example's end, `more` of it after the longest one's, and the lengths."""
    lens_b = torch.tensor([len(samples) for samples in examples])
    samples_bn = torch.full((len(examples), int(lens_b.max()) + more), filler)
    for row, samples in zip(samples_bn, examples, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    return samples_bn, lens_b


def noises(*lens: int, loudness: float = 0.1) -> list[np.ndarray]:
    return [np.random.default_rng(n).normal(0, loudness, n).clip(-1, 1).astype(np.float32) for n in lens]


def level_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def changed(examples: list[np.ndarray], waveform: WaveformAugment, seed: int = 0) -> list[np.ndarray]:
    samples_bn, lens_b = batch(examples)
    recordings = waveform_recordings.read(waveform, lens_b.tolist(), RATE, [seed])
    changed_bn = change(samples_bn, lens_b, RATE, waveform, seed, recordings)
    return [row[:n].numpy() for row, n in zip(changed_bn, lens_b.tolist(), strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    lens=st.lists(st.integers(0, 3000), min_size=1, max_size=5),
    rate=st.sampled_from([8000, 16000, 44100]),
    seed=st.integers(0, 1 << 62),
    loudness=st.sampled_from([1e-6, 0.01, 1.0, 5.0]),
)
def test_any_batch_stays_one(lens: list[int], rate: int, seed: int, loudness: float) -> None:
    samples_bn, lens_b = batch(noises(*lens, loudness=loudness), more=1, filler=float("nan"))
    before_bn = samples_bn.clone()
    changed_bn = change(samples_bn, lens_b, rate, ALL, seed)
    assert changed_bn.dtype == torch.float32 and changed_bn.shape == samples_bn.shape
    assert changed_bn.isfinite().all() and changed_bn.abs().max() <= 1.000001
    for row, n in zip(changed_bn, lens, strict=True):
        assert not row[n:].any()
    assert torch.equal(samples_bn.nan_to_num(9), before_bn.nan_to_num(9))
    assert torch.equal(changed_bn, change(samples_bn, lens_b, rate, ALL, seed))


@pytest.mark.parametrize("seed", range(4))
def test_what_follows_an_end_and_how_far_it_is_padded_changes_nothing(seed: int, speech: list[np.ndarray]) -> None:
    changed_bn = change(*batch(speech), RATE, ALL, seed)
    padded_bn = change(*batch(speech, more=9000, filler=float("inf")), RATE, ALL, seed)
    assert not padded_bn[:, changed_bn.shape[1] :].any()
    torch.testing.assert_close(padded_bn[:, : changed_bn.shape[1]], changed_bn, atol=2e-6, rtol=0)


def test_a_seed_decides_alone_and_nothing_else_is_drawn_from(speech: list[np.ndarray]) -> None:
    """Neither from the generators of the process, nor are those moved: dropout is not to depend on augmentation."""
    inputs = batch(speech)
    expected_bn = change(*inputs, RATE, ALL, 7)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert torch.equal(change(*inputs, RATE, ALL, 7), expected_bn)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert not torch.equal(change(*inputs, RATE, ALL, 8), expected_bn)


def test_silence_stays_silent_beside_speech(speech: list[np.ndarray]) -> None:
    always = WaveformAugment(Reverberation(1.0), Noise(1.0, (0, 10)), Level(1.0, (5, 20)))
    for seed in range(4):
        silent, loud = changed([np.zeros(20000, np.float32), speech[0]], always, seed)
        assert not silent.any() and loud.any()


def test_a_share_of_the_examples_is_changed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", [0.5, 0, 0, 0.2], RATE)
    soundfile.write(tmp_path / "noise.wav", noises(5000)[0], RATE)
    examples = noises(*range(400, 800))
    for part in (
        WaveformAugment(level=Level(0.3, (-6, -3))),
        WaveformAugment(noise=Noise(0.3, (0, 10))),
        WaveformAugment(noise=Noise(0.3, (0, 10), files=(f"{tmp_path}/noise.wav",))),
        WaveformAugment(Reverberation(0.3)),
        WaveformAugment(Reverberation(0.3, files=(f"{tmp_path}/click.wav",))),
    ):
        same = [np.array_equal(*pair) for pair in zip(changed(examples, part), examples, strict=True)]
        assert 75 < same.count(False) < 165  # 120 expected, a deviation is 9
    for part in (WaveformAugment(Reverberation(0.0)), WaveformAugment(noise=Noise(0.0, (0, 1)))):
        assert all(map(np.array_equal, changed(examples, part), examples))


def test_features_move_by_the_decibels_of_the_level(speech: list[np.ndarray]) -> None:
    """Each example by its own, all over the range."""
    spec, said = FrontendSpec(), []
    samples_bn, lens_b = batch([(samples / 8).astype(np.float32) for samples in speech * 4])
    plain_btf, frames_b = logmel(samples_bn, lens_b, spec)
    feats_btf, _ = logmel(
        change(samples_bn, lens_b, RATE, WaveformAugment(level=Level(1.0, (-6, 12))), 3), lens_b, spec
    )
    for plain_tf, feats_tf, frames in zip(plain_btf, feats_btf, frames_b.tolist(), strict=True):
        above = plain_tf[:frames] > -8  # louder than the floor of both
        moved_db = (feats_tf[:frames] - plain_tf[:frames])[above] * 10 / np.log(10)
        assert above.float().mean() > 0.3 and float(moved_db.max() - moved_db.min()) < 0.01
        said.append(float(moved_db.mean()))
    assert -6.01 < min(said) < -1 and 6 < max(said) < 12.01 and len({round(db, 3) for db in said}) == len(said)


def test_what_would_clip_is_scaled_down() -> None:
    loud = noises(2000, 4000, loudness=0.5)
    for before, after in zip(loud, changed(loud, WaveformAugment(level=Level(1.0, (20, 30)))), strict=True):
        np.testing.assert_allclose(after, before / np.abs(before).max(), atol=1e-6)


@pytest.mark.parametrize("decay", [-1.0, 0.0, 1.0])
def test_the_noise_is_as_strong_as_asked_over_each_examples_own_length(decay: float, speech: list[np.ndarray]) -> None:
    quiet = [(samples / 8).astype(np.float32) for samples in speech]
    part = WaveformAugment(noise=Noise(1.0, (3.0, 20.0), (decay, decay)))
    snr_db = []
    for seed in range(5):
        for before, after in zip(quiet, changed(quiet, part, seed), strict=True):
            snr_db.append(level_db(before) - level_db(after - before))
            hz, power = scipy.signal.welch(after - before, RATE)
            tilt_db = 10 * np.log10(power[hz > 4000].mean() / power[(hz > 100) & (hz < 1000)].mean())
            assert abs(tilt_db) < 1.5 if decay == 0 else tilt_db * decay < -8
    assert 2.99 < min(snr_db) < 7 and 15 < max(snr_db) < 20.01


def test_the_noise_of_two_examples_is_not_the_same(speech: list[np.ndarray]) -> None:
    examples = [speech[0] / 8, speech[0] / 8]
    one, other = changed(examples, WaveformAugment(noise=Noise(1.0, (10, 10))), 1)
    assert abs(np.corrcoef(one - examples[0], other - examples[1])[0, 1]) < 0.1


@pytest.mark.parametrize("t60_s", [0.2, 0.5])
def test_a_made_up_room_is_that_of_the_shards(t60_s: float) -> None:
    """The direct sound stays in its place; what follows it starts, decays and is as strong as in asr.rooms."""
    room = Reverberation(1.0, (t60_s, t60_s), (2.0, 2.0), (100.0, 100.0))
    click = np.zeros(12000, np.float32)
    click[100] = 0.1
    onset = 100 + round(rooms.mean_free_path_m(100.0) / rooms.SOUND_M_S * RATE)
    heard = changed([click, click], WaveformAugment(room), 5)
    assert not np.allclose(*heard, atol=1e-4)
    for response in heard:
        assert np.abs(np.delete(response[:onset], 100)).max() < 1e-6 < response[100]
        assert level_db(response) == pytest.approx(level_db(click), abs=1e-3)
        tail = response[onset:].astype(np.float64) ** 2
        strength = (2.0 / rooms.critical_distance_m(t60_s, 100.0)) ** 2
        assert np.sum(tail) / response[100] ** 2 == pytest.approx(strength, rel=2e-3)
        decay_db = 10 * np.log10(np.cumsum(tail[::-1])[::-1] / np.sum(tail))
        fall_s = (np.argmax(decay_db < -25) - np.argmax(decay_db < -5)) / RATE
        assert 3 * fall_s == pytest.approx(t60_s, rel=0.15)


def test_many_long_examples_are_convolved_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, speech: list[np.ndarray]
) -> None:
    whole = changed(speech, WaveformAugment(Reverberation(1.0)), 2)
    monkeypatch.setattr(device_waveform, "CHUNK_SAMPLES", 100_000)
    for one, other in zip(whole, changed(speech, WaveformAugment(Reverberation(1.0)), 2), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_recorded_response_is_aligned_at_its_direct_sound(speech: list[np.ndarray], tmp_path: Path) -> None:
    response = np.zeros(4000)
    response[[500, 700]] = 0.6, -0.9
    soundfile.write(tmp_path / "hall.wav", response, RATE)
    heard = changed(speech, WaveformAugment(Reverberation(1.0, files=(f"{tmp_path}/hall.wav",))))
    for before, after in zip(speech, heard, strict=True):
        wanted = 0.6 * before - 0.9 * np.concatenate([np.zeros(200, np.float32), before[:-200]])
        wanted *= np.float32(10 ** ((level_db(before) - level_db(wanted)) / 20))
        np.testing.assert_allclose(after, wanted / max(1, np.abs(wanted).max()), atol=1e-3)


def test_noise_comes_from_files_of_any_rate_and_joins_those_that_are_short(
    speech: list[np.ndarray], tmp_path: Path
) -> None:
    for hz, seconds, rate, name in ((1000, 0.3, 8000, "a.flac"), (3000, 9.0, 44100, "b.wav")):
        soundfile.write(tmp_path / name, 0.2 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate), rate)
    heard = set()
    for files in (("a.flac",), ("b.wav",), ("a.flac", "b.wav")):
        part = WaveformAugment(noise=Noise(1.0, (10, 10), files=tuple(f"{tmp_path}/{name}" for name in files)))
        quiet = [(samples / 8).astype(np.float32) for samples in speech]
        for seed in range(3):
            for before, after in zip(quiet, changed(quiet, part, seed), strict=True):
                assert level_db(before) - level_db(after - before) == pytest.approx(10, abs=0.01)
                hz, power = scipy.signal.welch(after - before, RATE, nperseg=1024)
                strong = frozenset(round(f, -3) for f in hz[power > power.max() / 100].tolist())
                assert strong <= {1000.0, 3000.0}
                heard.add(strong)
    assert heard >= {frozenset({1000.0}), frozenset({3000.0})}


def test_stretches_of_noise_that_are_joined_are_equally_loud(tmp_path: Path) -> None:
    """Else a quiet file would be a gap beside a loud one."""
    for name, loudness in (("quiet", 0.003), ("loud", 0.3)):
        soundfile.write(tmp_path / f"{name}.wav", noises(4000, loudness=loudness)[0], RATE, subtype="FLOAT")
    part = Noise(1.0, (0, 1), files=(f"{tmp_path}/quiet.wav", f"{tmp_path}/loud.wav"))
    found = waveform_recordings.read(WaveformAugment(noise=part), [80000], RATE, [0]).noise
    assert found is not None and found.samples_kn.shape == (1, 80000)
    np.testing.assert_allclose(found.samples_kn.reshape(20, 4000).square().mean(1).sqrt(), 1, atol=1e-3)


def test_a_file_that_cannot_be_used_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF no sound")
    soundfile.write(tmp_path / "silent.wav", np.zeros(800), RATE)
    with pytest.raises(AudioError, match=r"bad\.wav"):
        changed(noises(800), WaveformAugment(noise=Noise(1.0, (5, 10), files=(f"{tmp_path}/bad.wav",))))
    with pytest.raises(AudioError, match=r"silent\.wav: is silent"):
        changed(noises(800), WaveformAugment(Reverberation(1.0, files=(f"{tmp_path}/silent.wav",))))


@pytest.mark.parametrize("name", load.names("augment"))
def test_a_config_is_loaded_or_refused_for_what_changes_lengths_or_has_a_codec(name: str) -> None:
    values = (load.FOLDER / "augment" / f"{name}.yaml").read_text()
    others = [key for key in ("speed", "codec") if f"\n{key}:" in values]
    if not others:
        waveform = device_waveform.load(name)
        assert any(part is not None for part in (waveform.reverberation, waveform.noise, waveform.level))
        return
    with pytest.raises(ValueError, match=f"^waveform={name}: {' and '.join(others)} cannot be done to batches in tra"
                       f"ining; .* write-shards --augment {name} --copies N") as err:  # fmt: skip
        device_waveform.load(name)
    assert "\n" not in str(err.value)


AUDIO, LOGMEL, BOTH = Content(None, True), Content("float16", False), Content("uint8", True)


def test_a_training_that_cannot_change_its_audio_is_refused() -> None:
    masks = AugmentConfig(speed=0.1, vocal_tract=0.1, share=0, time_warp_s=0.4)
    for content in (AUDIO, BOTH):
        check_waveform(TrainConfig(waveform="rooms", augment=masks), content)
    check_waveform(TrainConfig(augment=replace(masks, share=1)), LOGMEL)
    with pytest.raises(ValueError, match=r"rooms changes audio, .* hold logmel only; .* --content audio, or .*''$"):
        check_waveform(TrainConfig(waveform="rooms", augment=masks), LOGMEL)
    both = AugmentConfig(speed=0.1, gap_s=0.2)
    said = r"augment\.speed and augment\.gap_s the features .*; train with augment\.speed=0 augment\.gap_s=0, or wave"
    with pytest.raises(ValueError, match=said):
        check_waveform(TrainConfig(waveform="rooms", augment=both), AUDIO)


@pytest.fixture(scope="module")
def speech(hum: np.ndarray) -> list[np.ndarray]:
    """Of a voice, of different lengths."""
    return [hum[:20000], hum[3000:17000], hum[:31000]]
