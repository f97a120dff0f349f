"""Changes of audio batches on their device, in training: those of asr.waveform that leave lengths as they are.

Rooms, noise and level, in this order, each for a share of the examples. torch-audiomentations changes whole batches,
each example by its own parameters, but draws these from generators that belong to the whole process. So they are drawn
here, from a seed, and handed to it as what it calls frozen parameters. Its own noise and rooms are not used: it makes
noise for one example after the other, as strong as the mean over speech and padding asks for, and knows rooms as files.
Legend of shape suffixes: b examples, k those that are changed, n samples, r samples of a room's response.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from asr import augment, rooms
from asr.waveform_config import Level, Noise, Range, Reverberation, load_config
from asr.waveform_recordings import ForSome, Recordings
from shards.content import Content

if TYPE_CHECKING:
    from asr.recipe import TrainConfig

# torch-audiomentations is imported where it is needed: it loads torchaudio, and most trainings change no audio.

CHUNK_SAMPLES = 1 << 22  # convolved at once: at 16 MB each for these, their spectra and those of the responses
Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class WaveformAugment:
    """The parts of a WaveformConfig that can be done to a batch. None: not applied."""

    reverberation: Reverberation | None = None
    noise: Noise | None = None
    level: Level | None = None


def load(name: str) -> WaveformAugment:
    """configs/augment/<name>.yaml, or a file. Raises ValueError for what does not fit, or cannot be done to a batch."""
    config = load_config(name)
    others = [key for key in ("speed", "codec") if getattr(config, key) is not None]
    if others:
        raise ValueError(
            f"waveform={name}: {' and '.join(others)} cannot be done to batches in training; take that out of the "
            f"file, or let write-shards --augment {name} --copies N make changed copies"
        )
    return WaveformAugment(config.reverberation, config.noise, config.level)


def check_waveform(config: TrainConfig, content: Content) -> None:
    """Raises ValueError for a training with `waveform` whose shards have no audio, or that changes features too.

    Features of single utterances are changed on the CPU before batches are made, audio here after that: speed, vocal
    tract and gaps would have to be made anew from audio that is already on the device.
    """
    if not config.waveform:
        return
    if not content.audio:
        raise ValueError(
            f"waveform={config.waveform} changes audio, and these shards hold {content.name} only; write them with "
            f"write-shards --content audio, or train with waveform=''"
        )
    changed = augment.of_utterances(config.augment)
    if changed:
        raise ValueError(
            f"waveform={config.waveform} changes audio, {' and '.join(f'augment.{key}' for key in changed)} the "
            f"features made of it before; train with {' '.join(f'augment.{key}=0' for key in changed)}, or waveform=''"
        )


def change(
    samples_bn: Tensor,
    lens_b: Tensor,
    sample_rate: int,
    waveform: WaveformAugment,
    seed: int,
    recordings: Recordings | None = None,
) -> Tensor:
    """Float32 [b, n] in [-1, 1], changed by chance: a function of the arguments alone, on each kind of device.

    Example b has the first lens_b[b] samples. Zeros follow it, whatever was there before. Speech stays where it was in
    time, silence stays silent, and what would clip is scaled down. `recordings` is what waveform_recordings.read gives;
    it must be there when files are named.
    """
    rng = np.random.default_rng(seed)
    device = samples_bn.device
    generator = torch.Generator(device).manual_seed(int(rng.integers(1 << 62)))
    inside_bn = torch.arange(samples_bn.shape[1], device=device) < lens_b.to(device)[:, None]
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        samples_bn = _within_full_scale(samples_bn.masked_fill(~inside_bn, 0))
        if (room := waveform.reverberation) is not None:
            if room.files:
                assert recordings is not None
                responses = recordings.responses
            else:
                responses = _made_rooms(room, len(samples_bn), sample_rate, rng, generator)
            samples_bn = _within_full_scale(_reverberate(samples_bn, inside_bn, responses))
        if (noise := waveform.noise) is not None:
            if noise.files:
                assert recordings is not None
                sounds = recordings.noise
            else:
                sounds = _made_noise(noise, samples_bn.shape, sample_rate, rng, generator)
            samples_bn = _within_full_scale(_add_noise(samples_bn, inside_bn, sounds, noise.snr_db, sample_rate, rng))
        if (level := waveform.level) is not None:
            samples_bn = _within_full_scale(_amplify(samples_bn, level, sample_rate, rng))
    return samples_bn


def _within_full_scale(samples_bn: Tensor) -> Tensor:
    """In place. On a CPU the norm to infinity takes twenty times as long as these two."""
    peak_b1 = torch.maximum(samples_bn.amax(1, keepdim=True), -samples_bn.amin(1, keepdim=True))
    return samples_bn.div_(peak_b1.clamp(min=1))


def _some(examples: int, share: float, rng: np.random.Generator) -> tuple[Chosen, int]:
    """Which examples, and how many these are."""
    chosen_b = rng.random(examples) < share
    return chosen_b, int(chosen_b.sum())


def _draw(within: Range, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    return torch.from_numpy(rng.uniform(*within, count).astype(np.float32)).to(device, non_blocking=True)


def _made_rooms(
    part: Reverberation, examples: int, sample_rate: int, rng: np.random.Generator, generator: torch.Generator
) -> ForSome | None:
    """Responses as asr.rooms.response makes one, each for a room of its own."""
    chosen_b, count = _some(examples, part.share, rng)
    if not count:
        return None
    t60_s, distance_m, volume_m3 = (rng.uniform(*r, count) for r in (part.t60_s, part.distance_m, part.volume_m3))
    onset_s = np.array([rooms.mean_free_path_m(v) / rooms.SOUND_M_S for v in volume_m3])
    onset = np.maximum(1, np.rint(onset_s * sample_rate))
    length = np.rint(t60_s * sample_rate)
    critical_m = [rooms.critical_distance_m(t, v) for t, v in zip(t60_s, volume_m3, strict=True)]
    strength = distance_m / critical_m  # root of the tail's energy, where that of the direct sound is 1
    values = np.stack([onset, length, t60_s, strength]).astype(np.float32)
    onset_k1, length_k1, t60_s_k1, strength_k1 = torch.from_numpy(values).to(generator.device)[:, :, None]
    size = int((onset + length).max())
    at_kr = torch.arange(size, device=generator.device) - onset_k1
    tail_kr = torch.randn(count, size, generator=generator, device=generator.device)
    tail_kr *= torch.exp(at_kr * (-3 * math.log(10) / sample_rate) / t60_s_k1)
    tail_kr.masked_fill_((at_kr < 0) | (at_kr >= length_k1), 0)
    tail_kr *= strength_k1 / tail_kr.norm(dim=1, keepdim=True).clamp(min=1e-6)
    tail_kr[:, 0] = 1  # the direct sound, before all others
    return ForSome(chosen_b, tail_kr)


def _reverberate(samples_bn: Tensor, inside_bn: Tensor, responses: ForSome | None) -> Tensor:
    """Where there are responses; the level stays."""
    if responses is None:
        return samples_bn
    from torch_audiomentations import convolve

    at_k = torch.from_numpy(np.flatnonzero(responses.chosen_b)).to(samples_bn.device)
    response_kr = responses.samples_kn.to(samples_bn.device, non_blocking=True)
    size = samples_bn.shape[1]
    rows = max(1, CHUNK_SAMPLES // (size + response_kr.shape[1]))
    for rows_k, chunk_kr in zip(at_k.split(rows), response_kr.split(rows), strict=True):
        dry_kn = samples_bn[rows_k]
        wet_kn = convolve(dry_kn, chunk_kr)[:, :size] * inside_bn[rows_k]
        loudness_k1, wet_loudness_k1 = dry_kn.norm(dim=1, keepdim=True), wet_kn.norm(dim=1, keepdim=True)
        samples_bn[rows_k] = wet_kn * (loudness_k1 / wet_loudness_k1.clamp(min=1e-20))
    return samples_bn


def _made_noise(
    part: Noise, shape: torch.Size, sample_rate: int, rng: np.random.Generator, generator: torch.Generator
) -> ForSome | None:
    """Steady noise as AddColoredNoise makes it: a second of it over and over, its amplitude falling with a power of
    the frequency."""
    chosen_b, count = _some(shape[0], part.share, rng)
    if not count:
        return None
    device = generator.device
    decay_k1 = _draw(part.decay, count, rng, device)[:, None]
    spectrum_kf = torch.fft.rfft(torch.randn(count, sample_rate, generator=generator, device=device))
    spectrum_kf *= torch.linspace(1, (sample_rate / 2) ** 0.5, spectrum_kf.shape[1], device=device) ** -decay_k1
    second_kn = torch.fft.irfft(spectrum_kf, n=sample_rate)
    return ForSome(chosen_b, second_kn.repeat(1, -(-shape[1] // sample_rate))[:, : shape[1]])


def _add_noise(
    samples_bn: Tensor,
    inside_bn: Tensor,
    noise: ForSome | None,
    snr_db: Range,
    sample_rate: int,
    rng: np.random.Generator,
) -> Tensor:
    """So many decibels below the speech: both are measured with the zeros behind them, which are as many for each."""
    if noise is None:
        return samples_bn
    from torch_audiomentations import AddBackgroundNoise
    from torch_audiomentations.utils.io import Audio

    inside_kn = inside_bn[torch.from_numpy(noise.chosen_b)]
    background_kn = noise.samples_kn.to(samples_bn.device, non_blocking=True)
    background_kn = nn.functional.pad(background_kn, (0, samples_bn.shape[1] - background_kn.shape[1]))
    background_kn = Audio.rms_normalize(background_kn * inside_kn)
    snr_k = _draw(snr_db, len(background_kn), rng, samples_bn.device)
    transform = AddBackgroundNoise("none.wav", p=1.0, output_type="dict")
    return _through(transform, samples_bn, sample_rate, noise.chosen_b, background=background_kn, snr_in_db=snr_k)


def _amplify(samples_bn: Tensor, part: Level, sample_rate: int, rng: np.random.Generator) -> Tensor:
    from torch_audiomentations import Gain

    chosen_b, count = _some(len(samples_bn), part.share, rng)
    factor_k = 10 ** (_draw(part.gain_db, count, rng, samples_bn.device) / 20)
    gain = Gain(p=1.0, output_type="dict")
    return _through(gain, samples_bn, sample_rate, chosen_b, gain_factors=factor_k[:, None, None])


def _through(transform: Any, samples_bn: Tensor, sample_rate: int, chosen_b: Chosen, **parameters: Tensor) -> Tensor:
    """A transform of torch-audiomentations with these parameters, for the chosen examples, and none of its own."""
    transform.freeze_parameters()
    transform.transform_parameters = {"should_apply": torch.from_numpy(chosen_b), **parameters}
    changed_bn: Tensor = transform(samples_bn[:, None], sample_rate).samples[:, 0]
    return changed_bn
