"""Acoustic fingerprints: a few 32-bit words a second by which two copies of a recording are known again.

A word is the signs of 32 numbers that describe the 0.7 s around it, after Haitsma and Kalker (A Highly Robust Audio
Fingerprinting System, ISMIR 2002). They took differences between neighbours in time and frequency; here it is a cosine
transform in both, whose numbers depend less on each other. Of all words those are kept whose hash is small, so that two
recordings keep the same words however they were cut. A copy in Opus at 22 kbit/s has half of the words in common with
the original, one at 8 kHz 97 %; two words of different speech are equal once in 2**21.8 times.

That finds what is longer than two seconds, also inside something else. An utterance with few such words, being short or
full of pauses, gets finer ones besides, which look at 0.36 s: by these it is known again where it was cut alike.

Legend of shape suffixes: t frames, b bands, f components over the bands, k over time, s position in a span.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from asr.frontend import Floats, logmel
from shards.spec import FrontendSpec

Words = npt.NDArray[np.uint32]

VERSION = 1  # raise it whenever some recording gets other words
SAMPLE_RATE = 16000
STEP_S = 0.005  # the unit of a word's time: the words of two copies agree best when both are looked for this finely
_LIST = pa.list_(pa.field("element", pa.uint32(), nullable=False))
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("words", _LIST, nullable=False),
        pa.field("gaps", _LIST, nullable=False),  # steps from word to word: they take 1.1 bytes in the file, not 2.1
        pa.field("duration_s", pa.float32(), nullable=False),
    ],
    metadata={"speechmill": f"Fingerprint {VERSION}"},
)

# What a telephone lets through, of samples at 8 kHz. Windows of 64 ms: with half of that a copy whose frames fell half
# a frame later kept 38 % of its words, with these 43 %.
_BANDS = FrontendSpec(
    sample_rate=8000, window_samples=512, hop_samples=160, fft_samples=512,
    mels=20, low_hz=250.0, high_hz=3400.0, preemphasis=0.97, window="hann",
)  # fmt: skip
_SCALE = 32768  # logmel's floor then lies 90 dB below the last bit of 16
_STEPS = 4  # in a frame of 20 ms
_POWER = (
    0.2  # of a band's energy. Nearer to a logarithm, at 0.1, words differ more between strangers and between copies
)
_COMPONENTS = 8  # over the bands, times the four over time
_BLOCK_FRAMES, _BLOCK_SAMPLES = 512, 8192  # worked on at once: they stay in the cache
_SILENCE = 1.0  # mean of what _POWER leaves

_COARSE_SPAN, _FINE_SPAN = 32, 16  # frames
_COARSE_SHARE = 1 / 8  # of the words are kept: about eight a second
_FINE_WORDS_S = 0.5  # share of the words times seconds: about 50 words, however long
_FEW = 12  # coarse words
# Root mean square of the 32 numbers over the mean. White noise has 0.15 at most, a hum 0. Above 2.6 lie single bursts
# between pauses, which all look alike: a third of the words, but nine of ten that two unrelated utterances shared.
_COARSE_MODULATION = (0.5, 2.6)
_FINE_MODULATION = (0.3, np.inf)
_STEADY = 0.1  # deviation in time over the mean: white noise has 0.08 at most, single digits 0.12 and more


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Words [n] and when they occur, in steps of STEP_S, ascending. Silence and steady sounds have none."""

    words: Words
    steps: Words
    duration_s: float


def fingerprint(samples: Floats) -> Fingerprint:
    """The fingerprint of mono float32 samples at 16 kHz. Raises ValueError for an array of another kind."""
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise ValueError(f"samples: expected 1-D float32 at 16 kHz, received {samples.ndim}-D {samples.dtype}")
    duration_s = len(samples) / SAMPLE_RATE
    loudness_tb = np.exp(np.float32(_POWER) * logmel(_halved(samples), _BANDS)) - _FLOOR
    words, steps = _kept(loudness_tb, _COARSE_SPAN, _COARSE_MODULATION, 0.0, _COARSE_SHARE)
    if len(words) < _FEW and _varies(loudness_tb):
        share = min(1 - _COARSE_SHARE, _FINE_WORDS_S / max(duration_s, STEP_S))
        padded_tb = np.pad(loudness_tb, ((_FINE_SPAN // 2, _FINE_SPAN // 2), (0, 0)))
        fine_words, fine_steps = _kept(padded_tb, _FINE_SPAN, _FINE_MODULATION, 1 - share, 1.0)
        steps = np.concatenate((steps, fine_steps))
        order = np.argsort(steps, kind="stable")
        words, steps = np.concatenate((words, fine_words))[order], steps[order]
    return Fingerprint(words, steps, duration_s)


def is_fine(words: Words) -> npt.NDArray[np.bool_]:
    """Which of the words look at 0.36 s only. No word is of both kinds."""
    return _hash(words) >= _COARSE_SHARE * 2.0**32


def to_table(prints: Iterable[tuple[str, Fingerprint]]) -> pa.Table:
    """One row per id, in the order given, with columns as in SCHEMA."""
    rows = list(prints)
    starts = pa.array(np.cumsum([0] + [len(p.words) for _, p in rows]).astype(np.int32))
    none = np.empty(0, np.uint32)
    words = np.concatenate([none, *(p.words for _, p in rows)])
    gaps = np.concatenate([none, *(np.diff(p.steps, prepend=np.uint32(0)) for _, p in rows)])
    columns = [
        pa.array([id_ for id_, _ in rows], pa.string()),
        pa.ListArray.from_arrays(starts, pa.array(words), type=_LIST),
        pa.ListArray.from_arrays(starts, pa.array(gaps), type=_LIST),
        pa.array([p.duration_s for _, p in rows], pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def from_table(table: pa.Table) -> dict[str, Fingerprint]:
    """Fingerprints by id."""
    columns = [table[name].to_pylist() for name in SCHEMA.names]
    return {
        id_: Fingerprint(np.array(words, np.uint32), np.cumsum(gaps, dtype=np.uint32), duration_s)
        for id_, words, gaps, duration_s in zip(*columns, strict=True)
    }


_FLOOR = np.exp(np.float32(_POWER) * np.log(np.finfo(np.float32).eps))  # what logmel's floor becomes


def _half_band() -> Floats:
    """The odd taps to one side of a low-pass filter whose even taps are 0 but for the middle one, which is a half.

    It passes 3.4 kHz (97 %) and takes 30 dB off what lies above 4.6 kHz. With four taps (92 %, 22 dB) copies at 8 kHz
    had 91 % of the words in common with the original, with six 97 %.
    """
    odd = np.arange(1, 12, 2)
    taps = np.sinc(odd / 2) * np.kaiser(25, 3.0)[12 + odd]
    return (taps / taps.sum() / 4 * _SCALE).astype(np.float32)


_TAPS = _half_band()


def _halved(samples: Floats) -> Floats:
    """Samples at half the rate, times _SCALE."""
    count, edge = len(samples) // 2, len(_TAPS)
    halved = np.empty(count, np.float32)
    odd = np.zeros(count + 2 * edge, np.float32)
    odd[edge : edge + count] = samples[1 : 2 * count : 2]
    for start in range(0, count, _BLOCK_SAMPLES):
        block = halved[start : start + _BLOCK_SAMPLES]
        size = len(block)
        both = np.empty(size, np.float32)
        np.multiply(samples[2 * start : 2 * (start + size) : 2], np.float32(_SCALE / 2), out=block)
        for i, tap in enumerate(_TAPS):
            left, right = start + edge - 1 - i, start + edge + i
            np.add(odd[left : left + size], odd[right : right + size], out=both)
            np.multiply(both, tap, out=both)
            np.add(block, both, out=block)
    return halved


@cache
def _transforms(span: int) -> tuple[Floats, Floats]:
    """Over time [span, 5]: a mean, then four cosines under its window, free of the mean and orthonormal.

    Over the bands [mels, components]: the first of the cosine transform. Were the waves left as they are, a word would
    be worth 18.1 bits, not 21.8: under the window the first cosine resembles the third, and the second the fourth.
    """
    window = np.hanning(span + 2)[1:-1]
    positions = (np.arange(span) + 0.5) / span
    waves = np.cos(np.pi * np.outer(positions, np.arange(1, 5))) * window[:, None]
    waves -= np.outer(window / window.sum(), waves.sum(axis=0))
    orthonormal, _ = np.linalg.qr(waves)
    over_time_sk = np.column_stack((window / window.sum(), orthonormal))
    bands = (np.arange(_BANDS.mels) + 0.5) / _BANDS.mels
    over_bands_bf = np.cos(np.pi * np.outer(bands, np.arange(_COMPONENTS))) * np.sqrt(2 / _BANDS.mels)
    return over_time_sk.astype(np.float32), over_bands_bf.astype(np.float32)


def _kept(
    loudness_tb: Floats, span: int, modulation: tuple[float, float], low: float, high: float
) -> tuple[Words, Words]:
    """The words whose modulation lies in the range and whose hash in [low, high) of all values, and their steps.

    A word that lasts for several steps counts once, in its middle.
    """
    words, modulation_t = _words(loudness_tb, span)
    starts = np.flatnonzero(np.append(True, words[1:] != words[:-1])[: len(words)])
    steps = (starts + np.append(starts[1:], len(words))[: len(starts)] - 1) // 2
    words, there = words[starts], modulation_t[steps // _STEPS]
    hashes = _hash(words)
    kept = (there > modulation[0]) & (there < modulation[1]) & (hashes >= low * 2.0**32) & (hashes < high * 2.0**32)
    centre_s = ((span - 1) * _BANDS.hop_samples + _BANDS.window_samples) / _BANDS.sample_rate / 2
    return words[kept], (steps[kept] + round(centre_s / STEP_S)).astype(np.uint32)


def _words(loudness_tb: Floats, span: int) -> tuple[Words, Floats]:
    """The word at every step, and the modulation at every frame (0 in silence), for each place of the span."""
    over_time_sk, over_bands_bf = _transforms(span)
    frames = max(0, len(loudness_tb) - span)  # not the last place: the steps lead from one frame to the next
    words = np.empty((frames, _STEPS), np.uint32)
    modulation_t = np.empty(frames, np.float32)
    between = (np.arange(_STEPS, dtype=np.float32) / _STEPS)[:, None]
    for start in range(0, frames, _BLOCK_FRAMES):
        size = min(_BLOCK_FRAMES, frames - start)
        components_ft = np.ascontiguousarray((loudness_tb[start : start + size + span] @ over_bands_bf).T)
        spans_fts = np.lib.stride_tricks.sliding_window_view(components_ft, span, axis=1)
        pattern_ftk = np.ascontiguousarray(spans_fts).reshape(-1, span) @ over_time_sk
        pattern_tkf = pattern_ftk.reshape(_COMPONENTS, size + 1, -1).transpose(1, 2, 0)
        values_t = pattern_tkf[:, 1:].reshape(size + 1, 32)
        rise_t = values_t[1:] - values_t[:-1]
        signs = values_t[:-1, None] + between * rise_t[:, None] > 0
        words[start : start + size] = np.packbits(signs, axis=2, bitorder="little").view("<u4")[..., 0]
        mean_t = pattern_tkf[:-1, 0, 0] / np.sqrt(2 * _BANDS.mels)
        strength_t = np.sqrt(np.square(values_t[:-1]).mean(axis=1))
        modulation_t[start : start + size] = strength_t / np.maximum(mean_t, _SILENCE) * (mean_t > _SILENCE)
    return words.reshape(-1), modulation_t


def _varies(loudness_tb: Floats) -> bool:
    """False of silence and steady sounds, whose beginnings and ends would all look alike."""
    mean = loudness_tb.mean() if len(loudness_tb) else 0.0
    return bool(mean > _SILENCE and np.sqrt(loudness_tb.var(axis=0).mean()) > _STEADY * mean)


def _hash(words: Words) -> Words:
    """Well mixed bits: the first steps of MurmurHash3's finaliser, by Appleby."""
    mixed = words ^ (words >> np.uint32(16))
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    return mixed
