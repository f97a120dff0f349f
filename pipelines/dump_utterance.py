"""One utterance of a shard set as a file that people can hear, see or read: what `inspect-shards --to` writes.

Of a shard that is not on this machine only the utterance's own bytes are fetched.
"""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from asr import audio, frontend
from manifests import storage
from pipelines.reporting import charts
from shards.content import numbers
from shards.index import ShardSet
from shards.spec import FrontendSpec

PIXELS = 4  # a value of log-mel is a square of so many
ROUNDS = 32  # of Griffin-Lim's; more change nothing that is heard in speech

Floats = npt.NDArray[np.float32]


def dump(shards: ShardSet, row: int, facts: dict[str, Any], to: str) -> str:
    """Write a row, whose columns are `facts`, to the file `to`, in the form that its suffix says.

    Gives in words what was written. Raises ValueError for another suffix, OSError for a shard that cannot be read.
    """
    suffix = "." + storage.name(to).rpartition(".")[2].lower()
    if suffix not in FORMS:
        raise ValueError(f"--to {to}: an utterance is written as {', '.join(FORMS)}")
    data, what = FORMS[suffix](shards, row, facts)
    replaced = "replaced by " if storage.exists(storage.absolute(to)) else ""
    storage.write_bytes(storage.absolute(to), data)
    return f"{to}: {replaced}{what}"


def logmel(shards: ShardSet, row: int, facts: dict[str, Any]) -> Floats:
    """Float32 [frames, mels] of a row: as they are stored, or made of its audio."""
    if shards.content.features is None:
        return frontend.logmel(audio.read(_audio_uri(shards, row, facts), shards.spec.sample_rate), shards.spec)
    offset, length = int(shards.feature_offset[row]), int(shards.feature_length[row])
    data = np.frombuffer(storage.read_range(_shard(shards, row), offset, length), np.uint8)
    feats_tf = numbers(data, shards.content.features, int(shards.frames[row]), shards.spec.mels)
    return feats_tf.astype(np.float32, copy=False)


def _shard(shards: ShardSet, row: int) -> str:
    """The URL as it is; facts["shard"] is without a login."""
    return shards.files[shards.shard[row]].url


def _audio_uri(shards: ShardSet, row: int, facts: dict[str, Any]) -> str:
    name = f"{facts['id']}.{facts['audio_format']}"
    return storage.member_uri(_shard(shards, row), facts["audio_offset"], facts["audio_length"], name)


def _flac(shards: ShardSet, row: int, facts: dict[str, Any]) -> tuple[bytes, str]:
    if shards.content.audio and facts["audio_format"] == "flac":
        return storage.read_bytes(_audio_uri(shards, row, facts)), "the shard's own bytes"
    return _sound(shards, row, facts, "FLAC")


def _wav(shards: ShardSet, row: int, facts: dict[str, Any]) -> tuple[bytes, str]:
    return _sound(shards, row, facts, "WAV")


def _sound(shards: ShardSet, row: int, facts: dict[str, Any], form: str) -> tuple[bytes, str]:
    if shards.content.audio:
        uri = _audio_uri(shards, row, facts)
        samples_nc, rate = audio.read_channels(uri), audio.probe(uri).sample_rate
        what = f"the shard's {facts['audio_format']}, decoded: {len(samples_nc) / rate:.2f} s at {rate:,} Hz"
    else:
        samples_nc, rate = resynthesised(logmel(shards, row, facts), shards.spec)[:, None], shards.spec.sample_rate
        what = f"{len(samples_nc) / rate:.2f} s resynthesised from log-mel (Griffin-Lim); the shard has no audio"
    file = io.BytesIO()
    soundfile.write(file, samples_nc, rate, format=form, subtype="PCM_24" if _is_fine(samples_nc) else "PCM_16")
    return file.getvalue(), what


def _is_fine(samples_nc: np.ndarray) -> bool:
    """Whether 16 bits would not hold the samples."""
    return not np.array_equal(np.rint(samples_nc * 32768), samples_nc * 32768)


def resynthesised(feats_tf: Floats, spec: FrontendSpec) -> Floats:
    """Samples, float32 mono in [-1, 1], that have about these features.

    The power of the bins is the non-negative least-squares solution of the mel filters, the phases are those of
    D. W. Griffin and J. S. Lim, "Signal estimation from modified short-time Fourier transform", 1984.
    """
    import librosa  # takes a second

    bins = spec.fft_samples // 2 + 1
    filters_fk = np.zeros((spec.mels, bins), np.float32)
    known_fk = frontend.mel_filters(spec)
    filters_fk[:, : known_fk.shape[1]] = known_fk
    beyond = -(-spec.fft_samples // spec.hop_samples)  # frames at both ends, where the window's sum is near 0
    padded_ft = np.pad(feats_tf.T, ((0, 0), (beyond, beyond)), mode="edge")
    power_kt = librosa.util.nnls(filters_fk, np.exp(padded_ft))
    samples_t = librosa.griffinlim(
        np.sqrt(power_kt), n_iter=ROUNDS, hop_length=spec.hop_samples, win_length=spec.window_samples,
        n_fft=spec.fft_samples, window=frontend.window(spec), center=False, random_state=0,
    )  # fmt: skip
    # librosa's window is in the middle of the transform, Kaldi's at its beginning
    start = beyond * spec.hop_samples + (spec.fft_samples - spec.window_samples) // 2
    samples_t = samples_t[start:][: (len(feats_tf) - 1) * spec.hop_samples + spec.window_samples]
    samples_t = librosa.effects.deemphasis(samples_t, coef=spec.preemphasis)
    peak = float(np.abs(samples_t).max(initial=0.0))
    return (samples_t / max(1.0, peak)).astype(np.float32)


def _png(shards: ShardSet, row: int, facts: dict[str, Any]) -> tuple[bytes, str]:
    feats_tf = logmel(shards, row, facts)
    picture = np.kron(feats_tf.T[::-1], np.ones((PIXELS, PIXELS), np.float32))
    png = charts.png(picture, float(feats_tf.min()), float(feats_tf.max()))
    frames, mels = feats_tf.shape
    what = f"log-mel, {frames} frames of {1000 * shards.spec.frame_s:g} ms from left to right, {mels} mels upwards"
    return png, what


def _txt(shards: ShardSet, row: int, facts: dict[str, Any]) -> tuple[bytes, str]:
    return f"{facts['text']}\n".encode(), "the text"


def _json(shards: ShardSet, row: int, facts: dict[str, Any]) -> tuple[bytes, str]:
    return (json.dumps(facts, ensure_ascii=False, indent=1) + "\n").encode(), "the row of the index"


FORMS: dict[str, Callable[[ShardSet, int, dict[str, Any]], tuple[bytes, str]]] = {
    ".wav": _wav, ".flac": _flac, ".png": _png, ".txt": _txt, ".json": _json,
}  # fmt: skip
