import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.compliance import kaldi

from asr.frontend import BLOCK_FRAMES, FLOOR, LANES, Floats, init_state, logmel, logmel_step
from shards.spec import FrontendSpec

SPECS = {
    "default": FrontendSpec(),
    "window 320, hop 160": FrontendSpec(window_samples=320),
    "window 320, hop 200": FrontendSpec(window_samples=320, hop_samples=200),
    "window 400, hop 320": FrontendSpec(hop_samples=320),
    "window 400, hop 400": FrontendSpec(hop_samples=400),
    "8 kHz": FrontendSpec(8000, 200, 80, 256, 40, 20.0, 4000.0),
    "hann": FrontendSpec(window="hann"),
    "23 mels from 100 to 7000 Hz": FrontendSpec(mels=23, low_hz=100.0, high_hz=7000.0),
    "no pre-emphasis": FrontendSpec(preemphasis=0.0),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def definition(samples: Floats, spec: FrontendSpec) -> npt.NDArray[np.float64]:
    """The features in float64, frame by frame and filter by filter, as the formulas have them."""
    size = spec.window_samples
    hann = np.array([0.5 - 0.5 * np.cos(2 * np.pi * i / (size - 1)) for i in range(size)])
    window = hann**0.85 if spec.window == "povey" else hann
    hz = np.arange(spec.fft_samples // 2) * spec.sample_rate / spec.fft_samples
    mel_k = 1127 * np.log(1 + hz / 700)
    low, high = (1127 * np.log(1 + edge / 700) for edge in (spec.low_hz, spec.high_hz))
    feats = np.zeros((spec.num_frames(len(samples)), spec.mels))
    for t in range(len(feats)):
        frame = samples[t * spec.hop_samples : t * spec.hop_samples + size].astype(np.float64)
        frame = frame - frame.mean()
        before = np.concatenate((frame[:1], frame[:-1]))
        spectrum = np.fft.rfft((frame - spec.preemphasis * before) * window, spec.fft_samples)
        power_k = np.abs(spectrum[: spec.fft_samples // 2]) ** 2
        for m in range(spec.mels):
            left, centre, right = (low + (high - low) * (m + i) / (spec.mels + 1) for i in range(3))
            weights = np.minimum((mel_k - left) / (centre - left), (right - mel_k) / (right - centre))
            feats[t, m] = np.log(max((power_k * np.maximum(weights, 0)).sum(), np.finfo(np.float32).eps))
    return feats


def speechlike(num_samples: int, seed: int) -> Floats:
    """Harmonics of a gliding voice under a slow envelope, over noise and a DC offset."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / 16000
    phase = 2 * np.pi * (120 * time_s + 30 * time_s**2)
    voice = sum(np.sin(n * phase + rng.uniform(0, 6)) / n for n in range(1, 30))
    voiced = voice * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time_s))
    return np.asarray(0.1 * voiced + 0.003 * rng.standard_normal(num_samples) + 0.01, dtype=np.float32)


def in_chunks(samples: Floats, sizes: list[int], spec: FrontendSpec) -> Floats:
    """All frames of the samples fed in chunks of these sizes, then the rest."""
    state, feats = init_state(spec), []
    for chunk in np.split(samples, np.minimum(np.cumsum(sizes), len(samples))):
        feats_tf, state = logmel_step(chunk, state, spec)
        feats.append(feats_tf)
    return np.concatenate(feats)


@each_spec
def test_agrees_with_the_float64_definition(spec: FrontendSpec) -> None:
    samples = speechlike(spec.window_samples + 2 * spec.hop_samples * BLOCK_FRAMES // 3, seed=1)
    np.testing.assert_allclose(logmel(samples, spec), definition(samples, spec), rtol=0, atol=1e-3)


@each_spec
def test_agrees_with_kaldi(spec: FrontendSpec) -> None:
    samples = speechlike(30000, seed=2)
    np.testing.assert_allclose(logmel(samples, spec), kaldi_fbank(samples, spec), rtol=0, atol=1e-3)


def kaldi_fbank(samples: Floats, spec: FrontendSpec) -> Floats:
    feats: torch.Tensor = kaldi.fbank(
        torch.from_numpy(samples)[None],
        sample_frequency=spec.sample_rate,
        frame_length=1000 * spec.window_samples / spec.sample_rate,
        frame_shift=1000 * spec.hop_samples / spec.sample_rate,
        num_mel_bins=spec.mels,
        low_freq=spec.low_hz,
        high_freq=spec.high_hz,
        preemphasis_coefficient=spec.preemphasis,
        window_type={"povey": "povey", "hann": "hanning"}[spec.window],
        dither=0.0,
    )
    return feats.numpy()


def test_agrees_with_the_definition_and_kaldi_on_speech(speech_data: Path) -> None:
    """Within 1e-3, but for a few values where a filter lies 80 dB and more below the frame's loudest: there the noise
    of a float32 FFT shows, ours as torchaudio's."""
    spec = FrontendSpec()
    paths = sorted((speech_data / "LibriSpeech").rglob("*.flac"))[::30]
    assert paths
    for path in paths:
        samples = soundfile.read(path, dtype="float32")[0][: 4 * 16000]
        feats_tf = logmel(samples, spec)
        for expected_tf in (definition(samples, spec), kaldi_fbank(samples, spec)):
            error_tf = np.abs(feats_tf - expected_tf)
            assert np.quantile(error_tf, 0.999) < 1e-3
            assert error_tf.max() < 1e-2


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(SPECS)),
    num_samples=st.integers(0, 2 * BLOCK_FRAMES * 160),
    sizes=st.lists(st.integers(0, 3) | st.integers(0, 2000) | st.integers(0, 40000), max_size=30),
    seed=st.integers(0, 5),
)
def test_any_chunking_gives_the_same_bits(name: str, num_samples: int, sizes: list[int], seed: int) -> None:
    spec, samples = SPECS[name], speechlike(num_samples, seed)
    whole_tf, chunked_tf = logmel(samples, spec), in_chunks(samples, sizes, spec)
    assert whole_tf.shape == (spec.num_frames(num_samples), spec.mels)
    assert chunked_tf.tobytes() == whole_tf.tobytes()


@each_spec
def test_a_frame_has_the_same_bits_at_every_place_of_a_block(spec: FrontendSpec) -> None:
    """Each frame of more than a block, taken alone, gives what it gives inside the whole."""
    samples = speechlike(spec.window_samples + (BLOCK_FRAMES + LANES + 1) * spec.hop_samples, seed=3)
    whole_tf = logmel(samples, spec)
    starts = range(0, len(whole_tf) * spec.hop_samples, spec.hop_samples)
    alone_tf = np.concatenate([logmel(samples[i : i + spec.window_samples], spec) for i in starts])
    assert alone_tf.tobytes() == whole_tf.tobytes()


def test_one_sample_at_a_time() -> None:
    spec, samples = FrontendSpec(), speechlike(1500, seed=4)
    assert in_chunks(samples, [1] * 1500, spec).tobytes() == logmel(samples, spec).tobytes()


def test_a_sample_that_is_not_finite_spoils_only_the_frames_that_hold_it() -> None:
    spec, samples = FrontendSpec(), speechlike(8000, seed=5)
    sound_tf = logmel(samples, spec)
    samples[4000 - 1] = np.nan  # the last sample before frame 25
    spoilt_tf = logmel(samples, spec)
    holds_it = [i * 160 < 4000 <= i * 160 + 400 for i in range(len(sound_tf))]
    assert np.isnan(spoilt_tf[holds_it]).all()
    np.testing.assert_array_equal(np.delete(spoilt_tf, holds_it, axis=0), np.delete(sound_tf, holds_it, axis=0))


@each_spec
def test_frames_begin_with_the_first_whole_window(spec: FrontendSpec) -> None:
    sizes = [0, 1, spec.window_samples - 1, spec.window_samples, spec.window_samples + spec.hop_samples]
    assert [len(logmel(speechlike(n, seed=6), spec)) for n in sizes] == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_silence_gives_the_floor(level: float) -> None:
    feats_tf = logmel(np.full(4000, level, np.float32), FrontendSpec())
    np.testing.assert_array_equal(feats_tf, np.full((23, 80), np.log(FLOOR)))


def test_result_is_float32_in_c_order_and_the_input_stays_as_it_was() -> None:
    samples = speechlike(5000, seed=7)
    before = samples.copy()
    feats_tf = logmel(samples, FrontendSpec())
    assert feats_tf.dtype == np.float32 and feats_tf.flags.c_contiguous
    np.testing.assert_array_equal(samples, before)


def test_one_channel_of_interleaved_stereo_needs_no_copy() -> None:
    stereo = np.stack((speechlike(5000, seed=8), speechlike(5000, seed=9)), axis=1)
    left = np.ascontiguousarray(stereo[:, 0])
    np.testing.assert_array_equal(logmel(stereo[:, 0], FrontendSpec()), logmel(left, FrontendSpec()))


def test_state_holds_its_own_samples() -> None:
    """The caller may fill its buffer anew between steps, and continue twice from one state."""
    spec, samples = FrontendSpec(), speechlike(4000, seed=10)
    buffer = samples[:1999].copy()
    first_tf, state = logmel_step(buffer, init_state(spec), spec)
    buffer[:] = 0
    for _ in range(2):
        second_tf, _state = logmel_step(samples[1999:], state, spec)
        np.testing.assert_array_equal(np.concatenate((first_tf, second_tf)), logmel(samples, spec))
    assert len(state.samples) == 1999 - 10 * 160


def test_threads_do_not_meet() -> None:
    spec, inputs = FrontendSpec(), [speechlike(16000, seed) for seed in range(4)]
    expected = [logmel(samples, spec) for samples in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(30):
            if not np.array_equal(logmel(inputs[i], spec), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("samples", "received"),
    [
        (np.zeros((2, 800), np.float32), "2-D float32"),
        (np.zeros(800, np.int16), "1-D int16"),
        (np.zeros(800), "1-D float64"),
    ],
)
def test_refuses_other_arrays(samples: Floats, received: str) -> None:
    with pytest.raises(ValueError, match=f"expected 1-D float32 in .*, received {received}"):
        logmel(samples, FrontendSpec())
