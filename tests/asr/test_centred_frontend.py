"""Features by librosa's definition: those of librosa, the same bits however the samples come, and on any device."""

import subprocess
import sys

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import device_frontend, logmel_ir
from asr.frontend import ADDED, Floats, init_state, logmel, logmel_finish, logmel_step, mel_filters, window
from shards.spec import FrontendSpec
from tests.asr.test_frontend import GUARDED, baseline, speechlike, whole_numbers


def centred(window_samples: int, hop: int, mels: int = 80, fft: int = 512, high_hz: float = 8000.0) -> FrontendSpec:
    return FrontendSpec(16000, window_samples, hop, fft, mels, 0.0, high_hz, 0.97, "hann", "librosa")


SPECS = {
    "E4D1": centred(320, 160),
    "E6D2": centred(320, 200),
    "E6D2-large-batch": centred(400, 320),
    "window 399, hop 157, 37 mels up to 7 kHz": centred(399, 157, 37, high_hz=7000.0),
    "window as long as the FFT": centred(256, 100, 23, 256),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def by_librosa(samples: Floats, spec: FrontendSpec) -> npt.NDArray[np.float64]:
    emphasised = np.append(samples[:1], samples[1:] - spec.preemphasis * samples[:-1]).astype(np.float64)
    stft = librosa.stft(
        emphasised, n_fft=spec.fft_samples, hop_length=spec.hop_samples, win_length=spec.window_samples,
        window=np.hanning(spec.window_samples), center=True, pad_mode="reflect",
    )  # fmt: skip
    filters = librosa.filters.mel(sr=spec.sample_rate, n_fft=spec.fft_samples, n_mels=spec.mels, fmin=spec.low_hz,
                                  fmax=spec.high_hz, dtype=np.float64)  # fmt: skip
    return np.log(filters @ np.abs(stft) ** 2 + 1e-20).T


def in_chunks(samples: Floats, sizes: list[int], spec: FrontendSpec) -> Floats:
    state, feats = init_state(spec), []
    for chunk in np.split(samples, np.minimum(np.cumsum(sizes), len(samples))):
        feats_tf, state = logmel_step(chunk, state, spec)
        feats.append(feats_tf)
    return np.concatenate([*feats, logmel_finish(state, spec)])


@each_spec
def test_agrees_with_librosa(spec: FrontendSpec) -> None:
    """Within 1e-4 of it in float64; the sizes end a frame early, late, and exactly."""
    for size in (1000, 16000, 16000 + spec.hop_samples // 2, 20 * spec.hop_samples):
        samples = speechlike(size, seed=1)
        feats_tf = logmel(samples, spec)
        assert feats_tf.dtype == np.float32
        np.testing.assert_allclose(feats_tf, by_librosa(samples, spec), rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(SPECS)),
    num_samples=st.integers(0, 700) | st.integers(0, 20000),
    sizes=st.lists(st.integers(0, 3) | st.integers(0, 2000), max_size=30),
)
def test_any_chunking_gives_the_same_bits(name: str, num_samples: int, sizes: list[int]) -> None:
    spec, samples = SPECS[name], speechlike(num_samples, seed=2)
    whole_tf = logmel(samples, spec)
    assert whole_tf.shape == (spec.num_frames(num_samples), spec.mels)
    assert in_chunks(samples, sizes, spec).tobytes() == whole_tf.tobytes()


def test_frames_come_half_a_window_after_their_middle_and_the_rest_at_the_end() -> None:
    spec, state, come = centred(400, 320), init_state(centred(400, 320)), []
    for sample in speechlike(1000, seed=3):
        feats_tf, state = logmel_step(np.array([sample]), state, spec)
        come.append(len(feats_tf))
    # the first frame waits until there is enough to reflect; frames 1 and 2 are in the middle of samples 320 and 640
    assert np.flatnonzero(come).tolist() == [256, 519, 839] and len(logmel_finish(state, spec)) == 1


def test_a_state_is_a_value() -> None:
    spec, samples = centred(400, 320), speechlike(4000, seed=4)
    buffer = samples[:1999].copy()
    first_tf, state = logmel_step(buffer, init_state(spec), spec)
    buffer[:] = 0
    for _ in range(2):
        second_tf, after = logmel_step(samples[1999:], state, spec)
        for _ in range(2):
            all_tf = np.concatenate((first_tf, second_tf, logmel_finish(after, spec)))
            np.testing.assert_array_equal(all_tf, logmel(samples, spec))
    assert len(state.samples) < 1000 and state.samples.base is None


def test_silence_gives_what_is_added_and_nothing_gives_nothing() -> None:
    spec = centred(400, 320)
    np.testing.assert_allclose(logmel(np.zeros(4000, np.float32), spec), np.log(ADDED), rtol=1e-6)
    for size in (0, 1, 256):
        assert logmel(np.zeros(size, np.float32), spec).shape == (0, 80)


def test_the_bits_are_the_same_on_every_processor() -> None:
    spec, samples = centred(400, 320), whole_numbers(8000)
    signal = np.ascontiguousarray(samples[:6400])
    feats = [np.empty((10, 80), np.float32) for _ in range(2)]
    for cpu, feats_tf in zip((None, baseline()), feats, strict=True):
        logmel_ir.kernel(spec, window(spec), mel_filters(spec), ADDED, cpu)(signal, feats_tf)
    assert feats[0].tobytes() == feats[1].tobytes()


def test_reads_no_sample_that_is_not_there() -> None:
    code = GUARDED.replace("(window_samples=window)", "(window_samples=window, window='hann', definition='librosa')")
    assert code != GUARDED
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "read nothing else\n"), done.stderr


@settings(deadline=None, max_examples=20)
@given(name=st.sampled_from(sorted(SPECS)), sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=5))
def test_torch_gives_the_same_for_a_ragged_batch(name: str, sizes: list[int]) -> None:
    """What follows an example's end is not even looked at: here it is not a number."""
    spec, examples = SPECS[name], [speechlike(size, seed) for seed, size in enumerate(sizes)]
    samples_bn = torch.full((len(sizes), max(sizes)), float("nan"))
    for row, samples in zip(samples_bn, examples, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    feats_btf, frames_b = device_frontend.logmel(samples_bn, torch.tensor(sizes), spec)
    assert frames_b.tolist() == [spec.num_frames(size) for size in sizes]
    assert feats_btf.shape == (len(sizes), spec.num_frames(max(sizes)), spec.mels)
    for feats_tf, frames, samples in zip(feats_btf.numpy(), frames_b.tolist(), examples, strict=True):
        assert not feats_tf[frames:].any()
        np.testing.assert_allclose(feats_tf[:frames], logmel(samples, spec), rtol=0, atol=1e-3)


def test_a_window_that_librosa_would_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="frontend: window is 'povey'; by the definition librosa it can be hann"):
        FrontendSpec(definition="librosa")
