"""Samples to log-mel features on CPU, without torch: Kaldi's filterbank.

asr.logmel_ir makes machine code of it, in 0.1 s at the first call with a spec. A frame's features depend neither on its
neighbours nor on the processor: those that come chunk by chunk equal those of the whole file bit for bit, and so do
those that another machine makes.

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


@dataclass(frozen=True)
class LogMelState:
    """The samples that the next frame still needs: from its first one to the last that has come."""

    samples: Floats


def init_state(spec: FrontendSpec) -> LogMelState:
    """The state before the first sample."""
    return LogMelState(np.zeros(0, np.float32))


def logmel(samples: Floats, spec: FrontendSpec) -> Floats:
    """Log-mel features [frames, mels] of a whole file.

    `samples` is mono float32 in [-1, 1] at spec.sample_rate. Raises ValueError for an array of another kind.
    """
    return logmel_step(samples, init_state(spec), spec)[0]


def logmel_step(samples: Floats, state: LogMelState, spec: FrontendSpec) -> tuple[Floats, LogMelState]:
    """The frames [frames, mels] that become whole with these samples (any number, also 0), and the state after them.

    The frames of all steps together are exactly those of `logmel` on all samples. Raises ValueError as `logmel` does.
    """
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise ValueError(f"samples: expected 1-D float32 in [-1, 1], received {samples.ndim}-D {samples.dtype}")
    if state.samples.size:
        samples = np.concatenate((state.samples, samples))
    num_frames = spec.num_frames(len(samples))
    feats_tf = np.empty((num_frames, spec.mels), np.float32)
    _kernel(spec)(np.ascontiguousarray(samples), feats_tf)
    # a copy: a view would keep the caller's whole array alive, and change when the caller fills it anew
    return feats_tf, LogMelState(samples[num_frames * spec.hop_samples :].copy())


def window(spec: FrontendSpec) -> npt.NDArray[np.float64]:
    """The symmetric window [window_samples]: hann, or povey, which is hann ** 0.85. Both are 0 at their ends."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window_samples) / max(1, spec.window_samples - 1))
    return hann**0.85 if spec.window == "povey" else hann


def mel_filters(spec: FrontendSpec) -> npt.NDArray[np.float64]:
    """Weights [mels, (fft_samples + 1) // 2] of Kaldi's triangles, which are straight on the mel scale.

    The bins end before the Nyquist frequency, where Kaldi's filters weigh nothing.
    """

    def mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return 1127 * np.log1p(hz / 700)

    low, high = mel(np.array([spec.low_hz, spec.high_hz]))
    bin_mels = mel(np.arange((spec.fft_samples + 1) // 2) * spec.sample_rate / spec.fft_samples)
    step = (high - low) / (spec.mels + 1)
    left = (low + np.arange(spec.mels) * step)[:, None]
    rising = (bin_mels - left) / step
    return np.maximum(0, np.minimum(rising, 2 - rising))


@functools.cache
def _kernel(spec: FrontendSpec) -> logmel_ir.Kernel:
    # Threads that ask for a new spec at once may each compile it: 0.1 s are not worth a lock.
    return logmel_ir.kernel(spec, window(spec), mel_filters(spec), float(FLOOR))
