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

BLOCK_S = 0.3  # about how often a stream looks for the end of a segment
LONGEST_FRAMES = 6000  # feature frames encoded at once, where nobody looks for endpoints: bounds the memory


@dataclass(frozen=True, slots=True)
class Update:
    """What some samples changed."""

    final: tuple[Word, ...] = ()  # became final now and never change again
    partial: tuple[Word, ...] = ()  # may still change; in the place of the partial words of the update before
    ends: tuple[tuple[int, str], ...] = ()  # number of each segment that ended here, and why: "pause" or "length"

    @property
    def endpoint(self) -> str:
        """Why the segment of the last final word, of this update or an earlier one, has ended; "": it goes on."""
        if not self.ends or (self.final and self.final[-1].segment > self.ends[-1][0]):
            return ""
        return self.ends[-1][1]


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
    def grid(self) -> int:
        """Encoder frames from one look for the end of a segment to the next, counted from where the stream started.

        It depends on the model alone. With a grid of the runtime's steps, segments ended elsewhere in an export than in
        PyTorch, and after the new start both heard other audio: 29 of 50 words differed.
        """
        return max(1, math.ceil(BLOCK_S / self.encoder_frame_s))

    @property
    def piece_frames(self) -> int:
        """Feature frames that are encoded at once where somebody looks for endpoints: a block of the grid, in whole
        units. What is encoded behind the end of a segment is encoded again."""
        return -(-self.grid * self.engine.traits.reduction // self.unit_frames) * self.unit_frames

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
    encoder: State
    search: SearchState  # its `frames` are all that were encoded since the last start
    begun: int  # encoder frame at which the segment began; above 0 where nothing started anew
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
        frontend=frontend.init_state(listener.spec), feats_tf=nothing, heard_tf=nothing, origin_frames=0,
        encoder=listener.engine.encoder_start(1), search=search.start(listener.engine, listener.search, words),
        begun=0, segment=0, words=0,
    )  # fmt: skip


def step(listener: Listener, samples: Floats, state: StreamState) -> tuple[Update, StreamState]:
    """All that can be recognised with the next samples (float32 in [-1, 1], any number of them)."""
    return _whole_pieces(listener, accept(listener, samples, state))


def _whole_pieces(listener: Listener, state: StreamState) -> tuple[Update, StreamState]:
    final: list[Word] = []
    ends: list[tuple[int, str]] = []
    partial = None
    while ready(listener, state):
        ((update, state),) = step_batch(listener, [state])
        final += update.final
        ends += update.ends
        partial = update.partial
    if partial is None:
        return Update((), _partial(listener, state)), state
    # a copy: a view would keep all features of these samples alive
    return Update(tuple(final), partial, tuple(ends)), replace(state, feats_tf=state.feats_tf.copy())


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
    return bool(state.search.frames) or _any_live(listener, state.feats_tf)


def step_batch(listener: Listener, states: Sequence[StreamState]) -> list[tuple[Update, StreamState]]:
    """A piece of each stream, all as long as the shortest may be; every one of them is ready."""
    frames = min(_piece_frames(listener, state) for state in states)
    engine = listener.engine
    feats_btf = np.stack([state.feats_tf[:frames] for state in states])
    encoder = states[0].encoder if len(states) == 1 else engine.stack([state.encoder for state in states])
    enc_bnj, encoder = engine.encode(feats_btf, encoder)
    moved = [
        replace(_heard(listener, state, frames), encoder=after)
        for state, after in zip(states, engine.unstack(encoder), strict=True)
    ]
    return _searched(listener, enc_bnj, moved)


def finish(listener: Listener, state: StreamState) -> Update:
    """The words that the end of the stream makes final.

    The stream is closed with exactly the frames that closed the training utterances (Recogniser.closing_frames), so
    nothing said is lost and nothing is made up.
    """
    state = replace(
        state, feats_tf=np.concatenate([state.feats_tf, frontend.logmel_finish(state.frontend, listener.spec)])
    )
    state = _without_lead(listener, state)
    final: tuple[Word, ...] = ()
    ends: tuple[tuple[int, str], ...] = ()
    open_ended = True
    while open_ended:  # in a runtime with long steps segments may end in what is left, too
        update, state = _whole_pieces(listener, state)
        final, ends = final + update.final, ends + update.ends
        if not state.search.frames and not _any_live(listener, state.feats_tf):
            break  # there was no frame, or nothing but digital silence, so there is no utterance to close
        update, state = _closed(listener, state)
        final, ends = final + update.final, ends + update.ends
        open_ended = not state.search.frames
    return Update(final, (), ends)


def _closed(listener: Listener, state: StreamState) -> tuple[Update, StreamState]:
    """What is left, with the frames that close it; or as much of it as lies before a new start."""
    engine, rest_tf = listener.engine, state.feats_tf
    closing = closing_frames(engine.traits, len(rest_tf))
    update = Update()
    if len(rest_tf) + closing:
        feats_tf = np.concatenate([rest_tf, np.tile(engine.mean_f, (closing, 1))])
        enc_bnj, _ = engine.encode(feats_tf[None], state.encoder)
        ((update, state),) = _searched(listener, enc_bnj, [_heard(listener, state, len(rest_tf))], closing)
    if not state.search.frames:
        return update, state
    words, state = _settled(listener, state, everything=True)
    return replace(update, final=update.final + words), state


def _piece_frames(listener: Listener, state: StreamState) -> int:
    """Feature frames to encode next."""
    unit = listener.unit_frames
    whole = len(state.feats_tf) // unit * unit
    assert whole, "the stream is not ready"
    most = max(unit, LONGEST_FRAMES // unit * unit) if listener.endpoints is None else listener.piece_frames
    return min(whole, most)


def _heard(listener: Listener, state: StreamState, frames: int) -> StreamState:
    """So many frames are encoded. Without endpoints nothing is heard again."""
    feats_tf = state.feats_tf[frames:]
    if listener.endpoints is None:
        return replace(state, feats_tf=feats_tf)
    before_tf = state.heard_tf[max(0, len(state.heard_tf) - listener.preroll_frames) :]
    return replace(state, feats_tf=feats_tf, heard_tf=np.concatenate([before_tf, state.feats_tf[:frames]]))


def _searched(
    listener: Listener, enc_bnj: Floats, states: Sequence[StreamState], closing: int = 0
) -> list[tuple[Update, StreamState]]:
    """What has been encoded becomes words, and perhaps the end of segments: of each stream that is looked for where it
    meets the grid, but not in the last `closing` feature frames. One that starts anew leaves the rest of its outputs.
    """
    states, going, done = list(states), list(range(len(states))), 0
    final: list[tuple[Word, ...]] = [()] * len(states)
    ends: list[tuple[tuple[int, str], ...]] = [()] * len(states)
    count = enc_bnj.shape[1]
    while going and done < count:
        frames = min(count - done, *(_to_grid(listener, states[b], count) for b in going))
        part_bnj = enc_bnj[:, done : done + frames]
        if len(going) < len(states):
            part_bnj = part_bnj[going]
        found = search.step(listener.engine, listener.search, part_bnj, [states[b].search for b in going])
        done += frames
        ahead = (count - done) * listener.engine.traits.reduction - closing
        for b, after in zip(going, found, strict=True):
            states[b] = replace(states[b], search=after)
            reason = _endpoint(listener, states[b]) if ahead >= 0 else ""
            if reason in ("pause", "length"):
                ends[b] += ((states[b].segment, reason),)
            if reason or done == count:
                words, states[b] = _update(listener, states[b], reason, ahead)
                final[b] += words
        going = [b for b in going if states[b].search.frames]
    return [
        (Update(words, _partial(listener, state), ended), state)
        for words, ended, state in zip(final, ends, states, strict=True)
    ]


def _to_grid(listener: Listener, state: StreamState, most: int) -> int:
    """Encoder frames to the next look for the end of a segment."""
    return most if listener.endpoints is None else listener.grid - state.search.frames % listener.grid


def _endpoint(listener: Listener, state: StreamState) -> str:
    """Why the segment ends here: "pause", "length", "silence" (nothing was said), or not at all: ""."""
    rules = listener.endpoints
    if rules is None or state.search.frames % listener.grid:
        return ""
    frame_s, tokens = listener.encoder_frame_s, state.search.hypotheses[0].tokens
    silent_from = tokens[-1].frame + 1 if tokens else 0  # words that became final left a token behind them
    silence_s = (state.search.frames - max(silent_from, state.begun)) * frame_s
    # the word in which the segment before got too long is this one's, though its last token may be of before
    if silent_from > state.begun or _partial(listener, state):
        if silence_s >= rules.pause_s:
            return "pause"
        return "length" if (state.search.frames - state.begun) * frame_s >= rules.longest_s else ""
    return "silence" if silence_s >= rules.silence_s else ""


def _update(listener: Listener, state: StreamState, reason: str, ahead: int) -> tuple[tuple[Word, ...], StreamState]:
    """The words that are final now, and what becomes of the stream where its segment ends for some reason."""
    final, state = _settled(listener, state, everything=False)
    # a segment that got too long within its first word, as in a language without spaces, ends in it
    if reason == "pause" or (reason == "length" and not state.words):
        rest, state = _settled(listener, state, everything=True)
        final += rest
    if reason in ("pause", "length"):
        state = replace(state, segment=state.segment + 1, words=0, begun=state.search.frames)
    if reason in ("pause", "silence"):
        state = _anew(listener, state, ahead)
    return final, state


def _settled(listener: Listener, state: StreamState, everything: bool) -> tuple[tuple[Word, ...], StreamState]:
    """The words that are final now, taken out of the search. All hypotheses agree on them, or `everything` ends."""
    if everything:
        (best, *_) = search.close(state.search).hypotheses
        state = replace(state, search=replace(state.search, hypotheses=(best,)))
    groups = split(state.search.hypotheses[0].tokens, listener.tokenizer)
    shared, count, words = search.common(state.search), 0, []
    for group in groups if everything else groups[:-1]:
        if count + len(group) >= shared and not everything:  # the token that ends the word is not certain yet
            break
        words += word(group, listener.tokenizer, _clock(listener, state))
        count += len(group)
    return tuple(words), replace(state, search=search.settle(state.search, count), words=state.words + len(words))


def _partial(listener: Listener, state: StreamState) -> tuple[Word, ...]:
    groups = split(state.search.hypotheses[0].tokens, listener.tokenizer)
    return tuple(w for group in groups for w in word(group, listener.tokenizer, _clock(listener, state)))


def _clock(listener: Listener, state: StreamState) -> Clock:
    return Clock(state.origin_frames * listener.spec.frame_s, listener.encoder_frame_s, state.segment)


def _anew(listener: Listener, state: StreamState, ahead: int) -> StreamState:
    """As at the start of a stream, with the last frames before it to be heard again, and the `ahead` frames behind it
    that were encoded already."""
    again, ended = listener.preroll_frames + ahead, state.search.frames * listener.engine.traits.reduction
    assert again <= len(state.heard_tf), (again, len(state.heard_tf))
    state = replace(
        state,
        feats_tf=np.concatenate([state.heard_tf[len(state.heard_tf) - again :], state.feats_tf]),
        heard_tf=state.heard_tf[:0].copy(),
        origin_frames=state.origin_frames + ended - listener.preroll_frames,
        encoder=listener.engine.encoder_start(1),
        search=search.start(listener.engine, listener.search, state.hotwords),
        begun=0,
    )
    return _without_lead(listener, state)


def _without_lead(listener: Listener, state: StreamState) -> StreamState:
    """Without digital silence before the first sound, but for the pre-roll.

    The model never hears it: an hour of it costs nothing and leaves no trace in what comes after.
    """
    if listener.endpoints is None or state.search.frames:
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
