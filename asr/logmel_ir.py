"""The log-mel features of asr.frontend as machine code: LANES frames side by side, one step after the other.

A position in a frame, a frequency bin and a mel are each one vector with a lane for each frame, so that every step,
the FFT with them, is plain additions and multiplications without shuffles. A group of LANES frames takes 60 kB of
scratch memory and stays in the cache. The last group of a file has its last frame in all lanes that are left over.

Legend: s position in a frame, k frequency bin, f mel; a vector's lanes are frames.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr.lanes import ALIGN_BYTES, LANES, Code, Complex, Floats, Int, Vec, Vecs, compiled, log, transpose
from shards.spec import FrontendSpec

Table = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kernel:
    """Features of one spec. Any number of threads may call it at once."""

    function: Callable[..., None]
    scratch_bytes: int

    def __call__(self, samples: npt.NDArray[np.float32], feats_tf: npt.NDArray[np.float32]) -> None:
        """Fills feats_tf with that many frames. `samples` must have them all; both are C-contiguous."""
        scratch = np.empty(self.scratch_bytes + ALIGN_BYTES, np.uint8)
        aligned = -(-scratch.ctypes.data // ALIGN_BYTES) * ALIGN_BYTES
        if len(feats_tf):
            self.function(samples.ctypes.data, len(feats_tf), aligned, feats_tf.ctypes.data)


def kernel(
    spec: FrontendSpec, window_s: Table, filters_fk: Table, floor: float, cpu: str | None = None, features: str = ""
) -> Kernel:
    """Compiles the kernel of a spec, in 0.1 s. `cpu` and `features` are those of asr.lanes.compiled."""
    points = spec.fft_samples // 2
    code = Code(Floats, Int, Vecs, Floats)
    samples, frames, frame_s, feats_tf = code.arguments
    first_vectors = max(_whole(spec.window_samples), points + _whole(spec.mels))
    power_k, mels_f = frame_s, frame_s + points  # when they come, the frame is no longer needed
    spectrum = frame_s + first_vectors
    last = frames - 1

    def group(first: Int) -> None:
        indices = [(first + lane).at_most(last) for lane in range(LANES)]
        sums = _load(frame_s, [samples + i * spec.hop_samples for i in indices], spec.window_samples)
        # by librosa's definition the samples come emphasised, and keep their mean
        whole = spec.definition == "librosa"
        mean = code.vec(0) if whole else sums / code.vec(spec.window_samples)
        _window(spectrum, frame_s, mean, spec, window_s, 0.0 if whole else spec.preemphasis)
        _fft(spectrum, points)
        _power(power_k, spectrum, points)
        _mels(mels_f, power_k, filters_fk, floor, added=whole)
        _store([feats_tf + i * spec.mels for i in indices], mels_f, spec.mels)

    code.loop(code.integer(0), frames, LANES, group)
    vectors = first_vectors + 2 * points
    return Kernel(compiled(code, cpu, features), vectors * ALIGN_BYTES)


def _whole(count: int) -> int:
    """The next multiple of LANES."""
    return -(-count // LANES) * LANES


def _load(frame_s: Vecs, starts: list[Floats], size: int) -> Vec:
    """Fills frame_s with the `size` samples from each frame's start, and returns their sums."""
    code = frame_s.code

    def tile(position: Int, width: int, sums: Vec) -> tuple[Vec]:
        parts = transpose([start.row(position, width) for start in starts])
        for i, part in enumerate(parts):
            frame_s[position + i] = part
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return (sums + parts[0],)

    sums, whole = code.vec(0), size // LANES * LANES
    if whole:
        (sums,) = code.loop(code.integer(0), code.integer(whole), LANES, lambda i, sums: tile(i, LANES, sums), [sums])
    if size > whole:
        (sums,) = tile(code.integer(whole), size - whole, sums)
    return sums


def _window(spectrum: Vecs, frame_s: Vecs, mean: Vec, spec: FrontendSpec, window_s: Table, emphasis: float) -> None:
    """Takes the mean off, emphasises, windows, and puts the samples at the places where the FFT wants them: two by two
    as the real and the imaginary part of one number. They are halved, which `_power` makes good."""
    code, points, pairs = spectrum.code, spec.fft_samples // 2, -(-spec.window_samples // 2)
    weights = code.floats(np.append(window_s, np.zeros(2 * pairs - len(window_s))) / 2)
    places = code.integers(np.array([_place(n, _radices(points)) for n in range(points)]))
    preemphasis = code.vec(emphasis)

    def pair(n: Int, before: Vec) -> tuple[Vec]:
        even, odd = frame_s[n * 2] - mean, frame_s[n * 2 + 1] - mean
        re = (even - preemphasis * before) * weights[n * 2]
        im = (odd - preemphasis * even) * weights[n * 2 + 1]
        spectrum.put_complex(places(n), Complex(re, im))
        return (odd,)

    def nothing(n: Int) -> None:
        spectrum.put_complex(places(n), Complex(code.vec(0), code.vec(0)))

    code.loop(code.integer(0), code.integer(pairs), 1, pair, [frame_s[code.integer(0)] - mean])
    if pairs < points:
        code.loop(code.integer(pairs), code.integer(points), 1, nothing)


def _radices(points: int) -> list[int]:
    """The factors of the FFT's size in the order of its passes: fours, behind a two if need be."""
    bits = points.bit_length() - 1
    return [2] * (bits % 2) + [4] * (bits // 2)


def _place(n: int, radices: list[int]) -> int:
    """Where the FFT wants number n: its digits to the base of the radices, reversed."""
    if not radices:
        return 0
    *earlier, last = radices
    return n % last * math.prod(earlier) + _place(n // last, earlier)


def _fft(spectrum: Vecs, points: int) -> None:
    """The complex FFT in place, by decimation in time (Cooley and Tukey 1965)."""
    span = 1
    for radix in _radices(points):
        _pass(spectrum, points, radix, span)
        span *= radix


def _pass(spectrum: Vecs, points: int, radix: int, span: int) -> None:
    """Makes spectra of radix * span numbers, each from `radix` neighbouring ones of `span` numbers."""
    code = spectrum.code
    turns = _turns(code, np.arange(span)[:, None] * np.arange(1, radix), radix * span)

    def column(k: Int) -> None:
        factors = [turns(k * (radix - 1) + j) for j in range(radix - 1)]

        def butterfly(start: Int) -> None:
            places = [start + j * span for j in range(radix)]
            first, *others = [spectrum.complex(place) for place in places]
            if span > 1:  # else all factors are 1
                others = [other * factor for other, factor in zip(others, factors, strict=True)]
            for place, result in zip(places, _dft([first, *others]), strict=True):
                spectrum.put_complex(place, result)

        code.loop(k, code.integer(points), radix * span, butterfly)

    code.loop(code.integer(0), code.integer(span), 1, column)


def _turns(code: Code, numerators: npt.NDArray[np.integer], size: int) -> Callable[[Int], Complex]:
    """A table of exp(-2 pi i n / size)."""
    angles = 2 * np.pi * numerators.ravel() / size
    table = code.floats(np.stack([np.cos(angles), -np.sin(angles)], axis=-1))
    return lambda index: Complex(table[index * 2], table[index * 2 + 1])


def _dft(x: list[Complex]) -> list[Complex]:
    """The Fourier transform of two or four numbers."""
    if len(x) == 2:
        return [x[0] + x[1], x[0] - x[1]]
    sum_02, difference_02, sum_13, difference_13 = x[0] + x[2], x[0] - x[2], x[1] + x[3], x[1] - x[3]
    turned = difference_13.times_minus_i()
    return [sum_02 + sum_13, difference_02 + turned, sum_02 - sum_13, difference_02 - turned]


def _power(power_k: Vecs, spectrum: Vecs, points: int) -> None:
    """The power of bins 0 to points - 1 of the real samples' spectrum, from that of their pairs.

    With E and O, the spectra of even and odd samples, Z[k] = E[k] + i O[k] and conj Z[points - k] = E[k] - i O[k]. The
    bins are X[k] = E[k] + t O[k], t = exp(-pi i k / points), and X[points - k] = conj(E[k] - t O[k]). The samples came
    halved, so sums stand for means.
    """
    code = power_k.code
    turns = _turns(code, np.arange(points // 2 + 1), 2 * points)

    def two_bins(k: Int) -> None:
        z, mirrored = spectrum.complex(k), spectrum.complex(points - k)
        even = Complex(z.re + mirrored.re, z.im - mirrored.im)
        odd = Complex(z.im + mirrored.im, mirrored.re - z.re) * turns(k)
        power_k[k], power_k[points - k] = (even + odd).power, (even - odd).power

    pairs = spectrum.complex(code.integer(0))
    constant = (pairs.re + pairs.im) * code.vec(2)
    power_k[code.integer(0)] = constant * constant
    if points > 1:
        code.loop(code.integer(1), code.integer(points // 2 + 1), 1, two_bins)


def _mels(mels_f: Vecs, power_k: Vecs, filters_fk: Table, floor: float, added: bool) -> None:
    """The logarithms of the filters' energies, `floor` at least, or `floor` more when it is to be `added`. A filter is
    summed over the bins that it weighs."""
    code, least = mels_f.code, mels_f.code.vec(floor)
    bins = [np.flatnonzero(filter_k) for filter_k in filters_fk]
    bins = [np.arange(k[0], k[-1] + 1) if k.size else np.array([0]) for k in bins]  # none: bin 0, times 0
    starts = np.cumsum([0, *map(len, bins)])
    weights = code.floats(np.concatenate([filter_k[k] for filter_k, k in zip(filters_fk, bins, strict=True)]))
    start_of, shift_of = code.integers(starts), code.integers(np.array([k[0] for k in bins]) - starts[:-1])

    def mel(f: Int) -> None:
        shift = shift_of(f)

        def add(i: Int, energy: Vec) -> tuple[Vec]:
            return (energy + weights[i] * power_k[shift + i],)

        (energy,) = code.loop(start_of(f), start_of(f + 1), 1, add, [code.vec(0)])
        mels_f[f] = log(energy + least if added else energy.where_below(least, least, energy))

    code.loop(code.integer(0), code.integer(len(filters_fk)), 1, mel)


def _store(rows: list[Floats], mels_f: Vecs, mels: int) -> None:
    """Writes each lane's mels to its row."""
    code = mels_f.code

    def tile(position: Int, width: int) -> None:
        parts = transpose([mels_f[position + i] for i in range(LANES)])
        for row, part in zip(rows, parts, strict=True):
            row.put_row(part, position, width)

    whole = mels // LANES * LANES
    if whole:
        code.loop(code.integer(0), code.integer(whole), LANES, lambda i: tile(i, LANES))
    if mels > whole:
        tile(code.integer(whole), mels - whole)
