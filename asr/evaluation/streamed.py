"""What evaluate-asr --streaming measures: recognition chunk by chunk, as live, and beside it that of whole files."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from asr import bundle, checkpoint, stream
from asr.evaluation import emission, scoring
from asr.evaluation.emission import Delays
from asr.evaluation.scoring import Difference, Report, Scored
from asr.evaluation.spoken import Speech, Spoken
from asr.evaluation.trace import Floats, Heard, Trace, listen, peak_bytes, texts
from asr.stream import Listener
from manifests import storage

T = TypeVar("T")
Say = Callable[[str], None]

FRAME_S = 0.02  # of an utterance whose level is measured
BELOW_LOUDEST = 1e-4  # the power of quiet speech pauses, in that of the loudest frame: -40 dB
SAY_S = 30.0  # between two lines that say how far the work is


@dataclass(slots=True)
class Costs:
    """Sums over the utterances as they were streamed."""

    audio_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_bytes: int = 0  # of this process so far: model, runtime and audio of one utterance at a time
    words: int = 0  # final ones
    partial_words: int = 0  # different words that partial results showed at a place
    changed_words: int = 0  # of those, not what became final there
    revisions: int = 0
    grown: int = 0  # of these, words that only got longer

    def add(self, heard: Heard) -> None:
        trace = heard.trace
        self.audio_s, self.cpu_s = self.audio_s + heard.audio_s, self.cpu_s + heard.cpu_s
        self.wall_s += heard.wall_s
        self.words += len(trace.final)
        self.partial_words += len(trace.partial)
        self.changed_words += trace.changed()
        self.revisions += trace.revisions
        self.grown += trace.grown


@dataclass(slots=True)
class Timing:
    """Delays against an alignment, or why there are none."""

    aligner: str  # "": there is none
    reason: str = ""
    delays: Delays | None = None
    aligned: int = 0  # utterances
    not_aligned: Counter[str] = field(default_factory=Counter)  # reasons


@dataclass(frozen=True, slots=True)
class Streamed:
    """All that was measured."""

    report: Report
    offline: Report
    difference: Difference
    costs: Costs
    timing: Timing
    left_out: list[tuple[str, str]]
    chunk_ms: int


@dataclass(frozen=True, slots=True)
class _One:
    """An utterance that was streamed; `behind` is what was seen when it was followed by quiet in place of its end."""

    spoken: Spoken
    audio_s: float
    words: list[str]
    behind: Trace


def choose_aligner(bundle_uri: str, aligner: str | None) -> Timing:
    """What will align. Looks at what the bundle says of itself only. Raises ValueError for an aligner that cannot."""
    folder = bundle.locate(aligner or bundle_uri)
    if not aligner and storage.exists(storage.join(folder, bundle.EXPORT)):
        return Timing("", "an exported bundle has no CTC head; name a bundle that has one with --aligner")
    model = bundle.read_facts(folder)["model"]
    if model["kind"] == "ctc" or model["ctc"]:
        return Timing(aligner or bundle_uri)
    if aligner:
        raise ValueError(f"--aligner {aligner}: its model has no CTC head (model.ctc is false); take another")
    return Timing("", "the model has no CTC head; name a bundle that has one with --aligner")


def measure(
    listener: Listener, speech: Speech, chunk_ms: int, timing: Timing, hotwords: Sequence[str], say: Say
) -> Streamed:
    """Streams all utterances, then recognises each as a whole and aligns it. Raises ValueError when none can be read.

    The offline side is the same search over whole files, without endpoints.
    """
    rate = listener.spec.sample_rate
    chunk_samples = max(1, round(chunk_ms * rate / 1000))
    left_out = list(speech.left_out)
    costs, streamed = Costs(), []
    for spoken in _with_progress(speech.utterances, "streamed", say):
        try:
            samples_t = spoken.samples(rate)
        except (OSError, ValueError) as err:  # AudioError among them
            left_out.append((spoken.id, str(err)))
            continue
        heard = listen(listener, samples_t, chunk_samples, hotwords)
        costs.add(heard)
        behind = quiet_behind(listener, heard, samples_t, chunk_samples)
        streamed.append(_One(spoken, heard.audio_s, heard.trace.final, behind))
    if not streamed:
        raise ValueError(f"{speech.name}: nothing could be read; the first: {left_out[0][1]}")
    costs.peak_bytes = peak_bytes()
    offline = _scored(streamed, _whole(listener, streamed, timing, hotwords, say))
    online = _scored(streamed, [" ".join(one.words) for one in streamed])
    difference = scoring.difference(offline, online)
    return Streamed(scoring.score(online), scoring.score(offline), difference, costs, timing, left_out, chunk_ms)


def _scored(streamed: Sequence[_One], heard: Sequence[str]) -> list[Scored]:
    return [
        Scored(u.id, u.corpus, u.split, u.speaker, one.audio_s, u.text, text)
        for one, u, text in zip(streamed, (one.spoken for one in streamed), heard, strict=True)
    ]


def _whole(
    listener: Listener, streamed: Sequence[_One], timing: Timing, hotwords: Sequence[str], say: Say
) -> list[str]:
    """The texts of whole files; on the way each is aligned."""
    at_once = replace(listener, endpoints=None)
    aligner = checkpoint.load(bundle.locate(timing.aligner)) if timing.aligner else None
    delays = timing.delays = emission.Delays() if aligner else None
    rate, offline = listener.spec.sample_rate, []
    for one in _with_progress(streamed, "recognised as whole files", say):
        samples_t = one.spoken.samples(rate)
        update, state = stream.step(at_once, samples_t, stream.start(at_once, hotwords))
        offline.append(" ".join(texts([*update.final, *stream.finish(at_once, state).final])))
        if aligner is None or delays is None:
            continue
        if aligner.spec.sample_rate != rate:
            samples_t = one.spoken.samples(aligner.spec.sample_rate)
        try:
            spoken = emission.word_times(aligner, samples_t, one.spoken.text)
        except emission.CannotAlign as err:
            timing.not_aligned[str(err)] += 1
        else:
            timing.aligned += 1
            delays.add(spoken, one.words, one.behind)
    return offline


def quiet_behind(listener: Listener, heard: Heard, samples_t: Floats, chunk_samples: int) -> Trace:
    """What is seen when the speaker falls silent in place of the file's end, up to the next endpoint.

    Files end soon after their last word. Their end would make it final at once, and no endpoint would come.
    """
    rate = listener.spec.sample_rate
    quiet_s = 1.0 if listener.endpoints is None else listener.endpoints.pause_s + 1.0
    quiet_t = quiet(samples_t, round(FRAME_S * rate), round(quiet_s * rate))
    trace, state = heard.before_end
    for at in range(0, len(quiet_t), chunk_samples):
        piece_t = quiet_t[at : at + chunk_samples]
        update, state = stream.step(listener, piece_t, state)
        trace.see(heard.audio_s + (at + len(piece_t)) / rate, update)
        if update.ends:
            break
    return trace


def quiet(samples_t: Floats, frame_samples: int, count: int) -> Floats:
    """`count` samples of noise as loud as the quietest frame of these, and 40 dB below the loudest at least.

    A quiet stretch of the recording itself would sound more like its room. But of a tightly cut one it is a piece of
    speech, and on 13 of 100 spoken digits it was recognised as more of them, without an end.
    """
    frames = max(1, len(samples_t) // frame_samples)
    power = [float(np.mean(np.square(frame_t, dtype=np.float64))) for frame_t in np.array_split(samples_t, frames)]
    level = math.sqrt(min(min(power), max(power) * BELOW_LOUDEST))
    return np.random.default_rng(0).normal(0, level, count).astype(np.float32)


def _with_progress(items: Sequence[T], what: str, say: Say) -> Iterator[T]:
    begun = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said > SAY_S:
            left_s = (now - begun) / done * (len(items) - done)
            say(f"{done:,} of {len(items):,} utterances {what}; about {max(1, round(left_s / 60))} min to go")
            said = now
        yield item
