"""Recognition of streams, state in and state out: samples to log-mel to encoder to search to words.

A whole file is one long chunk of the same calls, so offline and streamed recognition are one path: the words do not
depend on how the samples come. Several streams go through the model together (`accept`, `ready`, `step_batch`).

Legend of shape suffixes: t feature frames, f mels, b streams, n encoder frames, j joint size.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from asr import frontend, search
from asr.endpoint import EndpointRules
from asr.engine import Engine, Floats, State, closing_frames
from asr.searching.hotwords import Hotwords
from asr.searching.hypotheses import SearchOptions, SearchState
from asr.tokenizer import Tokenizer
from asr.words import Clock, Word, split, word
from shards.spec import FrontendSpec

BLOCK_S = 0.3  # about how often a stream looks for the end of a segment; a fixed grid, whatever chunks samples come in
LONGEST_FRAMES = 6000  # feature frames encoded at once, where nobody looks for endpoints: bounds the memory


@dataclass(frozen=True, slots=True)
class Update:
    """What some samples changed."""

    final: tuple[Word, ...] = ()  # became final now and never change again
    partial: tuple[Word, ...] = ()  # may still change; in the place of the partial words of the update before
    endpoint: str = ""  # why the last segment to end here ended: "pause" or "length"


@dataclass(frozen=True)
class Listener:
    """All that streams share."""

    engine: Engine
    tokenizer: Tokenizer
    spec: FrontendSpec
    search: SearchOptions = field(default_factory=SearchOptions)
    endpoints: EndpointRules | None = None  # without them a stream is one segment

    @property
    def encoder_frame_s(self) -> float:
        return self.engine.traits.reduction * self.spec.frame_s

    @property
    def unit_frames(self) -> int:
        """The fewest feature frames that can be encoded."""
        traits = self.engine.traits
        return traits.step_frames or traits.reduction * traits.chunk

    @property
    def block_frames(self) -> int:
        unit_s = self.unit_frames * self.spec.frame_s
        return self.unit_frames * max(1, math.ceil(BLOCK_S / unit_s))

    @property
    def preroll_frames(self) -> int:
        return 0 if self.endpoints is None else round(self.endpoints.preroll_s / self.spec.frame_s)


@dataclass(frozen=True)
class StreamState:
    """What a stream needs to go on: a value, and nothing in it grows with time."""

    samples: int  # accepted so far
    sample_rate: int
    hotwords: Hotwords | None
    frontend: frontend.LogMelState
    feats_tf: Floats  # frames that have not been encoded yet
    heard_tf: Floats  # the last frames that have been: what a new start hears again
    origin_frames: int  # feature frames of the stream before the last start
    encoded_frames: int  # feature frames encoded since
    encoder: State
    search: SearchState
    begun: int  # encoder frame at which the segment began; above 0 where nothing started anew
    silent_from: int  # encoder frame behind the last token
    segment: int
    words: int  # final ones in this segment

    @property
    def audio_s(self) -> float:
        """Seconds of audio accepted so far."""
        return self.samples / self.sample_rate


def start(listener: Listener, hotwords: Sequence[str] = ()) -> StreamState:
    """The state before the first sample. Raises ValueError for hotwords that cannot be."""
    boost = listener.search.hotword_boost
    words = Hotwords(hotwords, listener.tokenizer, boost) if hotwords else None
    nothing = np.empty((0, listener.spec.mels), np.float32)
    return StreamState(
        samples=0, sample_rate=listener.spec.sample_rate, hotwords=words,
        frontend=frontend.init_state(listener.spec), feats_tf=nothing, heard_tf=nothing,
        origin_frames=0, encoded_frames=0, encoder=listener.engine.encoder_start(1),
        search=search.start(listener.engine, listener.search, words), begun=0, silent_from=0, segment=0, words=0,
    )  # fmt: skip


def step(listener: Listener, samples: Floats, state: StreamState) -> tuple[Update, StreamState]:
    """All that can be recognised with the next samples (float32 in [-1, 1], any number of them)."""
    state = accept(listener, samples, state)
    final: list[Word] = []
    endpoint, partial = "", None
    while ready(listener, state):
        ((update, state),) = step_batch(listener, [state])
        final += update.final
        endpoint, partial = update.endpoint or endpoint, update.partial
    if partial is None:
        return Update((), _partial(listener, state)), state
    # a copy: a view would keep all features of these samples alive
    return Update(tuple(final), partial, endpoint), replace(state, feats_tf=state.feats_tf.copy())


def accept(listener: Listener, samples: Floats, state: StreamState) -> StreamState:
    """Take samples in, as features; cheap. What they say comes with `step_batch`, while the stream is `ready`."""
    new_tf, after = frontend.logmel_step(samples, state.frontend, listener.spec)
    feats_tf = np.concatenate([state.feats_tf, new_tf]) if len(new_tf) else state.feats_tf
    state = replace(state, samples=state.samples + len(samples), frontend=after, feats_tf=feats_tf)
    return _without_lead(listener, state)


def ready(listener: Listener, state: StreamState) -> bool:
    """Whether a piece can be recognised. A stream that has only been silent, digitally, never is."""
    if len(state.feats_tf) < listener.unit_frames:
        return False
    return bool(state.encoded_frames) or _any_live(listener, state.feats_tf)


def step_batch(listener: Listener, states: Sequence[StreamState]) -> list[tuple[Update, StreamState]]:
    """A piece of each stream, all as long as the shortest may be; every one of them is ready."""
    frames = min(_piece_frames(listener, state) for state in states)
    engine = listener.engine
    feats_btf = np.stack([state.feats_tf[:frames] for state in states])
    encoder = states[0].encoder if len(states) == 1 else engine.stack([state.encoder for state in states])
    enc_bnj, encoder = engine.encode(feats_btf, encoder)
    searched = search.step(engine, listener.search, enc_bnj, [state.search for state in states])
    after = []
    for state, encoder_state, found in zip(states, engine.unstack(encoder), searched, strict=True):
        heard_tf = np.concatenate([state.heard_tf, state.feats_tf[:frames]])
        moved = replace(
            state,
            feats_tf=state.feats_tf[frames:],
            heard_tf=heard_tf[len(heard_tf) - min(len(heard_tf), listener.preroll_frames) :].copy(),
            encoded_frames=state.encoded_frames + frames,
            encoder=encoder_state,
            search=found,
        )
        after.append(_update(listener, moved))
    return after


def finish(listener: Listener, state: StreamState) -> Update:
    """The words that the end of the stream makes final.

    The stream is closed with exactly the frames that closed the training utterances (Recogniser.closing_frames), so
    nothing said is lost and nothing is made up.
    """
    state = replace(
        state, feats_tf=np.concatenate([state.feats_tf, frontend.logmel_finish(state.frontend, listener.spec)])
    )
    state = _without_lead(listener, state)
    if not state.encoded_frames and not _any_live(listener, state.feats_tf):
        return Update()  # there was no frame, or nothing but digital silence, so there is no utterance to close
    engine = listener.engine
    closing = closing_frames(engine.traits, len(state.feats_tf))
    feats_tf = np.concatenate([state.feats_tf, np.tile(engine.mean_f, (closing, 1))])
    if len(feats_tf):
        enc_bnj, _ = engine.encode(feats_tf[None], state.encoder)
        (found,) = search.step(engine, listener.search, enc_bnj, [state.search])
        state = replace(state, search=found)
    words, _ = _settled(listener, state, everything=True)
    return Update(words)


def _piece_frames(listener: Listener, state: StreamState) -> int:
    """Feature frames to encode next. Never across the grid on which endpoints are looked for."""
    unit = listener.unit_frames
    whole = len(state.feats_tf) // unit * unit
    assert whole, "the stream is not ready"
    if listener.endpoints is None:
        return min(whole, max(unit, LONGEST_FRAMES // unit * unit))
    block = listener.block_frames
    return min(whole, block - state.encoded_frames % block)


def _update(listener: Listener, state: StreamState) -> tuple[Update, StreamState]:
    """What has been searched becomes words, and perhaps the end of a segment."""
    tokens = state.search.hypotheses[0].tokens
    if tokens:
        state = replace(state, silent_from=tokens[-1].frame + 1)
    reason = _endpoint(listener, state)
    # a segment that got too long within its first word, as in a language without spaces, ends in it
    everything = reason == "pause" or (reason == "length" and not state.words)
    final, state = _settled(listener, state, everything)
    state = replace(state, words=state.words + len(final))
    if reason in ("pause", "length"):
        state = replace(state, segment=state.segment + 1, words=0, begun=state.search.frames)
    if reason in ("pause", "silence"):
        state = _anew(listener, state)
    return Update(final, _partial(listener, state), "" if reason == "silence" else reason), state


def _endpoint(listener: Listener, state: StreamState) -> str:
    """Why the segment ends here: "pause", "length", "silence" (nothing was said), or not at all: ""."""
    rules = listener.endpoints
    if rules is None or state.encoded_frames % listener.block_frames:
        return ""
    frame_s = listener.encoder_frame_s
    silence_s = (state.search.frames - max(state.silent_from, state.begun)) * frame_s
    if state.silent_from > state.begun:
        if silence_s >= rules.pause_s:
            return "pause"
        return "length" if (state.search.frames - state.begun) * frame_s >= rules.longest_s else ""
    return "silence" if silence_s >= rules.silence_s else ""


def _settled(listener: Listener, state: StreamState, everything: bool) -> tuple[tuple[Word, ...], StreamState]:
    """The words that are final now, taken out of the search. All hypotheses agree on them, or `everything` ends."""
    if everything:
        (best, *_) = search.close(state.search).hypotheses
        alone = replace(state, search=replace(state.search, hypotheses=(best,)))
        return _partial(listener, alone), replace(state, search=search.settle(alone.search, len(best.tokens)))
    groups = split(state.search.hypotheses[0].tokens, listener.tokenizer)
    shared, count, words = search.common(state.search), 0, []
    for group in groups[:-1]:
        if count + len(group) >= shared:  # the token that ends the word is not certain yet
            break
        words += word(group, listener.tokenizer, _clock(listener, state))
        count += len(group)
    return tuple(words), replace(state, search=search.settle(state.search, count))


def _partial(listener: Listener, state: StreamState) -> tuple[Word, ...]:
    groups = split(state.search.hypotheses[0].tokens, listener.tokenizer)
    return tuple(w for group in groups for w in word(group, listener.tokenizer, _clock(listener, state)))


def _clock(listener: Listener, state: StreamState) -> Clock:
    return Clock(state.origin_frames * listener.spec.frame_s, listener.encoder_frame_s, state.segment)


def _anew(listener: Listener, state: StreamState) -> StreamState:
    """As at the start of a stream, with the last frames before it to be heard again."""
    state = replace(
        state,
        feats_tf=np.concatenate([state.heard_tf, state.feats_tf]),
        heard_tf=state.heard_tf[:0],
        origin_frames=state.origin_frames + state.encoded_frames - len(state.heard_tf),
        encoded_frames=0,
        encoder=listener.engine.encoder_start(1),
        search=search.start(listener.engine, listener.search, state.hotwords),
        begun=0,
        silent_from=0,
    )
    return _without_lead(listener, state)


def _without_lead(listener: Listener, state: StreamState) -> StreamState:
    """Without digital silence before the first sound, but for the pre-roll.

    The model never hears it: an hour of it costs nothing and leaves no trace in what comes after.
    """
    if listener.endpoints is None or state.encoded_frames:
        return state
    live = np.flatnonzero(state.feats_tf.mean(1) > dead_level(listener.spec))
    first = int(live[0]) if len(live) else len(state.feats_tf)
    drop = max(0, first - listener.preroll_frames)
    return replace(state, feats_tf=state.feats_tf[drop:].copy(), origin_frames=state.origin_frames + drop)


def _any_live(listener: Listener, feats_tf: Floats) -> bool:
    if listener.endpoints is None:
        return bool(len(feats_tf))
    return bool((feats_tf.mean(1) > dead_level(listener.spec)).any())


@functools.cache
def dead_level(spec: FrontendSpec) -> float:
    """The mean log-mel below which a frame is digital silence: that of noise in the last bit of 16, and 3 dB."""
    bits = np.random.default_rng(0).integers(-1, 2, spec.sample_rate)
    feats_tf = frontend.logmel((bits / 32768).astype(np.float32), spec)
    return float(feats_tf.mean()) + math.log(2)
