"""Recorded noise and responses for batches that are changed in training, read where the shards are read: ahead.

A stretch of noise takes milliseconds to decode, and a step of a GPU has none to spare.
Legend of shape suffixes: b examples of a batch, k those that are changed, n samples.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr import audio, codecs

if TYPE_CHECKING:
    from asr.device_waveform import WaveformAugment

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ForSome:
    """Which examples something is for, and what, one after the other, with zeros behind."""

    chosen_b: npt.NDArray[np.bool_]
    samples_kn: Tensor  # float32


@dataclass(frozen=True, slots=True)
class Recordings:
    """None where no files are named, or no example gets any."""

    responses: ForSome | None
    noise: ForSome | None


def read(
    waveform: "WaveformAugment", lens: Sequence[int], sample_rate: int, seed: Sequence[int], pinned: bool = False
) -> Recordings:
    """What a batch of examples of `lens` samples gets of the files, a function of all these; in pinned memory for CUDA.

    Raises AudioError for a file that cannot be read.
    """
    rng = np.random.default_rng(seed)
    room, noise = waveform.reverberation, waveform.noise
    responses = background = None
    if room is not None and (halls := room.files):
        responses = _for_some(lens, room.share, rng, lambda _: _response(_one_of(halls, rng), sample_rate), pinned)
    if noise is not None and (sounds := noise.files):
        background = _for_some(
            lens, noise.share, rng, lambda count: _background(sounds, count, sample_rate, rng), pinned
        )
    return Recordings(responses, background)


def _for_some(
    lens: Sequence[int], share: float, rng: np.random.Generator, take: Callable[[int], Floats], pinned: bool
) -> ForSome | None:
    chosen_b = rng.random(len(lens)) < share
    taken = [take(lens[b]) for b in np.flatnonzero(chosen_b).tolist()]
    if not taken:
        return None
    samples_kn = torch.zeros(len(taken), max(map(len, taken)), pin_memory=pinned)
    for row, samples_t in zip(samples_kn.numpy(), taken, strict=True):
        row[: len(samples_t)] = samples_t
    return ForSome(chosen_b, samples_kn)


def _one_of(files: Sequence[str], rng: np.random.Generator) -> str:
    return files[int(rng.integers(len(files)))]


def _background(files: Sequence[str], count: int, sample_rate: int, rng: np.random.Generator) -> Floats:
    """Stretches of files, joined until there are `count` samples, all equally loud (root mean square 1)."""
    pieces: list[Floats] = []
    missing = count
    while missing > 0:
        uri = _one_of(files, rng)
        samples = _samples(uri, sample_rate)
        taken = min(samples, missing)
        start = int(rng.integers(samples - taken + 1))
        piece_t = codecs.fitted(audio.read(uri, sample_rate, start / sample_rate, taken / sample_rate), taken)
        loudness = math.sqrt(float(np.mean(np.square(piece_t, dtype=np.float64))))
        pieces.append(piece_t / np.float32(loudness) if loudness > 0 else piece_t)
        missing -= taken
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


@functools.lru_cache(1 << 16)
def _samples(uri: str, sample_rate: int) -> int:
    return math.ceil(audio.probe(uri).duration_s * sample_rate)


@functools.lru_cache(512)  # of about a second each: 32 MB at 16 kHz
def _response(uri: str, sample_rate: int) -> Floats:
    from asr.waveform import recorded_response  # loads torchaudio, and most trainings change no audio

    return recorded_response(uri, sample_rate)
