import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyloudnorm
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import audio, levels
from asr.audio import MIX
from asr.levels import FLOOR_DB, TRIM_MARGIN_S, Levels, choose_channel, gain_db, measure, trim

MONO_LU = 10 * np.log10(2)  # one channel is this much softer than two that are the same


def sine(peak_dbfs: float, seconds: float, rate: int = 48000, hz: float = 997.0) -> np.ndarray:
    return (10 ** (peak_dbfs / 20) * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def noise(seed: int, seconds: float, rate: int = 16000) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def loudness(samples: np.ndarray, rate: int = 48000) -> float:
    return measure(samples, rate).loudness_lufs


def ffmpeg_lufs(samples: np.ndarray, rate: int) -> float:
    """FFmpeg's ebur128 filter, which works at 48 kHz."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=rate, format="fltp", layout="mono", time_base=Fraction(1, rate))
    meter, sink = graph.add("ebur128", "metadata=1"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    graph.push(frame)
    graph.push(None)
    lufs = float("nan")
    while True:
        try:
            lufs = float(graph.pull().metadata.get("lavfi.r128.I", lufs))
        except (av.BlockingIOError, av.EOFError):
            return lufs


# Loudness


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
@pytest.mark.parametrize(
    ("parts", "stereo_lufs"),
    [
        ([(-23, 20)], -23.0),  # EBU Tech 3341, cases 1 to 5; they are for two equal channels
        ([(-33, 20)], -33.0),
        ([(-36, 10), (-23, 60), (-36, 10)], -23.0),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23.0),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -23.0),
    ],
)
def test_the_cases_of_ebu_tech_3341(parts: list[tuple[float, float]], stereo_lufs: float, rate: int) -> None:
    samples = np.concatenate([sine(peak_dbfs, seconds, rate) for peak_dbfs, seconds in parts])
    assert loudness(samples, rate) + MONO_LU == pytest.approx(stereo_lufs, abs=0.1)


def test_real_speech_measures_as_with_pyloudnorm_and_ffmpeg(speech_data: Path) -> None:
    paths = sorted(speech_data.glob("LibriSpeech/**/*.flac"))[::8]
    paths += sorted(speech_data.glob("CommonVoice/cv-corpus-6.1*/*/clips/*.mp3"))[::30]
    assert len(paths) > 15
    for path in paths:
        rate = audio.probe(str(path)).sample_rate
        samples = audio.read_channels(str(path))[:, 0]
        samples = samples[: len(samples) // (rate // 10) * (rate // 10)]  # pyloudnorm takes a part of a block for one
        ours = loudness(samples, rate)
        # the same filter as ours at any rate; pyloudnorm's default approximates the standard's
        theirs = pyloudnorm.Meter(rate, filter_class="DeMan").integrated_loudness(samples)
        assert ours == pytest.approx(theirs, abs=0.1), path
        assert ours == pytest.approx(pyloudnorm.Meter(rate).integrated_loudness(samples), abs=0.1), path
        assert ours == pytest.approx(ffmpeg_lufs(samples, rate), abs=0.1), path


def test_loudness_is_that_of_the_sound_whatever_the_rate(speech_data: Path) -> None:
    path = str(sorted(speech_data.glob("LibriSpeech/**/*.flac"))[0])
    narrow = audio.read(path, 8000)
    for rate in (11025, 16000, 44100, 48000):
        assert loudness(soxr.resample(narrow, 8000, rate), rate) == pytest.approx(loudness(narrow, 8000), abs=0.1)


def test_a_stretch_below_400_ms_is_not_gated() -> None:
    tone = sine(-20, 0.2)
    assert loudness(tone) + MONO_LU == pytest.approx(-20, abs=0.1)
    half = np.concatenate([tone, np.zeros(len(tone) - 480, np.float32)])
    assert loudness(half) + MONO_LU == pytest.approx(-20 + 10 * np.log10(len(tone) / len(half)), abs=0.1)
    assert loudness(sine(-80, 0.2)) + MONO_LU == pytest.approx(-80, abs=0.2)
    assert loudness(sine(-80, 2.0)) == FLOOR_DB  # longer, and wholly below the gate at -70


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    seconds=st.floats(0.0001, 1.5),
    level_db=st.floats(-60, 0),
    rate=st.sampled_from([8000, 16000, 44100]),
)
def test_amplifying_shifts_levels_and_nothing_else(seed: int, seconds: float, level_db: float, rate: int) -> None:
    samples = noise(seed, max(seconds, 1 / rate), rate)
    loud, soft = measure(samples, rate), measure(samples * np.float32(10 ** (level_db / 20)), rate)
    assert soft.peak_dbfs == pytest.approx(loud.peak_dbfs + level_db, abs=0.001)
    if soft.loudness_lufs > -69:
        assert soft.loudness_lufs == pytest.approx(loud.loudness_lufs + level_db, abs=0.01)
    assert 0 <= soft.silence_share <= 1 and 0 <= soft.clipped_share <= 1
    assert measure(-samples, rate).loudness_lufs == pytest.approx(loud.loudness_lufs, abs=0.001)


@pytest.mark.parametrize("count", [1, 100, 16000])
def test_nothing_at_all(count: int) -> None:
    assert measure(np.zeros(count, np.float32), 16000) == Levels(FLOOR_DB, FLOOR_DB, 0.0, 0.0, 1.0)


# Peak, offset, silence


def test_peak_of_either_sign() -> None:
    samples = noise(1, 1.0)
    samples[300], samples[200] = -0.9, 0.8
    assert measure(samples, 16000).peak_dbfs == pytest.approx(20 * np.log10(0.9), abs=1e-4)


@pytest.mark.parametrize(("added", "found"), [(0.0, 0.0), (0.0005, 0.0), (0.01, 0.01), (-0.05, -0.05)])
def test_an_offset_is_found_unless_negligible(added: float, found: float) -> None:
    samples = noise(2, 2.0)
    assert measure(samples - samples.mean() + np.float32(added), 16000).dc_offset == pytest.approx(found, abs=1e-5)


def test_an_offset_changes_no_loudness() -> None:
    assert loudness(noise(3, 5.0) + np.float32(0.05), 16000) == pytest.approx(loudness(noise(3, 5.0), 16000), abs=0.1)


@pytest.mark.parametrize("floor", [0.0, 1e-4])
def test_the_share_of_silence(floor: float) -> None:
    rest = np.float32(floor) * noise(4, 3.0)
    assert measure(np.concatenate([noise(5, 1.0), rest]), 16000).silence_share == pytest.approx(0.75, abs=0.02)
    assert measure(noise(5, 1.0), 16000).silence_share == 0.0


def test_silence_in_real_speech(speech_data: Path) -> None:
    """Joined with a minute of room tone, an utterance is mostly silence; none is by itself."""
    for path in sorted(speech_data.glob("LibriSpeech/**/*.flac"))[::10]:
        samples = audio.read(str(path))
        assert measure(samples, 16000).silence_share < 0.5, path
        room = 10 ** (-65 / 20) * np.random.default_rng(0).standard_normal(16000 * 60).astype(np.float32)
        assert measure(np.concatenate([samples, room]), 16000).silence_share > 60 / 100, path


# Clipping


def mp3(samples: np.ndarray, rate: int) -> np.ndarray:
    data = io.BytesIO()
    with av.open(data, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout, stream.bit_rate = "mono", 64000
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in [frame, None]:
            container.mux(stream.encode(part))
    return sf.read(io.BytesIO(data.getvalue()), dtype="float32")[0]


@pytest.mark.parametrize("ceiling", [1.0, 0.1])
def test_clipped_speech_is_seen_at_any_level_and_after_coding(speech_data: Path, ceiling: float) -> None:
    coded, resampled, clear = [], [], 0
    for path in sorted(speech_data.glob("LibriSpeech/**/*.flac"))[::8]:
        whole = audio.read(str(path), 48000)
        assert measure(whole, 48000).clipped_share == 0, path
        clipped = np.clip(whole * (10 ** (12 / 20) / np.abs(whole).max()), -1, 1) * np.float32(ceiling)
        share = float(np.mean(np.abs(clipped) >= ceiling))
        as_pcm = np.round(clipped * 32767) / np.float32(32768)
        assert share * 0.95 < measure(as_pcm, 48000).clipped_share < share * 1.3 + 0.005, path
        if share > 0.01:
            clear += 1
            resampled.append(measure(soxr.resample(clipped, 48000, 16000), 16000).clipped_share > share / 2)
            coded.append(measure(mp3(clipped, 48000), 48000).clipped_share > share / 2)
    assert clear >= 8 and sum(resampled) >= 0.8 * clear and sum(coded) >= 0.8 * clear


def test_whole_corpora_are_not_called_clipped(speech_data: Path) -> None:
    paths = [
        *sorted(speech_data.glob("CommonVoice/*/en/**/*.mp3"))[::4],
        *sorted(speech_data.glob("digits/**/*_?.flac"))[::3],  # one speaker's have 8 bits
        *sorted(speech_data.glob("an4/**/*.sph"))[::3],
        *sorted(speech_data.glob("LJSpeech-1.1/**/*.wav")),
    ]
    assert len(paths) > 150
    for path in paths:
        samples, rate = audio.read_channels(str(path))[:, 0], audio.probe(str(path)).sample_rate
        assert measure(samples, rate).clipped_share < 0.01, path


def test_a_clip_of_common_voice_that_is_clipped(speech_data: Path) -> None:
    (path,) = speech_data.glob("CommonVoice/*/zh-CN/clips/common_voice_zh-CN_18997366.mp3")
    assert 0.05 < measure(audio.read_channels(str(path))[:, 0], 48000).clipped_share < 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_one_flat_top_of_either_sign_counts_by_its_samples(sign: int) -> None:
    samples = np.clip(noise(6, 1.0), -0.35, 0.35)
    samples[1000:1005] = sign * 0.8
    samples[2000:2002] = sign * 0.8  # two alike may be chance
    assert measure(samples, 16000).clipped_share == 5 / 16000


@pytest.mark.parametrize("hz", [101, 220, 440, 997])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_tone_and_soft_noise_are_not_clipped(hz: float, rate: int) -> None:
    assert measure(sine(-6, 2.0, rate, hz), rate).clipped_share == 0
    dither = np.random.default_rng(0).integers(-2, 3, rate).astype(np.float32) / 32768
    assert measure(dither, rate).clipped_share == 0  # flat tops everywhere, of 2 steps


# Gain


@settings(deadline=None)
@given(
    loudness_lufs=st.floats(-70, 5),
    peak_dbfs=st.floats(-60, 6),
    target_lufs=st.floats(-40, -5),
    ceiling_dbfs=st.floats(-6, 0),
)
def test_gain_meets_the_target_or_stops_at_the_ceiling(
    loudness_lufs: float, peak_dbfs: float, target_lufs: float, ceiling_dbfs: float
) -> None:
    gain = gain_db(Levels(loudness_lufs, peak_dbfs, 0, 0, 0), target_lufs, ceiling_dbfs)
    assert loudness_lufs + gain <= target_lufs + 1e-9
    if gain > 0:
        assert peak_dbfs + gain <= ceiling_dbfs + 1e-9
    if loudness_lufs + gain < target_lufs - 1e-9:
        assert gain == max(0.0, ceiling_dbfs - peak_dbfs)


def test_gain_of_silence_and_of_real_levels() -> None:
    assert gain_db(measure(np.zeros(16000, np.float32), 16000), -23) == 0
    samples = noise(7, 3.0)
    gained = samples * np.float32(10 ** (gain_db(measure(samples, 16000), -30) / 20))
    assert loudness(gained, 16000) == pytest.approx(-30, abs=0.01)


# Channels


@pytest.mark.parametrize(
    ("left", "right", "chosen"),
    [
        (noise(1, 1.0), noise(1, 1.0), (MIX, "")),
        (noise(1, 1.0), noise(1, 1.0) + np.float32(0.2), (MIX, "")),  # an offset is no sound
        (noise(1, 1.0), noise(2, 1.0), (MIX, "2 channels averaged")),
        (noise(1, 1.0), noise(1, 1.0) * np.float32(0.1), (MIX, "2 channels averaged")),
        (noise(1, 1.0), noise(2, 1.0) * np.float32(0.04), (MIX, "2 channels averaged")),
        (noise(1, 1.0), noise(2, 1.0) * np.float32(0.02), (0, "left channel only: the other is silent")),
        (np.zeros(16000, np.float32), noise(1, 1.0), (1, "right channel only: the other is silent")),
        (np.full(16000, 0.3, np.float32), noise(1, 1.0), (1, "right channel only: the other is silent")),
        (-noise(1, 1.0), noise(1, 1.0) * np.float32(0.8), (0, "left channel only: the average is 20 dB softer")),
        (np.zeros(16000, np.float32), np.zeros(16000, np.float32), (MIX, "")),
    ],
)
def test_the_choice_of_two_channels(left: np.ndarray, right: np.ndarray, chosen: tuple[int, str]) -> None:
    assert choose_channel(np.stack([left, right], axis=1)) == chosen


def test_the_choice_of_one_and_of_many_channels() -> None:
    quiet, loud = noise(1, 1.0) * np.float32(0.001), noise(2, 1.0)
    assert choose_channel(loud[:, None]) == (MIX, "")
    assert choose_channel(np.stack([quiet, quiet, loud, quiet], axis=1)) == (
        2,
        "channel 2 (of 0 to 3) only: the others are silent",
    )
    assert choose_channel(np.stack([loud, loud, loud], axis=1)) == (MIX, "")
    assert choose_channel(np.stack([loud, noise(3, 1.0), noise(4, 1.0)], axis=1)) == (MIX, "3 channels averaged")
    assert choose_channel(np.stack([loud, quiet * np.float32(400), quiet], axis=1)) == (
        0,
        "channel 0 (of 0 to 2) only: the average is 9 dB softer",
    )


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_what_is_chosen_is_never_much_softer_than_the_loudest(weights: list[float]) -> None:
    """Two sources in two channels, mixed in any way."""
    mixture = np.stack([noise(1, 0.5), noise(2, 0.5)], axis=1) @ np.array(weights, np.float32).reshape(2, 2)
    channel, note = choose_channel(mixture)
    chosen = audio.one_channel(mixture, channel)
    assert (channel == MIX) or note
    assert np.mean(chosen**2) >= 0.24 * np.mean(mixture**2, axis=0).max()


def test_real_recordings_with_two_channels(speech_data: Path) -> None:
    alaw = audio.read_channels(str(speech_data / "other/sphere/123_2alaw.sph"))  # the second upside down
    channel, note = choose_channel(alaw)
    assert channel in (0, 1) and note.endswith("dB softer")
    assert choose_channel(audio.read_channels(str(speech_data / "other/formats/wavex_2_48k_24b.wav")))[0] == MIX


# Trimming


def test_trimming_keeps_every_word_and_takes_most_of_the_silence(speech_data: Path) -> None:
    """Spoken digits, which begin and end with /f/, /s/, /th/ and /t/, between two seconds of silence each."""
    paths = sorted(speech_data.glob("digits/fsdd/*/[3-8]_*_1*.flac"))
    assert len(paths) > 100
    room = 10 ** (-85 / 20) * np.random.default_rng(0).standard_normal(2 * 32000)
    for path in paths:
        word = audio.read(str(path))
        word = 0.5 * word / np.abs(word).max()
        samples = np.concatenate([np.zeros(32000), word, np.zeros(32000)]) + np.resize(room, 64000 + len(word))
        start_s, end_s = trim(samples.astype(np.float32), 16000, 40)
        assert 2 - TRIM_MARGIN_S - 0.05 < start_s < 2.03, path
        spoken = np.flatnonzero(np.abs(word) > 0.01)[-1] / 16000  # some recordings end with silence themselves
        assert 2 + spoken - 0.03 < end_s < 2 + len(word) / 16000 + TRIM_MARGIN_S + 0.05, path


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_trimming_leaves_what_has_no_silence(rate: int) -> None:
    assert trim(noise(1, 1.5, rate), rate, 40) == (0.0, 1.5)
    assert trim(np.zeros(rate, np.float32), rate, 40) == (0.0, 1.0)
    assert trim(np.full(rate, 0.1, np.float32), rate, 40) == (0.0, 1.0)


def test_levels_load_no_librosa_until_something_is_trimmed() -> None:
    code = "import sys, asr.levels; print(sorted({'librosa', 'numba', 'torch', 'pyloudnorm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert levels.__doc__
