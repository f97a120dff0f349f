"""Recognition of one stream, state in and state out: samples to log-mel to encoder to decoder to words.

A whole file is one long chunk of the same call, so offline and streamed recognition are one path.
"""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from asr import decode, frontend
from asr.checkpoint import Bundle
from asr.decode import DecoderState, Token
from asr.recogniser import chunk_of


@dataclass(frozen=True, slots=True)
class Word:
    """A finished word and when its last token became certain, in seconds from the start of the stream."""

    text: str
    time_s: float


@dataclass
class StreamState:
    """What a stream needs to go on: nothing in it grows with time."""

    samples: frontend.LogMelState
    feats_tf: np.ndarray  # frames that do not fill a chunk of encoder frames yet
    encoder: Any
    decoder: DecoderState
    word: list[Token]  # of the word that may still grow


def init_state(bundle: Bundle) -> StreamState:
    return StreamState(
        samples=frontend.init_state(bundle.spec),
        feats_tf=np.empty((0, bundle.spec.mels), np.float32),
        encoder=bundle.model.encoder.init_state(1),
        decoder=decode.init_state(bundle.model, 1),
        word=[],
    )


@torch.inference_mode()
def step(bundle: Bundle, samples: np.ndarray, state: StreamState) -> tuple[list[Word], StreamState]:
    """The words that became certain with the next samples (float32 in [-1, 1], any number of them)."""
    new_tf, samples_state = frontend.logmel_step(samples, state.samples, bundle.spec)
    feats_tf = np.concatenate([state.feats_tf, new_tf])
    encoder = bundle.model.encoder
    whole = len(feats_tf) - len(feats_tf) % (encoder.reduction * chunk_of(encoder))
    normal_btf = bundle.model.normalise(torch.from_numpy(feats_tf[None, :whole]))
    words, encoder_state, decoder, open_word = _recognise(bundle, normal_btf, state)
    rest_tf = feats_tf[whole:].copy()  # a view would keep the whole chunk's features alive
    return words, StreamState(samples_state, rest_tf, encoder_state, decoder, open_word)


@torch.inference_mode()
def finish(bundle: Bundle, state: StreamState) -> list[Word]:
    """The words that the end of the stream makes certain.

    The stream is closed with exactly the frames that closed the training utterances (Recogniser.closing_frames), so
    nothing said is lost and nothing is made up.
    """
    normal_btf = bundle.model.normalise(torch.from_numpy(state.feats_tf[None]))
    if not state.decoder.frames and not len(state.feats_tf):
        return []  # there was no frame at all, so there is no utterance to close
    closing = bundle.model.closing_frames(len(state.feats_tf))
    words, _, _, open_word = _recognise(bundle, functional.pad(normal_btf, (0, 0, 0, closing)), state)
    return words + _finished(bundle, open_word)


def _recognise(
    bundle: Bundle, normal_btf: torch.Tensor, state: StreamState
) -> tuple[list[Word], Any, DecoderState, list[Token]]:
    if not normal_btf.shape[1]:
        return [], state.encoder, state.decoder, state.word
    with _without_onednn():
        enc_bte, encoder = bundle.model.encoder.step(normal_btf, state.encoder)
        lens_b = torch.tensor([enc_bte.shape[1]])
        (tokens,), decoder = decode.greedy_step(bundle.model, enc_bte, lens_b, state.decoder)
    words: list[Word] = []
    open_word = list(state.word)
    for token in tokens:
        if open_word and bundle.tokenizer.starts_word(token.id):
            words += _finished(bundle, open_word)
            open_word = []
        open_word.append(token)
    return words, encoder, decoder, open_word


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    """oneDNN packs an LSTM's weights anew in every call; at batch 1 that takes several times as long as the step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch itself warns of GPUs that nobody asked for
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _finished(bundle: Bundle, tokens: list[Token]) -> list[Word]:
    """The word of these tokens; none when they are a word mark alone, which a model may emit twice in a row."""
    text = bundle.tokenizer.decode([t.id for t in tokens]).strip()
    frame_s = bundle.model.encoder.reduction * bundle.spec.frame_s
    return [Word(text, (tokens[-1].frame + 1) * frame_s)] if text else []
