"""Many recordings through the model together, for speed offline: each has a stream, and their pieces make one batch.

A recording that ends makes place for the next one, so the batch stays full whatever their lengths.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from asr import audio, stream
from asr.engine import Floats
from asr.stream import Listener, StreamState
from asr.transcribing import recordings
from asr.words import Word

STREAMS = 64
CHUNK_S = 5.0  # of a recording that is decoded and turned into features at a time


@dataclass(frozen=True, slots=True)
class Result:
    """The words of a recording, and why they end early ("": they do not)."""

    number: int  # among those asked for
    words: tuple[Word, ...]
    error: str = ""


@dataclass
class _Lane:
    number: int
    uri: str
    chunks: Iterator[Floats]
    state: StreamState
    words: list[Word]
    error: str = ""
    over: bool = False  # no more samples


def recognise(
    listener: Listener,
    files: Sequence[str],
    hotwords: Sequence[str] = (),
    streams: int = STREAMS,
    opened: Callable[[str, int, int], Iterator[Floats]] = audio.stream,
) -> Iterator[Result]:
    """Words of every file, in no order; a segment each, whatever the listener's endpoints."""
    listener = replace(listener, endpoints=None)
    rate = listener.spec.sample_rate
    begun = stream.start(listener, hotwords)
    waiting = iter(enumerate(files))
    lanes: list[_Lane] = []
    while True:
        while len(lanes) < streams and (job := next(waiting, None)) is not None:
            lanes.append(_Lane(*job, opened(job[1], rate, round(CHUNK_S * rate)), begun, []))
        if not lanes:
            return
        for lane in lanes:
            _fill(listener, lane)
        together = _most_work([lane for lane in lanes if stream.ready(listener, lane.state)])
        if together:
            stepped = stream.step_batch(listener, [lane.state for lane in together])
            for lane, (update, state) in zip(together, stepped, strict=True):
                lane.state = state
                lane.words += update.final
        for lane in lanes:
            if lane.over and not stream.ready(listener, lane.state):
                lane.words += stream.finish(listener, lane.state).final
                yield Result(lane.number, tuple(lane.words), lane.error)
        lanes = [lane for lane in lanes if not lane.over or stream.ready(listener, lane.state)]


def _most_work(ready: list[_Lane]) -> list[_Lane]:
    """The lanes with which one call does the most. It takes of all as much as the shortest has: of a few frames that
    are left of one recording, not all the others should take part."""
    longest_first = sorted(ready, key=lambda lane: -len(lane.state.feats_tf))
    work = [count * len(lane.state.feats_tf) for count, lane in enumerate(longest_first, 1)]
    return longest_first[: work.index(max(work)) + 1] if work else []


def _fill(listener: Listener, lane: _Lane) -> None:
    """Take samples in until there is enough for a large step."""
    while not lane.over and len(lane.state.feats_tf) * listener.spec.frame_s < CHUNK_S / 2:
        try:
            samples = next(lane.chunks, None)
        except (ValueError, OSError) as err:  # an AudioError, or a URI that is none
            lane.error, samples = recordings.failure(lane.uri, err), None
        if samples is None:
            lane.over = True
        else:
            lane.state = stream.accept(listener, samples, lane.state)
