"""From candidates to rows of the manifest, or to the reasons why they are left out: headers, text, and a listen.

One call is one task. It decodes each stretch once; what it measures and decides goes into the row, what it hears
into a fingerprint, and the samples are forgotten.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import soxr

from asr import audio, levels
from asr.audio import AudioError, AudioInfo
from manifests.schema import Dropped, Utterance
from manifests.text import normalise
from pipelines.candidates import Candidate, drop
from pipelines.fingerprint import SAMPLE_RATE, Fingerprint, fingerprint

PEAK_DBFS = 60.0  # float samples may lie above full scale, but not by a factor of 1,000: integers taken for floats do
SLACK_S = 0.1  # a span may end this much after its file: times in lists are rounded, lengths of MP3 files estimated
WHOLE_BYTES = 512 * 2**20  # a file whose samples need less is decoded once for all of its utterances


@dataclass(frozen=True, slots=True)
class Rules:
    """What is done with the audio. `loudness_lufs` and `trim_db` None: it is left as it is."""

    min_duration_s: float = 0.1  # less holds no word, and hardly a frame after the encoder's subsampling
    max_duration_s: float = 60.0
    listen: bool = True  # False: headers are believed; no levels, channels or fingerprints
    loudness_lufs: float | None = None
    trim_db: float | None = None


@dataclass(slots=True)
class Examined:
    """What became of some candidates; the fingerprints are by utterance id."""

    utterances: list[Utterance] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)


def examine(candidates: Sequence[Candidate], rules: Rules) -> Examined:
    """What becomes of each candidate. Those of one file are to follow each other: it is then looked at once."""
    done = Examined()
    for uri, group in itertools.groupby(candidates, key=lambda c: c.audio):
        of_file = list(group)
        try:
            info = audio.probe(uri)
        except AudioError as err:
            done.dropped += [_undecodable(c, err) for c in of_file]
            continue
        sound = _Sound(uri, info, of_file)
        for candidate in of_file:
            _judge(candidate, sound, rules, done)
    return done


class _Sound:
    """The samples of a file, stretch by stretch; decoded at once where several are wanted and memory allows it."""

    def __init__(self, uri: str, info: AudioInfo, candidates: Sequence[Candidate]) -> None:
        self.uri, self.info = uri, info
        size_bytes = 4 * info.duration_s * info.sample_rate * info.channels
        self._together = len(candidates) > 1 and size_bytes < WHOLE_BYTES and not audio.cuts_fast(uri)
        self._whole: np.ndarray | None = None

    def stretch(self, offset_s: float, duration_s: float | None) -> np.ndarray:
        """Float32 [samples, channels] at the file's own rate. Raises AudioError."""
        if not self._together:
            return audio.read_channels(self.uri, offset_s, duration_s)
        if self._whole is None:
            self._whole = audio.read_channels(self.uri)
        rate = self.info.sample_rate
        end = None if duration_s is None else round((offset_s + duration_s) * rate)
        cut = self._whole[round(offset_s * rate) : end]
        if not len(cut):
            raise AudioError(f"{self.uri}: has no samples from {offset_s:g} s on")
        return cut


def _judge(candidate: Candidate, sound: _Sound, rules: Rules, done: Examined) -> None:
    info = sound.info
    left_s = info.duration_s - candidate.offset_s
    duration_s = left_s if candidate.duration_s is None else min(candidate.duration_s, left_s)
    fault = _wrong_span(candidate, info, left_s) or _wrong_length(duration_s, rules)
    text = ""
    if not fault:
        try:
            text = normalise(candidate.text_raw, candidate.language)
            fault = None if text else ("empty text", "no word in it")
        except ValueError as err:
            fault = ("unknown characters", str(err).removeprefix("unknown characters: "))
    if fault:
        done.dropped.append(drop(candidate, *fault, duration_s))
        return
    if not rules.listen:
        done.utterances.append(_utterance(candidate, info, candidate.offset_s, duration_s, text))
        return
    try:
        heard = sound.stretch(candidate.offset_s, None if candidate.duration_s is None else duration_s)
    except AudioError as err:
        done.dropped.append(_undecodable(candidate, err))
        return
    _hear(candidate, info, heard, text, rules, done)


def _wrong_span(candidate: Candidate, info: AudioInfo, left_s: float) -> tuple[str, str] | None:
    asked_s = left_s if candidate.duration_s is None else candidate.duration_s
    if left_s > 0 and asked_s <= left_s + SLACK_S:
        return None
    detail = f"starts at {candidate.offset_s:g} s"
    if candidate.duration_s is not None:
        detail += f", ends at {candidate.offset_s + candidate.duration_s:g} s"
    return "beyond the end", f"{detail}; the file ends at {info.duration_s:.2f} s"


def _wrong_length(duration_s: float, rules: Rules) -> tuple[str, str] | None:
    if duration_s < rules.min_duration_s:
        return "too short", f"{duration_s:.3f} s is below {rules.min_duration_s:g} s"
    if duration_s > rules.max_duration_s:
        return "too long", f"{duration_s:.2f} s is above {rules.max_duration_s:g} s"
    return None


def _undecodable(candidate: Candidate, err: AudioError) -> Dropped:
    detail = str(err).removeprefix(f"{candidate.audio}: ")
    return drop(candidate, "undecodable", detail, candidate.duration_s or 0.0)


def _hear(candidate: Candidate, info: AudioInfo, heard_nc: np.ndarray, text: str, rules: Rules, done: Examined) -> None:
    """Add the row with what its samples tell."""
    rate = info.sample_rate
    channel, note = levels.choose_channel(heard_nc)
    mono = audio.one_channel(heard_nc, channel)
    notes = [note] if note else []
    offset_s, duration_s = candidate.offset_s, len(mono) / rate
    if rules.trim_db is not None:
        start_s, end_s = levels.trim(mono, rate, rules.trim_db)
        if end_s - start_s < duration_s:
            notes.append(f"trimmed {start_s:.2f} s before and {duration_s - end_s:.2f} s after")
            mono = mono[round(start_s * rate) : round(end_s * rate)]
            offset_s, duration_s = offset_s + start_s, end_s - start_s
    if fault := _wrong_length(duration_s, rules):
        done.dropped.append(drop(candidate, *fault, duration_s))
        return
    found = levels.measure(mono, rate)
    if found.peak_dbfs > PEAK_DBFS:
        detail = f"a peak of {found.peak_dbfs:.0f} dB over full scale; its samples are not those of sound"
        done.dropped.append(drop(candidate, "undecodable", detail, duration_s))
        return
    if found.dc_offset:
        notes.append(f"offset of {found.dc_offset:+.4f} taken out")
    gain_db = 0.0 if rules.loudness_lufs is None else levels.gain_db(found, rules.loudness_lufs)
    utterance = _utterance(
        candidate,
        info,
        offset_s,
        duration_s,
        text,
        channel=channel,
        dc_offset=found.dc_offset,
        gain_db=gain_db,
        loudness_lufs=found.loudness_lufs,
        peak_dbfs=found.peak_dbfs,
        clipped_share=found.clipped_share,
        notes="; ".join(notes),
    )
    done.utterances.append(utterance)
    at_rate = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    done.fingerprints[candidate.id] = fingerprint(at_rate)


def _utterance(
    candidate: Candidate, info: AudioInfo, offset_s: float, duration_s: float, text: str, **heard: object
) -> Utterance:
    return Utterance(
        id=candidate.id,
        corpus=candidate.corpus,
        split=candidate.split,
        language=candidate.language,
        speaker=candidate.speaker,
        audio=candidate.audio,
        offset_s=offset_s,
        duration_s=duration_s,
        sample_rate=info.sample_rate,
        channels=info.channels,
        text_raw=candidate.text_raw,
        text=text,
        licence=candidate.licence,
        source=candidate.source,
        extra=candidate.extra,
        **heard,  # type: ignore[arg-type]
    )
