"""Streams that run for hours: memory, time, and whether the words after it all are those of a fresh stream.

`python tests/bench/hours.py BUNDLE LONG SPEECH…`: LONG is a recording with a .tsv of its utterances (columns start and
end in seconds) beside it, SPEECH are files that come after each hour. See hours.md.
"""

import csv
import itertools
import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from asr import audio, stream
from asr.endpoint import EndpointRules
from asr.runtimes import open_listener
from asr.stream import Listener, StreamState
from asr.words import Word

RATE = 16000
CHUNK = 5120  # 320 ms
LEAD_S = 5.0  # of digital silence before the speech that is compared
PAUSES_S = (5, 30, 120, 300)


def silence(rng: np.random.Generator) -> np.ndarray:
    """A quiet room: -66 dBFS."""
    return rng.normal(0, 5e-4, RATE).astype(np.float32)


def zero(rng: np.random.Generator) -> np.ndarray:
    return np.zeros(RATE, np.float32)


def music(rng: np.random.Generator) -> np.ndarray:
    """A chord of four decaying tones a quarter of a second, over noise."""
    time_s = np.arange(RATE // 4) / RATE
    beats = []
    for _ in range(4):
        tones = rng.choice([220, 247, 262, 294, 330, 349, 392, 440], 4)
        beats.append(sum(np.sin(2 * np.pi * hz * h * time_s) / h for hz in tones for h in (1, 2, 3)))
    decay = np.exp(-np.arange(RATE) % (RATE // 4) / 2000)
    return (0.03 * np.concatenate(beats) * decay + rng.normal(0, 0.002, RATE)).astype(np.float32)


def hour(kind: object) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    return (kind(rng) for _ in range(3600))  # type: ignore[operator]


def chunks(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    rest = np.empty(0, np.float32)
    for part in parts:
        rest = np.concatenate([rest, part])
        for at in range(0, len(rest) - CHUNK + 1, CHUNK):
            yield rest[at : at + CHUNK]
        rest = rest[len(rest) // CHUNK * CHUNK :]
    yield rest


def listen(listener: Listener, parts: Iterable[np.ndarray], state: StreamState) -> tuple[list[Word], StreamState, list]:
    """Words, state, and the process's peak memory in kB after each five minutes."""
    words: list[Word] = []
    peaks: list[int] = []
    for chunk in chunks(parts):
        update, state = stream.step(listener, chunk, state)
        words += update.final
        if state.audio_s // 300 > len(peaks):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return words, state, peaks


def close(listener: Listener, state: StreamState, speech: np.ndarray) -> list[str]:
    """The words of speech that comes now, after some digital silence."""
    begun_s = state.audio_s + LEAD_S - 1
    words, state, _ = listen(listener, [np.zeros(round(LEAD_S * RATE), np.float32), speech], state)
    return [word.text for word in [*words, *stream.finish(listener, state).final] if word.start_s >= begun_s]


def after_an_hour(listener: Listener, speech: list[np.ndarray]) -> Iterator[dict[str, object]]:
    fresh = [close(listener, stream.start(listener), s) for s in speech]
    for kind in (zero, silence, music):
        began = time.process_time()
        words, state, peaks = listen(listener, hour(kind), stream.start(listener))
        took_s = time.process_time() - began
        late = [close(listener, state, s) for s in speech]
        yield {
            "hour of": kind.__name__, "words said in it": len(words), "cpu_s": round(took_s, 1),
            "peak MB after 5, 60 min": [round(peaks[i] / 1024, 1) for i in (0, -1)],
            "words after it": sum(map(len, late)), "files as in a fresh stream": f"{sum(map(list.__eq__, fresh, late))}"
            f" of {len(speech)}",
        }  # fmt: skip


def with_pauses(listener: Listener, long: str) -> dict[str, object]:
    """Each utterance with a pause before it: of 5 s, and of up to five minutes. Pauses are digital silence."""
    samples = audio.read(long, RATE)
    rows = list(csv.DictReader(Path(long).with_suffix(".tsv").open(), delimiter="\t"))
    spans = [(float(row["start"]), float(row["end"])) for row in rows]
    parts = [samples[round(a * RATE) : round(b * RATE) // 160 * 160] for a, b in spans]
    said = {}
    for name, pauses_s in (("short", itertools.repeat(5)), ("long", itertools.cycle(PAUSES_S))):
        pieces, starts, at_s = [], [], 0.0
        for part, pause_s in zip(parts, pauses_s, strict=False):
            # whole hops, so that the frames lie in the same way over the speech
            whole = np.concatenate([part, np.zeros(-len(part) % 160, np.float32)])
            pieces += [np.zeros(pause_s * RATE, np.float32), whole]
            starts.append(at_s + pause_s - 1)
            at_s += pause_s + len(whole) / RATE
        words, state, peaks = listen(listener, pieces, stream.start(listener))
        words += stream.finish(listener, state).final
        ends = [*starts[1:], at_s + 1]
        said[name] = [[w.text for w in words if a <= w.start_s < b] for a, b in zip(starts, ends, strict=True)]
        hours = state.audio_s / 3600
    same = sum(map(list.__eq__, said["short"], said["long"]))
    return {
        "hours": round(hours, 2), "utterances": len(parts), "words": sum(map(len, said["long"])),
        "utterances whose words are the same after 5 s and after up to 5 min": same,
        "peak MB after 5 min, at the end": [round(peaks[i] / 1024, 1) for i in (0, -1)],
    }  # fmt: skip


def main() -> None:
    bundle, long, *files = sys.argv[1:]
    listener = open_listener(bundle, endpoints=EndpointRules())
    print(json.dumps(with_pauses(listener, long)), flush=True)
    for row in after_an_hour(listener, [audio.read(file, RATE) for file in files]):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
