"""Some utterances of a report to look at and to listen to: chosen by their ids, spread over splits."""

import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import soundfile

from asr import audio
from asr.audio import AudioError
from asr.frontend import logmel
from manifests.schema import Utterance, utterances
from pipelines.reporting.charts import data_uri, heat_map
from pipelines.reporting.counts import codes, shuffled, turns
from shards.spec import FrontendSpec

SAMPLES = 12
HEARD_S = 20.0  # of each at most: a page with twelve players is to stay a few megabytes
_SPEC = FrontendSpec()
_RANGE = 14.0  # natural logarithms of energy between the darkest and the brightest colour: 61 dB


@dataclass(frozen=True, slots=True)
class Sample:
    """An utterance with the start of its sound as data: URIs; or with the `fault` for which there is none."""

    utterance: Utterance
    heard_s: float
    picture: str  # PNG, 10 ms a pixel, 80 mels from high to low; "" when no frame fits in
    sound: str  # MP3
    fault: str


def choose(table: pa.Table) -> list[Sample]:
    """By chance, but spread over splits, then languages, then corpora; the same for the same ids."""
    columns = ["split", "language", "corpus"]
    order = shuffled(table)
    candidates = order[turns(order, codes(table, columns)) < SAMPLES]
    labels = [list(row.items()) for row in table.select(columns).take(candidates).to_pylist()]
    taken: Counter[tuple[str, str]] = Counter()
    left = list(range(len(candidates)))
    chosen: list[int] = []
    while left and len(chosen) < SAMPLES:
        first = min(left, key=lambda i: [taken[label] for label in labels[i]])
        taken.update(labels[first])
        left.remove(first)
        chosen.append(int(candidates[first]))
    return [_sample(utterance) for utterance in utterances(table.take(np.sort(np.array(chosen, np.int64))))]


def _sample(utterance: Utterance) -> Sample:
    heard_s = min(utterance.duration_s, HEARD_S)
    try:
        samples = _read(utterance, heard_s)
    except (AudioError, OSError, EOFError) as err:  # the manifest is still true when its audio has moved
        return Sample(utterance, 0.0, "", "", str(err))
    feats_tf = logmel(samples, _SPEC)
    picture = ""
    if len(feats_tf):
        high = float(feats_tf.max())
        picture = heat_map(feats_tf.T[::-1], high - _RANGE, high)
    return Sample(utterance, heard_s, picture, _mp3(samples), "")


def _read(utterance: Utterance, heard_s: float) -> npt.NDArray[np.float32]:
    """Mono samples at 16 kHz, as features are made from."""
    u = utterance
    samples = audio.read(u.audio, _SPEC.sample_rate, u.offset_s, heard_s, channel=u.channel)
    return (samples - np.float32(u.dc_offset)) * np.float32(10 ** (u.gain_db / 20))


def _mp3(samples: npt.NDArray[np.float32]) -> str:
    """All browsers play MP3 from a data: URI; FLAC would be four times as long."""
    file = io.BytesIO()
    clipped = np.clip(samples, -1, 1)
    soundfile.write(file, clipped, _SPEC.sample_rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.3)
    return data_uri("audio/mpeg", file.getvalue())
