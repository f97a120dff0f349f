"""An utterance as a corpus lists it, before anybody has looked at its audio; and toys of audio for toy corpora."""

import io
import json
import zlib
from dataclasses import dataclass

import numpy as np
import soundfile

from manifests import storage
from manifests.schema import Dropped


@dataclass(frozen=True, slots=True)
class Candidate:
    """An utterance as listed, its audio not yet looked at. `duration_s` None: up to the end of the file.

    `text_raw` comes without the corpus's markup; `extra` is a JSON object (see `extra`), or "".
    """

    id: str
    corpus: str
    split: str
    language: str
    speaker: str
    audio: str
    size_bytes: int
    offset_s: float
    duration_s: float | None
    text_raw: str
    licence: str
    source: str
    extra: str = ""


_JSON = json.JSONEncoder(ensure_ascii=False)  # one for all: json.dumps would make one for each row


def extra(**values: str) -> str:
    """The values that are not empty as a JSON object, "" for none: what `Candidate.extra` holds."""
    kept = {key: value for key, value in values.items() if value}
    return _JSON.encode(kept) if kept else ""


def drop(candidate: Candidate, reason: str, detail: str, duration_s: float) -> Dropped:
    """The row of dropped.parquet. `duration_s` is what is lost, as far as known: 0 for audio that was not looked at."""
    return Dropped(
        id=candidate.id,
        corpus=candidate.corpus,
        split=candidate.split,
        audio=candidate.audio,
        duration_s=max(0.0, duration_s),
        text_raw=candidate.text_raw,
        reason=reason,
        detail=detail,
    )


def toy(name: str, duration_s: float, sample_rate: int = 16000) -> np.ndarray:
    """Mono float64 [samples]: a hum that wanders with noise around it, another one for every name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    samples = round(duration_s * sample_rate)
    steps = np.repeat(rng.uniform(300, 3000, samples // (sample_rate // 10) + 1), sample_rate // 10)[:samples]
    return 0.2 * np.sin(2 * np.pi * np.cumsum(steps) / sample_rate) + 0.01 * rng.standard_normal(samples)


def write_toy(uri: str, duration_s: float, sample_rate: int = 16000, subtype: str | None = None) -> None:
    """`toy` as a file in the format of the name's extension, or of `sph`: NIST SPHERE."""
    data = io.BytesIO()
    extension = uri.rpartition(".")[2].upper()
    samples = toy(storage.name(uri), duration_s, sample_rate)
    soundfile.write(data, samples, sample_rate, format={"SPH": "NIST"}.get(extension, extension), subtype=subtype)
    storage.write_bytes(uri, data.getvalue())
