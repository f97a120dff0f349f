"""The microphone, through PortAudio (sounddevice): what its callback gets goes into a feed."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import soxr

from asr.live.feed import Feed

BLOCK_S = 0.02  # of a callback: well below any --chunk-ms

_PORTAUDIO = (
    "the microphone is read through PortAudio, which is missing here; install it: apt install libportaudio2 (Debian, "
    "Ubuntu), dnf install portaudio (Fedora)"
)


@dataclass
class Overruns:
    """Sound that was lost before it got here."""

    count: int = 0


def library() -> ModuleType:
    """sounddevice. Raises ValueError with what to type where it, or PortAudio, is not installed."""
    try:
        import sounddevice
    except ImportError:
        raise ValueError(
            "the microphone is read by sounddevice; type in the folder of this project: pip install '.[mic]'"
        ) from None
    except OSError:
        raise ValueError(_PORTAUDIO) from None
    return sounddevice


def devices() -> str:
    """A line for each microphone: what --device takes, channels, rate; the default one is marked."""
    sounddevice = library()
    default = sounddevice.default.device[0]
    lines = [
        f"{'*' if number == default else ' '} {number:>3}  {device['name']}, {device['max_input_channels']} channels, "
        f"{device['default_samplerate']:.0f} Hz"
        for number, device in enumerate(sounddevice.query_devices())
        if device["max_input_channels"] > 0
    ]
    return "\n".join(lines) if lines else "there is no microphone here"


@contextlib.contextmanager
def listening(feed: Feed, device: str | None) -> Iterator[Overruns]:
    """Sound goes into the feed within the block. `device`: number or part of a name; None: the default one.

    It is asked for the recogniser's rate, and where it does not have that, resampled from its own. A microphone that is
    unplugged ends the feed. Raises ValueError for one that is not there or cannot be opened.
    """
    sounddevice = library()
    chosen: int | str | None = int(device) if device is not None and device.isdigit() else device
    overruns = Overruns()
    closing = threading.Event()
    try:
        facts = sounddevice.query_devices(chosen, "input")
        rate = _rate(sounddevice, chosen, feed.sample_rate, round(facts["default_samplerate"]))
        resampler = (
            None if rate == feed.sample_rate else soxr.ResampleStream(rate, feed.sample_rate, 1, "float32", "HQ")
        )

        def callback(block_nc: np.ndarray, frames: int, when: Any, status: Any) -> None:
            if status.input_overflow:
                overruns.count += 1
                if overruns.count == 1:
                    feed.note("the sound card lost a little sound: this machine is too busy")
            samples = block_nc[:, 0].copy()  # PortAudio fills the same memory again
            feed.offer(samples if resampler is None else resampler.resample_chunk(samples))

        def finished() -> None:
            if not closing.is_set():
                feed.end(ValueError(f"the microphone ({facts['name']}) has stopped; is it still plugged in?"))

        opened = sounddevice.InputStream(
            samplerate=rate, device=chosen, channels=1, dtype="float32", blocksize=round(BLOCK_S * rate),
            callback=callback, finished_callback=finished,
        )  # fmt: skip
    except (sounddevice.PortAudioError, ValueError) as err:
        raise ValueError(_why(sounddevice, device, err)) from None
    with opened:
        feed.note(f"listening to {facts['name']}; Ctrl-C ends")
        try:
            yield overruns
        finally:
            closing.set()


def _rate(sounddevice: ModuleType, device: int | str | None, wanted: int, own: int) -> int:
    try:
        sounddevice.check_input_settings(device=device, channels=1, dtype="float32", samplerate=wanted)
    except sounddevice.PortAudioError:
        return own
    return wanted


def _why(sounddevice: ModuleType, device: str | None, err: Exception) -> str:
    if not any(d["max_input_channels"] > 0 for d in sounddevice.query_devices()):
        return "there is no microphone here; plug one in, or allow this program to use it"
    which = "the default microphone" if device is None else f"--microphone {device}"
    text = " ".join(str(err).split())
    return f"{which}: cannot be opened ({text}); transcribe mic --list-microphones shows what there is"
