"""Samples to log-mel features on CPU, without torch: Kaldi's filterbank, or librosa's (see shards.spec.FrontendSpec).

asr.logmel_ir makes machine code of it, in 0.1 s at the first call with a spec. A frame's features depend neither on its
neighbours nor on the processor: those that come chunk by chunk equal those of the whole file bit for bit, and so do
those that another machine makes. The dither of librosa-style systems is noise for training and is left out.

Legend of shape suffixes: t frames, f mels.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr import logmel_ir
from shards.spec import FrontendSpec

Floats = npt.NDArray[np.float32]

FLOOR = np.finfo(np.float32).eps  # the least mel energy, as in Kaldi
ADDED = 1e-20  # to each mel energy, by librosa's definition


@dataclass(frozen=True)
class LogMelState:
    """The samples that the next frame still needs: from its first one to the last that has come.

    By librosa's definition they are emphasised once more than half a transform of them have come (`last` is then the
    last one as it came), and begin `_past` + 1 samples before the next frame: the signal may end here, and what is
    reflected then is there.
    """

    samples: Floats
    last: np.float32 | None = None


def init_state(spec: FrontendSpec) -> LogMelState:
    """The state before the first sample."""
    return LogMelState(np.zeros(0, np.float32))


def logmel(samples: Floats, spec: FrontendSpec) -> Floats:
    """Log-mel features [frames, mels] of a whole file.

    `samples` is mono float32 in [-1, 1] at spec.sample_rate. Raises ValueError for an array of another kind.
    """
    feats_tf, state = logmel_step(samples, init_state(spec), spec)
    if spec.definition == "kaldi":
        return feats_tf
    return np.concatenate((feats_tf, logmel_finish(state, spec)))


def logmel_step(samples: Floats, state: LogMelState, spec: FrontendSpec) -> tuple[Floats, LogMelState]:
    """The frames [frames, mels] that become whole with these samples (any number, also 0), and the state after them.

    The frames of all steps and of `logmel_finish` are exactly those of `logmel` on all samples. Raises ValueError as
    `logmel` does.
    """
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise ValueError(f"samples: expected 1-D float32 in [-1, 1], received {samples.ndim}-D {samples.dtype}")
    if spec.definition == "librosa":
        return _centred_step(samples, state, spec)
    if state.samples.size:
        samples = np.concatenate((state.samples, samples))
    feats_tf = _features(samples, spec)
    # a copy: a view would keep the caller's whole array alive, and change when the caller fills it anew
    return feats_tf, LogMelState(samples[len(feats_tf) * spec.hop_samples :].copy())


def logmel_finish(state: LogMelState, spec: FrontendSpec) -> Floats:
    """The frames [frames, mels] that the end of the samples makes whole: none by Kaldi's definition, which fills
    nothing up; by librosa's those that reach beyond the end, where the signal is reflected."""
    if spec.definition == "kaldi" or state.last is None:
        return np.zeros((0, spec.mels), np.float32)
    # Frames are centred up to the end itself: the last one's right half may be beyond it entirely.
    beyond = spec.window_samples - _past(spec)
    reflected = state.samples[-2 : -2 - beyond : -1]
    return _features(np.concatenate((state.samples, reflected))[_past(spec) + 1 :], spec)


def _centred_step(samples: Floats, state: LogMelState, spec: FrontendSpec) -> tuple[Floats, LogMelState]:
    """`logmel_step` by librosa's definition: emphasis over the whole signal, and frames centred on its samples."""
    past = _past(spec)
    if state.last is None:  # nothing is emphasised yet: it is not sure that there will be a frame
        samples = np.concatenate((state.samples, samples))
        if not spec.num_frames(len(samples)):
            return np.empty((0, spec.mels), np.float32), LogMelState(samples)
        emphasised = _emphasised(samples, np.float32(0), spec)
        signal = np.concatenate((np.zeros(past + 1, np.float32), emphasised[past:0:-1], emphasised))
    elif samples.size:
        signal = np.concatenate((state.samples, _emphasised(samples, state.last, spec)))
    else:
        return np.empty((0, spec.mels), np.float32), state
    feats_tf = _features(signal[past + 1 :], spec)
    return feats_tf, LogMelState(signal[len(feats_tf) * spec.hop_samples :].copy(), samples[-1])


def _past(spec: FrontendSpec) -> int:
    """Samples of a centred frame before the one that it is centred on: the window is in the middle of the transform."""
    return spec.fft_samples // 2 - (spec.fft_samples - spec.window_samples) // 2


def _emphasised(samples: Floats, before: np.float32, spec: FrontendSpec) -> Floats:
    """Each less the one before; `before` is what comes before the first."""
    return samples - np.float32(spec.preemphasis) * np.append(before, samples[:-1])


def _features(samples: Floats, spec: FrontendSpec) -> Floats:
    """The frames whose windows are wholly in these samples, one from each hop_samples."""
    num_frames = max(0, 1 + (len(samples) - spec.window_samples) // spec.hop_samples)
    feats_tf = np.empty((num_frames, spec.mels), np.float32)
    _kernel(spec)(np.ascontiguousarray(samples), feats_tf)
    return feats_tf


def window(spec: FrontendSpec) -> npt.NDArray[np.float64]:
    """The symmetric window [window_samples]: hann, or povey, which is hann ** 0.85. Both are 0 at their ends."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window_samples) / max(1, spec.window_samples - 1))
    return hann**0.85 if spec.window == "povey" else hann


def mel_filters(spec: FrontendSpec) -> npt.NDArray[np.float64]:
    """Weights [mels, (fft_samples + 1) // 2] of triangles, which are straight on the mel scale; Slaney's in Hz.

    The bins end before the Nyquist frequency, where no filter weighs anything.
    """
    bin_hz = np.arange((spec.fft_samples + 1) // 2) * spec.sample_rate / spec.fft_samples
    if spec.definition == "librosa":
        return _slaney_filters(spec, bin_hz)

    def mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return 1127 * np.log1p(hz / 700)

    low, high = mel(np.array([spec.low_hz, spec.high_hz]))
    step = (high - low) / (spec.mels + 1)
    left = (low + np.arange(spec.mels) * step)[:, None]
    rising = (mel(bin_hz) - left) / step
    return np.maximum(0, np.minimum(rising, 2 - rising))


def _slaney_filters(spec: FrontendSpec, bin_hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The filters of M. Slaney, Auditory Toolbox, 1998: mels are linear up to 1 kHz (200/3 Hz each), 27 more take the
    frequency to its 6.4-fold; triangles between their centres, of area 1 in Hz."""
    straight, turn_hz, turn, growth = 200 / 3, 1000.0, 15.0, np.log(6.4) / 27

    def mel(hz: float) -> float:
        return hz / straight if hz < turn_hz else turn + np.log(hz / turn_hz) / growth

    mels = np.linspace(mel(spec.low_hz), mel(spec.high_hz), spec.mels + 2)
    edges_hz = np.where(mels < turn, mels * straight, turn_hz * np.exp(growth * (mels - turn)))
    left, centre, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    triangles = np.maximum(0, np.minimum((bin_hz - left) / (centre - left), (right - bin_hz) / (right - centre)))
    return triangles * 2 / (right - left)


def least_energy(spec: FrontendSpec) -> float:
    """The mel energy of digital silence."""
    return ADDED if spec.definition == "librosa" else float(FLOOR)


@functools.cache
def _kernel(spec: FrontendSpec) -> logmel_ir.Kernel:
    # Threads that ask for a new spec at once may each compile it: 0.1 s are not worth a lock.
    return logmel_ir.kernel(spec, window(spec), mel_filters(spec), least_energy(spec))
