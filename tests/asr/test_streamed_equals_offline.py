"""On real recordings: a stream's frames and words are those of the whole file, whatever chunks it comes in."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from streams import recognise

from asr import audio, decode, frontend
from asr.checkpoint import Bundle
from asr.frontend import logmel

CHUNKS_MS = (20, 80, 320, 1000)
SOUNDS = {".flac", ".wav", ".mp3", ".sph", ".opus", ".webm", ".m4a", ".ogg", ".aac", ".mp4", ".aiff"}
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


def check(bundle: Bundle, samples: np.ndarray) -> int:
    """How many words there were."""
    rate = bundle.spec.sample_rate
    feats_tf = logmel(samples, bundle.spec)
    (tokens,) = decode.greedy(bundle.model, torch.from_numpy(feats_tf)[None], torch.tensor([len(feats_tf)]))
    whole = recognise(bundle, [samples])
    assert " ".join(w.text for w in whole).split() == bundle.tokenizer.decode([t.id for t in tokens]).split()
    for chunk_ms in CHUNKS_MS:
        chunks = np.split(samples, range(chunk_ms * rate // 1000, len(samples), chunk_ms * rate // 1000))
        words = recognise(bundle, chunks)
        assert [(w.text, w.start_s, w.end_s) for w in words] == [(w.text, w.start_s, w.end_s) for w in whole]
        state, pieces = frontend.init_state(bundle.spec), []
        for chunk in chunks:
            piece_tf, state = frontend.logmel_step(chunk, state, bundle.spec)
            pieces.append(piece_tf)
        pieces.append(frontend.logmel_finish(state, bundle.spec))
        assert np.array_equal(np.concatenate(pieces), feats_tf)
    return len(whole)


def test_one_recording_of_each_corpus(speech_data: Path, listening: Bundle) -> None:
    names = ("LibriSpeech", "CommonVoice", "an4", "digits")
    shortest = [
        min((p for p in (speech_data / name).rglob("*") if p.suffix in SOUNDS), key=lambda p: (p.stat().st_size, p))
        for name in names
    ]
    counts = [check(listening, audio.read(str(path), 16000)) for path in shortest]
    assert len(counts) == 4 and sum(counts) > 30


@pytest.mark.slow
def test_every_recording(speech_data: Path, listening: Bundle) -> None:
    checked, refused = 0, []
    for path in files(speech_data):
        try:
            samples = audio.read(str(path), listening.spec.sample_rate)
        except audio.AudioError:
            refused.append(path.relative_to(speech_data).as_posix())
            continue
        check(listening, samples)
        checked += 1
    assert all(name.startswith(UNREADABLE) for name in refused), refused
    assert checked > 700
