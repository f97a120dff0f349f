"""On real recordings: a stream's frames and words are those of the whole file, whatever chunks it comes in."""

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from streams import recognise

from asr import audio, decode, frontend, stream
from asr.checkpoint import Bundle
from asr.engines.torch_engine import listener_of
from asr.frontend import logmel
from asr.stream import Listener
from asr.words import Word
from shards.spec import FrontendSpec

CHUNKS_MS = (20, 80, 320, 1000)
SOUNDS = {".flac", ".wav", ".mp3", ".sph", ".opus", ".webm", ".m4a", ".ogg", ".aac", ".mp4", ".aiff"}
TOGETHER = 64  # recordings: one after the other take half an hour
MANY = {"speechocean762": 25, "digits": 40}  # of which only each so many-th file is taken
UNREADABLE = ("other/broken/", "other/sphere/", "other/formats/")  # where files may be that no reader takes


def files(speech_data: Path) -> Iterator[Path]:
    """Every recording, of the large corpora a sample."""
    for corpus in sorted(folder for folder in speech_data.iterdir() if folder.is_dir()):
        found = sorted(path for path in corpus.rglob("*") if path.suffix.lower() in SOUNDS)
        yield from found[:: MANY.get(corpus.name, 1)]


@pytest.fixture(scope="module")
def listening(bundle: Bundle, speech_data: Path) -> Bundle:
    """The random model with the normalisation of read speech, without which it hears little of real recordings."""
    path = min((speech_data / "LibriSpeech").rglob("*.flac"), key=lambda p: (p.stat().st_size, p))
    feats_tf = torch.from_numpy(logmel(audio.read(str(path), bundle.spec.sample_rate), bundle.spec))
    model = copy.deepcopy(bundle.model)
    model.set_normalisation(feats_tf.mean(0), feats_tf.var(0))
    return dataclasses.replace(bundle, model=model)


def chunks_of(samples: np.ndarray, chunk_ms: int, rate: int) -> list[np.ndarray]:
    return np.split(samples, range(chunk_ms * rate // 1000, len(samples), chunk_ms * rate // 1000))


def check_frames(samples: np.ndarray, spec: FrontendSpec) -> None:
    whole_tf = logmel(samples, spec)
    for chunk_ms in CHUNKS_MS:
        state, pieces = frontend.init_state(spec), []
        for chunk in chunks_of(samples, chunk_ms, spec.sample_rate):
            piece_tf, state = frontend.logmel_step(chunk, state, spec)
            pieces.append(piece_tf)
        pieces.append(frontend.logmel_finish(state, spec))
        assert np.array_equal(np.concatenate(pieces), whole_tf)


def together(listener: Listener, streams: list[list[np.ndarray]]) -> list[list[Word]]:
    """The words of streams that come in these chunks side by side, as many as are ready in each step."""
    states = [stream.start(listener) for _ in streams]
    words: list[list[Word]] = [[] for _ in streams]
    for chunks in itertools.zip_longest(*streams):
        for b, chunk in enumerate(chunks):
            if chunk is not None:
                states[b] = stream.accept(listener, chunk, states[b])
        while ready := [b for b, state in enumerate(states) if stream.ready(listener, state)]:
            stepped = stream.step_batch(listener, [states[b] for b in ready])
            for b, (update, state) in zip(ready, stepped, strict=True):
                states[b] = state
                words[b] += update.final
    return [[*said, *stream.finish(listener, state).final] for said, state in zip(words, states, strict=True)]


def timed(words: list[Word]) -> list[tuple[str, float, float]]:
    return [(w.text, w.start_s, w.end_s) for w in words]


def check(bundle: Bundle, recordings: list[np.ndarray]) -> int:
    """How many words there were."""
    feats = [torch.from_numpy(logmel(samples, bundle.spec)) for samples in recordings]
    lens_b = torch.tensor([len(feats_tf) for feats_tf in feats])
    offline = decode.greedy(bundle.model, torch.nn.utils.rnn.pad_sequence(feats, batch_first=True), lens_b)
    listener = listener_of(bundle)
    whole = together(listener, [[samples] for samples in recordings])
    for said, tokens in zip(whole, offline, strict=True):
        assert " ".join(w.text for w in said).split() == bundle.tokenizer.decode([token for token, _ in tokens]).split()
    for chunk_ms in CHUNKS_MS:
        chunks = [chunks_of(samples, chunk_ms, bundle.spec.sample_rate) for samples in recordings]
        for said, streamed in zip(whole, together(listener, chunks), strict=True):
            assert timed(streamed) == timed(said)
    return sum(map(len, whole))


def test_one_recording_of_each_corpus(speech_data: Path, listening: Bundle) -> None:
    names = ("LibriSpeech", "CommonVoice", "an4", "digits")
    shortest = [
        min((p for p in (speech_data / name).rglob("*") if p.suffix in SOUNDS), key=lambda p: (p.stat().st_size, p))
        for name in names
    ]
    recordings = [audio.read(str(path), 16000) for path in shortest]
    for samples in recordings:
        check_frames(samples, listening.spec)
        for chunk_ms in CHUNKS_MS:  # alone, as a file or a microphone is heard
            said = recognise(listening, chunks_of(samples, chunk_ms, 16000))
            assert timed(said) == timed(recognise(listening, [samples]))
    assert check(listening, recordings) > 30


@pytest.mark.slow
def test_every_recording(speech_data: Path, listening: Bundle) -> None:
    readable, refused = [], []
    for path in files(speech_data):
        try:
            samples = audio.read(str(path), listening.spec.sample_rate)
        except audio.AudioError:
            refused.append(path.relative_to(speech_data).as_posix())
            continue
        check_frames(samples, listening.spec)
        readable.append(samples)
    assert all(name.startswith(UNREADABLE) for name in refused), refused
    assert len(readable) > 700
    readable.sort(key=len)
    said = sum(check(listening, readable[at : at + TOGETHER]) for at in range(0, len(readable), TOGETHER))
    assert said > 10_000
