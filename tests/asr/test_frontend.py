import hashlib
import platform
import subprocess
import sys
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

from asr import logmel_ir
from asr.frontend import FLOOR, Floats, init_state, logmel, logmel_step, mel_filters, window
from asr.lanes import LANES
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
    "window 399, hop 157, 37 mels": FrontendSpec(window_samples=399, hop_samples=157, mels=37),
    "window as long as the FFT": FrontendSpec(8000, 512, 160, 512, 20, 250.0, 3400.0, window="hann"),
    "filters too narrow for a bin": FrontendSpec(8000, 160, 80, 256, 96, 0.0, 4000.0),
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
    samples = speechlike(spec.window_samples + 128 * spec.hop_samples, seed=1)
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
    num_samples=st.integers(0, 60000),
    sizes=st.lists(st.integers(0, 3) | st.integers(0, 2000) | st.integers(0, 40000), max_size=30),
    seed=st.integers(0, 5),
)
def test_any_chunking_gives_the_same_bits(name: str, num_samples: int, sizes: list[int], seed: int) -> None:
    spec, samples = SPECS[name], speechlike(num_samples, seed)
    whole_tf, chunked_tf = logmel(samples, spec), in_chunks(samples, sizes, spec)
    assert whole_tf.shape == (spec.num_frames(num_samples), spec.mels)
    assert chunked_tf.tobytes() == whole_tf.tobytes()


@each_spec
def test_a_frame_has_the_same_bits_in_every_lane(spec: FrontendSpec) -> None:
    """Each frame of two groups and a half, taken alone, gives what it gives inside the whole."""
    samples = speechlike(spec.window_samples + 5 * LANES // 2 * spec.hop_samples, seed=3)
    whole_tf = logmel(samples, spec)
    starts = range(0, len(whole_tf) * spec.hop_samples, spec.hop_samples)
    alone_tf = np.concatenate([logmel(samples[i : i + spec.window_samples], spec) for i in starts])
    assert alone_tf.tobytes() == whole_tf.tobytes()


def test_one_sample_at_a_time() -> None:
    spec, samples = FrontendSpec(), speechlike(1500, seed=4)
    assert in_chunks(samples, [1] * 1500, spec).tobytes() == logmel(samples, spec).tobytes()


@each_spec
def test_a_sample_that_is_not_finite_spoils_only_the_frames_that_hold_it(spec: FrontendSpec) -> None:
    samples, first_after = speechlike(spec.window_samples + 50 * spec.hop_samples, seed=5), 25 * spec.hop_samples
    sound_tf = logmel(samples, spec)
    samples[first_after - 1] = np.nan  # the last sample before frame 25
    spoilt_tf = logmel(samples, spec)
    starts = np.arange(len(sound_tf)) * spec.hop_samples
    holds_it = (starts < first_after) & (first_after <= starts + spec.window_samples)
    assert np.isnan(spoilt_tf[holds_it]).all() and not holds_it[25:].any() and holds_it.any()
    np.testing.assert_array_equal(spoilt_tf[~holds_it], sound_tf[~holds_it])


def test_what_is_too_loud_for_float32_is_infinite_or_no_number() -> None:
    """Not a number that looks like any other."""
    samples = speechlike(1000, seed=6)
    assert not np.isfinite(logmel(samples * np.float32(1e25), FrontendSpec())).any()
    samples[500] = np.inf
    assert not np.isfinite(logmel(samples, FrontendSpec())[1:4]).any()


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


def test_one_channel_of_interleaved_stereo_is_fine() -> None:
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
    """Not when all are the first to ask for a spec either."""
    spec, inputs = FrontendSpec(mels=33), [speechlike(16000, seed) for seed in range(4)]
    made: list[list[Floats]] = [[], [], [], []]

    def work(i: int) -> None:
        made[i] += [logmel(inputs[i], spec) for _ in range(100)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for samples, feats in zip(inputs, made, strict=True):
        assert {feats_tf.tobytes() for feats_tf in feats} == {logmel(samples, spec).tobytes()}
        assert len(feats) == 100


def whole_numbers(num_samples: int) -> Floats:
    """Samples of 16 bits that are the same everywhere (a linear congruential generator: Knuth, MMIX)."""
    state, values = 1, []
    for _ in range(num_samples):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(state >> 48)
    return (np.array(values, np.int32) - 32768).astype(np.float32) / np.float32(32768)


def baseline() -> str:
    """The least processor of this machine's kind, in LLVM's words."""
    return "x86-64" if platform.machine().lower() in ("x86_64", "amd64") else "generic"


@pytest.mark.parametrize("cpu", [None, baseline()])
def test_the_bits_are_the_same_on_every_processor_and_in_every_release(cpu: str | None) -> None:
    """Else a cluster of unlike machines writes shards that differ, and shards of two releases under one fingerprint do
    not fit together."""
    spec, samples = FrontendSpec(), whole_numbers(8000)
    feats_tf = np.empty((spec.num_frames(len(samples)), spec.mels), np.float32)
    logmel_ir.kernel(spec, window(spec), mel_filters(spec), float(FLOOR), cpu)(samples, feats_tf)
    assert feats_tf.tobytes() == logmel(samples, spec).tobytes()
    assert hashlib.sha256(feats_tf.tobytes()).hexdigest()[:16] == "62a82861b5aad8b0"


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_any_spec(data: st.DataObject) -> None:
    """Energies within 1e-5 of the frame's largest, of a window of 2 samples as of one that fills the FFT."""
    fft = 2 ** data.draw(st.integers(1, 10), "bits of fft_samples")
    size = data.draw(st.integers(2, fft), "window_samples")
    hop, mels = data.draw(st.integers(1, size), "hop_samples"), data.draw(st.integers(1, 100), "mels")
    spec = FrontendSpec(16000, size, hop, fft, mels, data.draw(st.sampled_from([0.0, 20.0, 1000.0]), "low_hz"))
    samples = whole_numbers(size + data.draw(st.integers(0, 2 * LANES), "hops") * hop)
    energies_tf, expected_tf = np.exp(logmel(samples, spec)), np.exp(definition(samples, spec))
    error_tf = np.abs(energies_tf - expected_tf) / expected_tf.max(axis=1, keepdims=True)
    assert error_tf.max() < 1e-5


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from asr.frontend import logmel
from shards.spec import FrontendSpec

pages = mmap.mmap(-1, 17 * mmap.PAGESIZE)
address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
libc = ctypes.CDLL(None, use_errno=True)
forbidden = 0
for page in (0, 16):
    assert libc.mprotect(ctypes.c_void_p(address + page * mmap.PAGESIZE), mmap.PAGESIZE, forbidden) == 0
inside = np.frombuffer(pages, np.float32, 15 * mmap.PAGESIZE // 4, mmap.PAGESIZE)
for window in (399, 400, 401):
    spec = FrontendSpec(window_samples=window)
    for num_samples in range(window, window + 40 * 160, 131):
        for samples in (inside[:num_samples], inside[len(inside) - num_samples :]):
            assert logmel(samples, spec).tobytes() == logmel(samples.copy(), spec).tobytes()
print("read nothing else")
"""


def test_reads_no_sample_that_is_not_there() -> None:
    """Samples between two pages that nobody may read."""
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "read nothing else\n"), done.stderr


@each_spec
def test_writes_its_rows_only(spec: FrontendSpec) -> None:
    kernel = logmel_ir.kernel(spec, window(spec), mel_filters(spec), float(FLOOR))
    for frames in (1, LANES - 1, LANES + 1):
        samples = speechlike(spec.window_samples + (frames - 1) * spec.hop_samples, seed=11)
        memory_tf = np.full((frames + 2, spec.mels), 77, np.float32)
        kernel(samples, memory_tf[1:-1])
        assert (memory_tf[[0, -1]] == 77).all()
        np.testing.assert_array_equal(memory_tf[1:-1], logmel(samples, spec))


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


@pytest.mark.parametrize("fft_samples", [400, 513, 768])
def test_refuses_an_fft_of_other_sizes(fft_samples: int) -> None:
    message = f"frontend: fft_samples is {fft_samples}; it must be a power of two, such as 512"
    with pytest.raises(ValueError, match=message):
        FrontendSpec(fft_samples=fft_samples)
