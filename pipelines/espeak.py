"""espeak-ng in this process: text to samples, through ctypes and the library that espeakng-loader packages."""

import _ctypes
import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]
Say = Callable[[str, str, int, int], Samples]

SAMPLE_RATE = 22050  # of every formant voice
VOLUME = 50  # of 100, espeak's own default; there, the loud voices are cut off at the largest sample

# Names from espeak-ng's speak_lib.h
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: espeak_Synth returns when the callback has had every sample
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report missing data instead of ending the process
_UTF8 = 1  # espeakCHARS_UTF8
_RATE, _VOLUME, _PITCH = 1, 2, 3  # espeakRATE, espeakVOLUME, espeakPITCH

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_one_engine = threading.Lock()  # the library keeps its state in global variables


def _library() -> tuple[str, str]:
    """Paths of the shared library and of its data folder."""
    try:
        import espeakng_loader
    except ImportError:
        raise ValueError(
            "the demo corpus is spoken by espeak-ng, which is not installed; type: pip install 'speechmill[demo]'"
        ) from None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def _declare(lib: ctypes.CDLL) -> None:
    lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    lib.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    lib.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    lib.espeak_Synth.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
        *(ctypes.c_void_p, ctypes.c_void_p),
    ]


def _check(code: int, what: str) -> None:
    if code != 0:
        raise RuntimeError(f"espeak-ng: {what} failed with code {code}")


@contextlib.contextmanager
def engine() -> Iterator[Say]:
    """Gives `say(text, voice, wpm, pitch)`, which returns mono samples in [-1, 1] at SAMPLE_RATE, silence cut off.

    `voice` is `language` or `language+variant` (`en-us+f2`), `wpm` words per minute, `pitch` 0 to 100. The same calls
    in the same order give the same samples in every process, except for variants that use the C library's rand()
    (Reed is one). `say` raises ValueError for a voice that espeak-ng does not know and for a text without sound. One
    engine at a time in a process: another waits. `say` ends with the block.
    """
    library, data = _library()
    with _one_engine:
        lib = ctypes.CDLL(library)
        try:
            _declare(lib)
            rate = lib.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DONT_EXIT)
            if rate != SAMPLE_RATE:
                raise RuntimeError(f"espeak-ng does not start with the data in {data} (it answers {rate})")
            lib.espeak_ng_SetRandSeed(1)  # the start seeds it from the clock
            yield _speaker(lib)
            _check(lib.espeak_Terminate(), "espeak_Terminate")
        finally:
            # Terminate leaves static state (flutter, echo, noise) that the next voice would hear; unloading does not.
            _ctypes.dlclose(lib._handle)


def _speaker(lib: ctypes.CDLL) -> Say:
    blocks: list[bytes] = []

    def take(samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            blocks.append(ctypes.string_at(samples, count * 2))
        return 0

    callback = _Callback(take)  # the library holds only its address, so `say` has to hold it

    def say(text: str, voice: str, wpm: int, pitch: int) -> Samples:
        if lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}; a voice is a language or language+variant: en-us+f2")
        for parameter, value in ((_RATE, wpm), (_VOLUME, VOLUME), (_PITCH, pitch)):
            _check(lib.espeak_SetParameter(parameter, value, 0), f"parameter {parameter} = {value}")
        lib.espeak_SetSynthCallback(callback)
        data = text.encode()
        blocks.clear()
        _check(lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None), f"speaking {text!r}")
        samples = np.frombuffer(b"".join(blocks), dtype=np.int16) / 32768
        if not samples.any():
            raise ValueError(f"espeak-ng makes no sound of {text!r}; give it a text with words")
        return _trim(samples)

    return say


def _trim(samples: Samples) -> Samples:
    """Without all but 10 ms of what is below 1 % of the peak at either end; faded, so that the cut does not click."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    margin = SAMPLE_RATE // 100
    kept = samples[max(0, loud[0] - margin) : loud[-1] + margin].copy()
    fade = np.linspace(0.0, 1.0, min(margin, len(kept)))
    kept[: len(fade)] *= fade
    kept[-len(fade) :] *= fade[::-1]
    return kept
