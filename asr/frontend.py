"""Samples to log-mel features on CPU, without torch: Kaldi's filterbank as an array kernel.

The kernel works on blocks of BLOCK_FRAMES frames, which stay in the L2 cache, and keeps time in the last axis: a block
is [position in the frame, frame]. Each sample is then transposed and pre-emphasised once, not once for each frame that
covers it, and every sum runs down a column. So a frame's values do not depend on where in a block it stands, and
features that come chunk by chunk equal those of the whole file bit for bit.

Legend of shape suffixes: s position in a hop or a frame, t frames (or hops), k frequency bins, f mels.
"""

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.sparse

from shards.spec import FrontendSpec

Floats = npt.NDArray[np.float32]

BLOCK_FRAMES = 192
LANES = 16  # frames are worked on in multiples of this, the widest SIMD, so that none falls into a remainder loop
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
    kernel = _kernel(spec)
    for start in range(0, num_frames, BLOCK_FRAMES):
        block_tf = feats_tf[start : start + BLOCK_FRAMES]
        block_tf[:] = kernel.block(samples[start * spec.hop_samples :], len(block_tf)).T
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


class _Kernel:
    """Tables of one spec and the arrays that one thread works in."""

    def __init__(self, spec: FrontendSpec) -> None:
        hops = BLOCK_FRAMES - 1 + _hops_per_frame(spec)
        self.spec = spec
        self.filters_fk = scipy.sparse.csr_array(mel_filters(spec).astype(np.float32))
        self.window_s1 = window(spec).astype(np.float32)[:, None]
        self.samples_st = np.empty((spec.hop_samples, hops), np.float32)
        self.emphasised_st = np.zeros_like(self.samples_st)
        self.frames_st = np.zeros((spec.fft_samples, BLOCK_FRAMES), np.float32)

    def block(self, samples: Floats, num_frames: int) -> Floats:
        """Log-mel [mels, num_frames] of the first frames of `samples`. num_frames is at most BLOCK_FRAMES."""
        columns = -(-num_frames // LANES) * LANES
        self._load(samples, columns - 1 + _hops_per_frame(self.spec))
        self._frame(columns)
        spectrum_kt = scipy.fft.rfft(self.frames_st[:, :columns], axis=0)[: self.filters_fk.shape[1]]
        squares_kt = spectrum_kt.view(np.float32)  # of real and imaginary parts by turns
        np.square(squares_kt, out=squares_kt)
        # A bin lies in two filters at most: the sparse product does a thirtieth of the dense one's work, and adds in
        # the same order in every column, which BLAS does not promise.
        squares_ft = self.filters_fk @ squares_kt
        mels_ft: Floats = squares_ft[:, 0::2] + squares_ft[:, 1::2]
        np.maximum(mels_ft, FLOOR, out=mels_ft)
        return np.log(mels_ft, out=mels_ft)[:, :num_frames]

    def _load(self, samples: Floats, hops: int) -> None:
        """Fills samples_st with the first hops, zeros after the end, and emphasised_st with x[i] - p x[i - 1]."""
        wanted = hops * self.spec.hop_samples
        if len(samples) < wanted:
            samples = np.pad(samples, (0, wanted - len(samples)))
        x_st, y_st = self.samples_st[:, :hops], self.emphasised_st[:, :hops]
        np.copyto(x_st, samples[:wanted].reshape(hops, -1).T)
        np.multiply(x_st[:-1], -self.spec.preemphasis, out=y_st[1:])
        np.add(x_st[1:], y_st[1:], out=y_st[1:])
        # A hop's first sample follows the last one of the hop before. None comes before the block's first, which stays
        # 0; no frame uses it.
        np.multiply(x_st[-1, :-1], -self.spec.preemphasis, out=y_st[0, 1:])
        np.add(x_st[0, 1:], y_st[0, 1:], out=y_st[0, 1:])

    def _frame(self, columns: int) -> None:
        """Fills frames_st with the windowed frames, hop by hop.

        Kaldi takes a frame's mean m off, then emphasises: (x[i] - m) - p (x[i-1] - m) = (x[i] - p x[i-1]) - (1-p) m.
        Its first sample, which has none before it, becomes (1-p) (x[0] - m), but the window there is 0.
        """
        hop, size = self.spec.hop_samples, self.spec.window_samples
        starts = range(0, size, hop)
        offset_t = np.add.reduce(self.samples_st[: size - starts[-1], len(starts) - 1 :][:, :columns], axis=0)
        hop_sums_t = np.add.reduce(self.samples_st[:, : columns + len(starts) - 2], axis=0)
        for shift in range(len(starts) - 1):
            offset_t += hop_sums_t[shift : shift + columns]
        offset_t *= (1 - self.spec.preemphasis) / size
        for shift, start in enumerate(starts):
            part_st = self.frames_st[start : min(start + hop, size), :columns]
            np.subtract(self.emphasised_st[: len(part_st), shift : shift + columns], offset_t, out=part_st)
            np.multiply(part_st, self.window_s1[start : start + hop], out=part_st)
        self.frames_st[0] = 0  # set, not multiplied: the sample before the frame might be inf or nan


def _hops_per_frame(spec: FrontendSpec) -> int:
    """Hops that a frame touches, the last one perhaps in part."""
    return -(-spec.window_samples // spec.hop_samples)


class _Kernels(threading.local):
    """The kernels of the thread that asks, by spec: built once, and shared with no other thread."""

    def __init__(self) -> None:
        self.by_spec: dict[FrontendSpec, _Kernel] = {}


_kernels = _Kernels()


def _kernel(spec: FrontendSpec) -> _Kernel:
    if spec not in _kernels.by_spec:
        _kernels.by_spec[spec] = _Kernel(spec)
    return _kernels.by_spec[spec]
