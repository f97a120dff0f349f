"""From an utterance as a corpus lists it to a row of the manifest, or to the reason why it is left out."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from asr.audio import AudioError, AudioInfo, probe
from manifests import storage
from manifests.schema import Dropped, Utterance
from manifests.text import normalise

MIN_DURATION_S = 0.1  # less holds no word, and hardly a frame after the encoder's subsampling
SLACK_S = 0.1  # a span may end this much after its file: times in lists are rounded, lengths of MP3 files estimated


@dataclass(frozen=True, slots=True)
class Candidate:
    """An utterance as listed, its audio not yet looked at. `duration_s` None: up to the end of the file."""

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


def examine(candidates: Sequence[Candidate], max_duration_s: float) -> list[Utterance | Dropped]:
    """What becomes of each candidate, in their order. A file that follows itself is looked at only once."""
    results: list[Utterance | Dropped] = []
    found: AudioInfo | AudioError | None = None
    audio = ""
    for candidate in candidates:
        if found is None or candidate.audio != audio:
            audio, found = candidate.audio, _probe(candidate.audio)
        if isinstance(found, AudioError):
            detail = str(found).removeprefix(f"{audio}: ")
            results.append(drop(candidate, "undecodable", detail, candidate.duration_s or 0.0))
        else:
            results.append(_judge(candidate, found, max_duration_s))
    return results


def _probe(uri: str) -> AudioInfo | AudioError:
    try:
        return probe(uri)
    except AudioError as err:
        return err


def _judge(candidate: Candidate, info: AudioInfo, max_duration_s: float) -> Utterance | Dropped:
    left_s = info.duration_s - candidate.offset_s
    asked_s = left_s if candidate.duration_s is None else candidate.duration_s
    if left_s <= 0 or asked_s > left_s + SLACK_S:
        detail = f"starts at {candidate.offset_s:g} s"
        if candidate.duration_s is not None:
            detail += f", ends at {candidate.offset_s + candidate.duration_s:g} s"
        return drop(candidate, "beyond the end", f"{detail}; the file ends at {info.duration_s:.2f} s", asked_s)
    duration_s = min(asked_s, left_s)
    if duration_s < MIN_DURATION_S:
        return drop(candidate, "too short", f"{duration_s:.3f} s is below {MIN_DURATION_S:g} s", duration_s)
    if duration_s > max_duration_s:
        return drop(candidate, "too long", f"{duration_s:.2f} s is above {max_duration_s:g} s", duration_s)
    try:
        text = normalise(candidate.text_raw, candidate.language)
    except ValueError as err:
        return drop(candidate, "unknown characters", str(err).removeprefix("unknown characters: "), duration_s)
    if not text:
        return drop(candidate, "empty text", "no word in it", duration_s)
    return _utterance(candidate, info, duration_s, text)


def _utterance(candidate: Candidate, info: AudioInfo, duration_s: float, text: str) -> Utterance:
    return Utterance(
        id=candidate.id,
        corpus=candidate.corpus,
        split=candidate.split,
        language=candidate.language,
        speaker=candidate.speaker,
        audio=candidate.audio,
        offset_s=candidate.offset_s,
        duration_s=duration_s,
        sample_rate=info.sample_rate,
        channels=info.channels,
        text_raw=candidate.text_raw,
        text=text,
        licence=candidate.licence,
        source=candidate.source,
    )


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


def write_toy(uri: str, duration_s: float, sample_rate: int = 16000) -> None:
    """A hum with noise for toy corpora, in the format of the name's extension (as soundfile knows it)."""
    times_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    wave = 0.2 * np.sin(800 * times_s) + 0.01 * np.random.default_rng(0).standard_normal(len(times_s))
    data = io.BytesIO()
    soundfile.write(data, wave, sample_rate, format=uri.rpartition(".")[2].upper())
    storage.write_bytes(uri, data.getvalue())
