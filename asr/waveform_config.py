"""What may be done to recorded speech: the values of configs/augment/*.yaml, and the files that they name."""

import functools
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from asr import codecs
from configs import load
from manifests import storage

Range = tuple[float, float]  # least and most

AUDIO_FILES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".aif", ".sph", ".webm")


@dataclass(frozen=True)
class Speed:
    """Tempo and pitch together (T. Ko et al., "Audio augmentation for speech recognition", Interspeech 2015).

    With factor f an utterance becomes 1/f times as long.
    """

    share: float
    factor: Range


@dataclass(frozen=True)
class Reverberation:
    """Rooms: recorded impulse responses where `files` names some (or folders and URLs of them), else made-up ones.

    The level of the speech stays. T60, distance and volume (of a cube) are those of made-up rooms, see asr/rooms.py.
    """

    share: float
    t60_s: Range = (0.15, 0.8)
    distance_m: Range = (0.5, 3.0)
    volume_m3: Range = (40.0, 400.0)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Noise:
    """Noise so many decibels below the speech, both as root mean squares of the whole utterance.

    From `files` (or folders and URLs of them) where there are any; else steady noise whose amplitude falls with the
    power `decay` of the frequency, above about 100 Hz: 0 white, 0.5 pink, 1 brown.
    """

    share: float
    snr_db: Range
    decay: Range = (0.0, 1.0)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """Louder or softer by so many decibels."""

    share: float
    gain_db: Range


@dataclass(frozen=True)
class Codec:
    """One of the codecs `names`, each as likely; MP3 and Opus at one of their bit rates within `kbits`."""

    share: float
    names: tuple[Literal["mp3", "opus", "mulaw", "alaw", "gsm"], ...]
    kbits: Range = (8.0, 64.0)


@dataclass(frozen=True)
class WaveformConfig:
    """configs/augment/*.yaml. What is not there is not applied."""

    speed: Speed | None = None
    reverberation: Reverberation | None = None
    noise: Noise | None = None
    level: Level | None = None
    codec: Codec | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if (part := getattr(self, field.name)) is not None:
                _check_part(f"augment.{field.name}", part)
        if self.codec:
            _check_codec(self.codec)
        if self.level and self.level.gain_db[0] == self.level.gain_db[1]:
            raise ValueError(f"augment.level.gain_db is {list(self.level.gain_db)}; the two must differ")


_LIMITS = {"factor": (0.5, 2.0), "t60_s": (0.01, 10.0), "snr_db": (-40.0, 100.0), "decay": (-2.0, 2.0),
           "gain_db": (-100.0, 100.0)}  # fmt: skip
_ABOVE_0 = (1e-6, 1e6)  # of the others


def _check_part(where: str, part: Any) -> None:
    if not 0 <= part.share <= 1:
        raise ValueError(f"{where}.share is {part.share:g}; it is a share of the utterances, from 0 to 1")
    for field in fields(part):
        if field.type != Range:
            continue
        value = getattr(part, field.name)
        least, most = _LIMITS.get(field.name, _ABOVE_0)
        if not all(least <= v <= most for v in value):
            bounds = f"from {least:g} to {most:g}" if field.name in _LIMITS else "above 0, and finite"
            raise ValueError(f"{where}.{field.name} is {list(value)}; both must be {bounds}")
        if value[0] > value[1]:
            raise ValueError(f"{where}.{field.name} is {list(value)}; write [least, most]")


def _check_codec(codec: Codec) -> None:
    if not codec.names:
        raise ValueError(f"augment.codec.names is empty; there are {', '.join(codecs.KBITS)}")
    for name in codec.names:
        if not kbits_within(name, codec.kbits):
            raise ValueError(
                f"augment.codec.kbits is {list(codec.kbits)}; {name} can have {', '.join(map(str, codecs.KBITS[name]))}"
            )


def kbits_within(name: str, within: Range) -> list[float]:
    """The bit rates that a codec may get; the telephone's are what they are."""
    choice = codecs.KBITS[name]
    return [k for k in choice if within[0] <= k <= within[1]] if name in codecs.CHOSEN else list(choice)


def load_config(name: str) -> WaveformConfig:
    """configs/augment/<name>.yaml, or a file, with every folder replaced by the audio files in it, by absolute URI.

    So all processes, on whatever machine, draw from the same files. Raises ValueError for what does not fit, and for a
    folder without audio files.
    """
    config = load.load(WaveformConfig, name, "augment")
    if config.noise:
        config = replace(config, noise=replace(config.noise, files=audio_files(config.noise.files)))
    if config.reverberation:
        files = audio_files(config.reverberation.files)
        config = replace(config, reverberation=replace(config.reverberation, files=files))
    return config


@functools.lru_cache(16)
def audio_files(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The entries that are audio files, and those below the entries that are folders or URLs of such, in name order.

    Raises ValueError for an entry that gives none.
    """
    found: list[str] = []
    for entry in map(storage.absolute, entries):
        if entry.lower().endswith(AUDIO_FILES):
            files = [entry]
        else:
            files = [uri for uri, _ in storage.list_files(entry) if uri.lower().endswith(AUDIO_FILES)]
        if not files:
            raise ValueError(f"{entry}: no audio files ({', '.join(AUDIO_FILES)}) are there")
        found += files
    return tuple(found)
