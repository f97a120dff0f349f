"""Changes of recorded speech that a recogniser should not mind, made once, when the shards are written.

In the order in which they come about: the speaker's speed, the room, what else sounds there, the level of the
microphone, the codec on the line. Each applies to a share of the utterances. A result is a function of (samples, sample
rate, config, seed, what noise and response files hold) alone: the same bytes in every process.
"""

import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor
from torch_audiomentations import AddBackgroundNoise, AddColoredNoise, Gain, convolve
from torch_audiomentations.utils.io import Audio

from asr import audio, codecs, rooms
from asr.waveform_config import (
    Codec,
    Level,
    Noise,
    Range,
    Reverberation,
    Speed,
    WaveformConfig,
    audio_files,
    kbits_within,
)

Floats = npt.NDArray[np.float32]
Applied = dict[str, Any]  # "name" and the parameters, plain JSON

_DIRECT = 0.5  # of its strongest sample: where a recorded response's direct sound is. A reflection may be stronger.


def augment(samples_t: Floats, sample_rate: int, config: WaveformConfig, seed: int) -> tuple[Floats, list[Applied]]:
    """The utterance, changed by chance, and what was applied, in order. Float32 mono in [-1, 1], in and out.

    Speech stays where it was in time, and all but `speed` leave the length. What would clip is scaled down, and that is
    listed too. Silence stays as it is. Raises AudioError for a noise or response file that cannot be read.
    """
    assert samples_t.ndim == 1 and samples_t.dtype == np.float32, (samples_t.ndim, samples_t.dtype)
    rng = np.random.default_rng(seed)
    applied: list[Applied] = []
    samples_t = _within_full_scale(np.require(samples_t, requirements=["C", "W"]), applied)  # torch takes no other
    steps: list[tuple[Any, Callable[..., tuple[Floats, Applied]]]] = [
        (config.speed, _speed),
        (config.reverberation, _reverberate),
        (config.noise, _add_noise),
        (config.level, _amplify),
        (config.codec, _code),
    ]
    with _generators(seed):
        for part, change in steps:
            if part is not None and rng.random() < part.share and samples_t.any():
                samples_t, what = change(samples_t, sample_rate, part, rng)
                applied.append(what)
                samples_t = _within_full_scale(samples_t, applied)
    return samples_t, applied


_lock = threading.Lock()  # torch's and python's generators belong to the whole process


@contextmanager
def _generators(seed: int) -> Iterator[None]:
    """Seeds what torch-audiomentations draws from, on one thread of torch; afterwards all is as it was before."""
    with _lock:
        threads, in_torch, in_python = torch.get_num_threads(), torch.get_rng_state(), random.getstate()
        torch.set_num_threads(1)
        torch.default_generator.manual_seed(seed % (1 << 63))
        random.seed(seed)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(threads)
            torch.set_rng_state(in_torch)
            random.setstate(in_python)


def _within_full_scale(samples_t: Floats, applied: list[Applied]) -> Floats:
    peak = float(np.abs(samples_t).max(initial=0.0))
    if peak <= 1:
        return samples_t
    applied.append({"name": "scaled", "gain_db": round(-20 * math.log10(peak), 3)})
    scaled_t: Floats = samples_t / np.float32(peak)
    return scaled_t


def _draw(within: Range, rng: np.random.Generator) -> float:
    """Rounded, so that what is recorded is what was used."""
    return round(float(rng.uniform(*within)), 4)


def _speed(samples_t: Floats, sample_rate: int, part: Speed, rng: np.random.Generator) -> tuple[Floats, Applied]:
    factor = _draw(part.factor, rng)
    changed_t = soxr.resample(samples_t, factor, 1.0, quality="HQ")
    return codecs.fitted(changed_t, max(1, round(len(samples_t) / factor))), {"name": "speed", "factor": factor}


def _reverberate(
    samples_t: Floats, sample_rate: int, part: Reverberation, rng: np.random.Generator
) -> tuple[Floats, Applied]:
    what: Applied = {"name": "reverberation"}
    if part.files:
        files = audio_files(part.files)
        what["file"] = files[int(rng.integers(len(files)))]
        response_t = recorded_response(what["file"], sample_rate)
    else:
        what |= {key: _draw(getattr(part, key), rng) for key in ("t60_s", "distance_m", "volume_m3")}
        response_t = rooms.response(sample_rate, what["t60_s"], what["distance_m"], what["volume_m3"], rng)
    wet_t = convolve(torch.from_numpy(samples_t), torch.from_numpy(response_t))[: len(samples_t)].numpy()
    loudness, wet_loudness = _rms(samples_t), _rms(wet_t)
    if wet_loudness > 0:  # the level stays, as with --normalize-output of Kaldi's wav-reverberate
        wet_t = wet_t * np.float32(loudness / wet_loudness)
    return wet_t, what


def recorded_response(uri: str, sample_rate: int) -> Floats:
    """From its direct sound on. Raises AudioError."""
    response_t = audio.read(uri, sample_rate)
    size = np.abs(response_t)
    if not size.any():
        raise audio.AudioError(f"{uri}: is silent, and no response of a room")
    return response_t[int((size >= _DIRECT * size.max()).argmax()) :]


def _rms(samples_t: Floats) -> float:
    return math.sqrt(float(np.mean(np.square(samples_t, dtype=np.float64))))


def _add_noise(samples_t: Floats, sample_rate: int, part: Noise, rng: np.random.Generator) -> tuple[Floats, Applied]:
    """The ratio recorded is that of the outcome: a stretch of noise may be quieter than the file or second of noise."""
    least, most = part.snr_db
    what: Applied = {"name": "noise"}
    if part.files:
        files = _Files(sample_rate)
        transform: Any = AddBackgroundNoise("none.wav", least, most, p=1.0, output_type="dict")
        transform.background_paths, transform.audio = list(audio_files(part.files)), files
    else:
        decay = _draw(part.decay, rng)
        transform = AddColoredNoise(least, most, decay, decay, p=1.0, output_type="dict")
        what["decay"] = decay
    noisy_t = _through(transform, samples_t, sample_rate)
    if part.files:
        what["files"] = files.used
    loudness = _rms(noisy_t - samples_t)
    what["snr_db"] = round(20 * math.log10(_rms(samples_t) / loudness), 2) if loudness > 0 else None
    return noisy_t, what


def _amplify(samples_t: Floats, sample_rate: int, part: Level, rng: np.random.Generator) -> tuple[Floats, Applied]:
    transform = Gain(*part.gain_db, p=1.0, output_type="dict")
    louder_t = _through(transform, samples_t, sample_rate)
    factor = float(transform.transform_parameters["gain_factors"].item())
    return louder_t, {"name": "level", "gain_db": round(20 * math.log10(factor), 4)}


def _code(samples_t: Floats, sample_rate: int, part: Codec, rng: np.random.Generator) -> tuple[Floats, Applied]:
    name = part.names[int(rng.integers(len(part.names)))]
    choice = kbits_within(name, part.kbits)
    kbits = choice[int(rng.integers(len(choice)))]
    coded_t = codecs.round_trip(samples_t, sample_rate, name, kbits)
    return coded_t, {"name": "codec", "codec": name, "kbits": kbits}


def _through(transform: Any, samples_t: Floats, sample_rate: int) -> Floats:
    changed: Floats = transform(torch.from_numpy(samples_t)[None, None], sample_rate).samples[0, 0].numpy()
    return changed


class _Files:
    """Stands in for torch-audiomentations' reader of files: any format and URI, by the door that all speech takes.

    Theirs asks torchaudio, which no longer reads headers since 2.9, and takes local WAV files only.
    """

    rms_normalize = staticmethod(Audio.rms_normalize)

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.used: list[str] = []

    def get_num_samples(self, uri: str) -> int:
        return math.ceil(audio.probe(uri).duration_s * self.sample_rate)

    def __call__(self, uri: str, sample_offset: int = 0, num_samples: int | None = None) -> Tensor:
        """Float32 [1, num_samples]."""
        count = self.get_num_samples(uri) if num_samples is None else num_samples
        samples_t = audio.read(uri, self.sample_rate, sample_offset / self.sample_rate, count / self.sample_rate)
        self.used.append(uri)
        return torch.from_numpy(codecs.fitted(samples_t, count))[None]
