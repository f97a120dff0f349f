"""Speech as a codec leaves it: coded, decoded, and put back to where it was and as long as it was.

MP3 and Opus are coded by FFmpeg (PyAV) without a container. mu-law, A-law and GSM 06.10 (libsndfile) are the telephone:
8,000 samples a second and the band of ITU-T G.712, 300 to 3,400 Hz.
"""

import functools
import io
from typing import Any

import av
import av.logging
import numpy as np
import numpy.typing as npt
import scipy.fft
import soundfile as sf
import soxr
from av.audio.frame import AudioFrame

Floats = npt.NDArray[np.float32]

# Bit rates in kbit/s that the coder really uses; those of the telephone follow from its standard.
KBITS: dict[str, tuple[float, ...]] = {
    "mp3": (8, 16, 24, 32, 40, 48, 56, 64),  # of MPEG 2 and 2.5, layer III
    "opus": (6, 8, 12, 16, 20, 24, 32, 40, 48, 64),
    "mulaw": (64,),
    "alaw": (64,),
    "gsm": (13,),
}
CHOSEN = ("mp3", "opus")  # those that have a choice

_TELEPHONE = {"mulaw": "ULAW", "alaw": "ALAW", "gsm": "GSM610"}
_TELEPHONE_RATE = 8000
_BAND_HZ, _BAND_TAPS = (300, 3400), 255  # 46 dB down at 250 and 3,450 Hz; odd, for no delay
_RATES = (8000, 16000, 24000)  # that both MP3 and Opus have; speech above 12 kHz is left out
_FLUSH_S = 0.3  # of silence behind the end, which pushes the last of the speech out of both buffers: 0.15 s at 8,000
# LAME's quickest setting takes half the time of its default, and what comes out was 1.9 dB nearer to the original at
# 32 kbit/s. Opus at half of its complexity, as telephones run it, takes three quarters of the time.
_CODERS = {
    "mp3": ("libmp3lame", "mp3float", "fltp", {"compression_level": "7"}),
    "opus": ("libopus", "opus", "flt", {"compression_level": "5"}),
}

av.logging.set_level(None)  # FFmpeg would write to stderr; what matters comes as exceptions


def round_trip(samples_t: Floats, sample_rate: int, codec: str, kbits: float) -> Floats:
    """Mono float32 in [-1, 1] through `codec` and back: the same length, no delay. `kbits` is one of KBITS[codec].

    What comes out may overshoot 1 a little.
    """
    assert kbits in KBITS[codec], (codec, kbits)
    if codec in _TELEPHONE:
        rate, trip = _TELEPHONE_RATE, functools.partial(_telephone, subtype=_TELEPHONE[codec])
    else:
        rate = next((r for r in _RATES if r >= sample_rate), _RATES[-1])
        trip = functools.partial(_through_ffmpeg, rate=rate, codec=codec, kbits=kbits)
    coded_t = trip(_resampled(samples_t, sample_rate, rate))
    return fitted(_resampled(coded_t, rate, sample_rate), len(samples_t))


def fitted(samples_t: Floats, count: int) -> Floats:
    """The first `count` samples, zeros where there are fewer."""
    return samples_t[:count] if len(samples_t) >= count else np.pad(samples_t, (0, count - len(samples_t)))


def _resampled(samples_t: Floats, rate: int, to_rate: int) -> Floats:
    return samples_t if rate == to_rate else soxr.resample(samples_t, rate, to_rate, quality="HQ")


def _telephone(samples_t: Floats, subtype: str) -> Floats:
    file = io.BytesIO()
    sf.write(file, np.clip(_in_band(samples_t), -1, 1), _TELEPHONE_RATE, format="WAV", subtype=subtype)
    file.seek(0)
    coded_t: Floats = sf.read(file, dtype="float32")[0]
    return coded_t


def _in_band(samples_t: Floats) -> Floats:
    taps = _band_filter()
    size = scipy.fft.next_fast_len(len(samples_t) + len(taps) - 1, real=True)
    whole_t = scipy.fft.irfft(scipy.fft.rfft(samples_t, size) * scipy.fft.rfft(taps, size), size)
    return whole_t[len(taps) // 2 :][: len(samples_t)]


@functools.cache
def _band_filter() -> Floats:
    """The difference of two ideal low-passes, under a Hamming window."""
    place = np.arange(_BAND_TAPS) - _BAND_TAPS // 2
    low, high = (2 * hz / _TELEPHONE_RATE * np.sinc(2 * hz / _TELEPHONE_RATE * place) for hz in _BAND_HZ)
    return ((high - low) * np.hamming(_BAND_TAPS)).astype(np.float32)


def _through_ffmpeg(samples_t: Floats, rate: int, codec: str, kbits: float) -> Floats:
    return fitted(_coded(samples_t, rate, codec, kbits)[_delay_samples(rate, codec) :], len(samples_t))


@functools.cache
def _delay_samples(rate: int, codec: str) -> int:
    """How late the decoder is, at `rate`: measured, as FFmpeg's releases differ in what they take out themselves.

    By a chirp over the band of speech at the highest bit rate, where the sound keeps its form; the delay of both coders
    is the same for all bit rates.
    """
    times_s = np.arange(rate) / rate
    chirp_t = (0.3 * np.sin(2 * np.pi * (200 * times_s + 1600 * times_s**2))).astype(np.float32)
    coded_t = _coded(chirp_t, rate, codec, KBITS[codec][-1])
    size = len(chirp_t) + len(coded_t)
    agreement = scipy.fft.irfft(scipy.fft.rfft(chirp_t, size).conj() * scipy.fft.rfft(coded_t, size), size)
    return int(agreement[: len(coded_t) - len(chirp_t)].argmax())


def _coded(samples_t: Floats, rate: int, codec: str, kbits: float) -> Floats:
    """What the decoder gives, at `rate`: late by its delay, and with silence behind the end."""
    coder, decoder, sample_format, options = _CODERS[codec]
    encode: Any = av.CodecContext.create(coder, "w")  # Any: PyAV's stubs know nothing of what only audio has
    encode.sample_rate, encode.layout, encode.format = rate, "mono", sample_format
    encode.bit_rate, encode.options, encode.thread_count = round(kbits * 1000), options, 1
    padded_t = np.pad(samples_t, (0, round(_FLUSH_S * rate)))
    frame = AudioFrame.from_ndarray(padded_t[None], format=sample_format, layout="mono")  # PyAV cuts it to frames
    frame.sample_rate = rate
    packets = [*encode.encode(frame), *encode.encode(None)]
    decode: Any = av.CodecContext.create(decoder, "r")
    decode.sample_rate, decode.layout, decode.thread_count = rate, "mono", 1
    if encode.extradata:
        decode.extradata = encode.extradata
    blocks = [frame.to_ndarray().reshape(-1) for packet in [*packets, None] for frame in decode.decode(packet)]
    return _resampled(np.concatenate(blocks), decode.sample_rate, rate)  # Opus decodes to 48,000 whatever was coded
