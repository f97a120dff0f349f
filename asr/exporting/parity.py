"""Whether an exported bundle says what the model in PyTorch says: features, states after many steps, and words.

Shape letters: t frames, f mels, n tokens.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asr import frontend, stream
from asr.engine import Engine, Floats, State
from asr.engines.exported import Precision
from asr.engines.graph_engine import Graph
from asr.evaluation.scoring import count_edits
from asr.stream import Listener
from asr.words import Word
from shards.spec import FrontendSpec

STEPS = 1000
# The largest difference in a state behind STEPS steps, as a part of its largest number. Seen of three trained models
# and of large random ones: 5e-6, 0.03 (bfloat16) and 0.08.
BOUNDS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.15, "int8": 0.3}
WORDS: dict[Precision, float] = {"fp32": 0.0, "fp16": 0.02, "int8": 0.05}  # share of words that may differ
FEATURES_BOUND = 0.01  # of a log-mel; seen: 2e-4


@dataclass(frozen=True)
class Parity:
    """Differences in states are parts of the largest number of a state."""

    steps: int
    features: float  # the largest difference of a log-mel
    encoder: dict[str, float]  # for each state, and the last output
    predictor: dict[str, float]
    files: int  # recordings that were recognised; 0: a synthetic signal
    words: int  # that PyTorch said
    words_differing: int  # edits from PyTorch's words to these

    @property
    def words_share(self) -> float:
        return self.words_differing / max(1, self.words)

    def check(self, precision: Precision, words_allowed: float) -> None:
        """Raises ValueError that names what differs too much."""
        bound, nothing = BOUNDS[precision], "nothing was written"
        if not self.features <= FEATURES_BOUND:
            raise ValueError(f"parity: features differ by {self.features:.2g}, {FEATURES_BOUND} may be; {nothing}")
        for graph, states in (("encoder", self.encoder), ("predictor", self.predictor)):
            for name, difference in states.items():
                if not difference <= bound:  # a NaN is not
                    raise ValueError(f"parity: {graph} {name} differs by {difference:.2g} of its largest number after "
                                     f"{self.steps} steps, {precision} may by {bound:g}; {nothing}")  # fmt: skip
        if self.words_share > words_allowed and (self.files or precision == "fp32"):
            raise ValueError(
                f"parity: {self.words_differing} of {self.words} words differ from PyTorch's, {self.words_share:.1%}, "
                f"and {words_allowed:.1%} may; {nothing}. A model that is unsure of such audio changes its mind "
                "easily: give --audio that it was trained for, or allow more with --max-word-difference"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    ours: Listener, theirs: Listener, graph: Graph, names: dict[str, list[str]], recordings: Sequence[Floats],
    steps: int = STEPS,
) -> Parity:  # fmt: skip
    """PyTorch's listener and the exported one; `graph` is the frontend's, `names` are of the encoder's and predictor's
    states. Without recordings a synthetic signal is heard."""
    spec, traits = ours.spec, theirs.engine.traits
    heard = list(recordings) or [synthetic(spec.sample_rate)]
    everything = np.concatenate(heard)
    feats_tf = frontend.logmel(everything, spec)
    words, differing = _words(ours, theirs, heard, round(traits.step_frames * spec.hop_samples))
    predictor = {} if traits.kind == "ctc" else predictor_states(ours.engine, theirs.engine, names["predictor"], steps)
    return Parity(
        steps=steps,
        features=features(graph, everything, spec, traits.step_frames),
        encoder=encoder_states(ours.engine, theirs.engine, feats_tf, names["encoder"], steps),
        predictor=predictor,
        files=len(recordings),
        words=words,
        words_differing=differing,
    )


def encoder_states(
    ours: Engine, theirs: Engine, feats_tf: Floats, names: Sequence[str], steps: int
) -> dict[str, float]:
    """Both encoders over the same features, again and again."""
    frames = theirs.traits.step_frames
    a, b = ours.encoder_start(1), theirs.encoder_start(1)
    for step in range(steps):
        feats_btf = feats_tf[None, np.arange(step * frames, (step + 1) * frames) % len(feats_tf)]
        enc_a, a = ours.encode(feats_btf, a)
        enc_b, b = theirs.encode(feats_btf, b)
    return {"output": _difference(enc_a, enc_b)} | _differences(a, b, names)


def predictor_states(ours: Engine, theirs: Engine, names: Sequence[str], steps: int) -> dict[str, float]:
    """Both predictors over the same random tokens."""
    tokens_n = np.random.default_rng(0).integers(1, ours.traits.vocab, steps)
    (pred_a, a), (pred_b, b) = ours.predictor_start(1), theirs.predictor_start(1)
    for token in tokens_n:
        pred_a, a = ours.predict(np.array([token]), a)
        pred_b, b = theirs.predict(np.array([token]), b)
    return {"output": _difference(pred_a, pred_b)} | _differences(a, b, names)


def _differences(ours: State, theirs: State, names: Sequence[str]) -> dict[str, float]:
    arrays = [np.asarray(array) for array in ours]
    kept = [array for array in arrays if array.size]  # what holds nothing is no input of a graph
    return {name: _difference(a, b) for name, a, b in zip(names, kept, theirs, strict=True)}


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    largest = max(float(np.abs(ours).max()), 1e-9)
    return float(np.abs(ours.astype(np.float64) - theirs).max() / largest)


def features(graph: Graph, samples: Floats, spec: FrontendSpec, step_frames: int) -> float:
    """The largest difference of a log-mel between the frontend's graph and asr.frontend over these samples."""
    expected_tf = frontend.logmel(samples, spec)
    if spec.definition == "librosa":
        samples = _emphasised(samples, spec)
    past, step = spec.window_samples - spec.hop_samples, step_frames * spec.hop_samples
    state, largest, frame = samples[None, :past], 0.0, 0
    for at in range(past, len(samples) - step + 1, step):
        feats_btf, state = graph({"samples": samples[None, at : at + step], "state_0": state})
        largest = max(largest, float(np.abs(feats_btf[0] - expected_tf[frame : frame + step_frames]).max()))
        frame += step_frames
    assert frame, "there is less audio than one step"
    return largest


def _emphasised(samples: Floats, spec: FrontendSpec) -> Floats:
    """As the frontend's graph takes them by librosa's definition: emphasised, half a window reflected before them."""
    before = np.concatenate((np.zeros(1, np.float32), samples[:-1]))
    emphasised = samples - np.float32(spec.preemphasis) * before
    past = spec.fft_samples // 2 - (spec.fft_samples - spec.window_samples) // 2
    return np.concatenate((emphasised[past:0:-1], emphasised))


def _words(ours: Listener, theirs: Listener, recordings: Sequence[Floats], chunk_samples: int) -> tuple[int, int]:
    """Words of PyTorch over the whole way that a stream takes, and the edits from them to the others."""
    said = differing = 0
    for samples in recordings:
        reference, hypothesis = (transcript(listener, samples, chunk_samples) for listener in (ours, theirs))
        said += len(reference.split())
        differing += count_edits(reference, hypothesis).errors
    return said, differing


def transcript(listener: Listener, samples: Floats, chunk_samples: int) -> str:
    state = stream.start(listener)
    found: list[Word] = []
    for at in range(0, len(samples), chunk_samples):
        update, state = stream.step(listener, samples[at : at + chunk_samples], state)
        found += update.final
    return " ".join(word.text for word in [*found, *stream.finish(listener, state).final])


def synthetic(sample_rate: int) -> Floats:
    """Ten seconds of a voice that rises and falls in syllables, with a pause, over a little noise."""
    time_s = np.arange(10 * sample_rate) / sample_rate
    phase = np.cumsum(2 * np.pi * (130 + 60 * np.sin(2 * np.pi * 0.6 * time_s)) / sample_rate)
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 20))
    loudness = np.abs(np.sin(2 * np.pi * 1.7 * time_s)) * ((time_s < 4) | (time_s > 6))
    noise = np.random.default_rng(1).normal(0, 0.003, len(time_s))
    return (0.1 * voice * loudness + noise).astype(np.float32)
