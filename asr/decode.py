"""Greedy decoding of batches in PyTorch, on the device, as training and evaluation need it; streams: asr/search.py.

A transducer says tokens in a frame until it says blank. A CTC model says one symbol in each frame; a token counts where
it differs from the symbol of the frame before (best path decoding, Graves et al. 2006, section 3.2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.ctc import Ctc
from asr.models import Model
from asr.searching.greedy import MAX_SYMBOLS
from asr.tokenizer import BLANK
from asr.transducer import PredictorState, Transducer

Said = tuple[int, int]  # a token, and the encoder frame, counted from the start of the stream, in which it was said


@dataclass
class TransducerState:
    predictor: PredictorState
    frames: int  # encoder frames decoded so far


@dataclass
class CtcState:
    last_b: Tensor  # the symbol of the last frame
    frames: int  # encoder frames decoded so far


DecoderState = TransducerState | CtcState


def init_state(model: Model, batch: int) -> DecoderState:
    if isinstance(model, Transducer):
        return TransducerState(model.start(batch), 0)
    return CtcState(torch.full((batch,), BLANK, device=model.output.weight.device), 0)


@torch.inference_mode()
def greedy_step(
    model: Model, enc_bte: Tensor, lens_b: Tensor, state: DecoderState
) -> tuple[list[list[Said]], DecoderState]:
    """The new tokens of each stream for the next encoder frames [b, t, e]. What was emitted is never taken back."""
    if isinstance(model, Transducer):
        assert isinstance(state, TransducerState)
        return _transducer_step(model, enc_bte, lens_b, state)
    assert isinstance(state, CtcState)
    return _ctc_step(model, enc_bte, lens_b, state)


def _transducer_step(
    model: Transducer, enc_bte: Tensor, lens_b: Tensor, state: TransducerState
) -> tuple[list[list[Said]], TransducerState]:
    enc_btj = model.enc_joint(enc_bte)
    predictor = state.predictor
    tokens: list[list[Said]] = [[] for _ in range(len(enc_bte))]
    for t in range(enc_bte.shape[1]):
        open_b = t < lens_b
        for _ in range(MAX_SYMBOLS):
            best_b = model.logits(enc_btj[:, t], predictor).argmax(1)
            open_b = open_b & (best_b != BLANK)
            if not bool(open_b.any()):
                break
            predictor = model.advance(best_b, predictor, open_b)
            for stream in open_b.nonzero()[:, 0].tolist():
                tokens[stream].append((int(best_b[stream]), state.frames + t))
    return tokens, TransducerState(predictor, state.frames + enc_bte.shape[1])


def _ctc_step(model: Ctc, enc_bte: Tensor, lens_b: Tensor, state: CtcState) -> tuple[list[list[Said]], CtcState]:
    frames = enc_bte.shape[1]
    inside_bt = torch.arange(frames, device=lens_b.device) < lens_b[:, None]
    said_bt = torch.cat([state.last_b[:, None], model.logits(enc_bte).argmax(2)], 1)
    new_bt = (said_bt[:, 1:] != said_bt[:, :-1]) & (said_bt[:, 1:] != BLANK) & inside_bt
    tokens: list[list[Said]] = [[] for _ in range(len(enc_bte))]
    ids = said_bt[:, 1:].tolist()
    for stream, t in new_bt.nonzero().tolist():
        tokens[stream].append((ids[stream][t], state.frames + t))
    last_b = said_bt.gather(1, lens_b[:, None].clamp(max=frames))[:, 0]  # a stream that has ended keeps its own
    return tokens, CtcState(last_b, state.frames + frames)


@torch.inference_mode()
def greedy(model: Model, feats_btf: Tensor, lens_b: Tensor) -> list[list[Said]]:
    """The tokens of whole utterances from raw (not normalised) features: one long chunk of the streaming call."""
    inside_bt1 = (torch.arange(feats_btf.shape[1], device=feats_btf.device) < lens_b[:, None])[..., None]
    enc_bte, enc_lens_b = model.encode(model.normalise(feats_btf) * inside_bt1, lens_b)
    return greedy_step(model, enc_bte, enc_lens_b, init_state(model, len(feats_btf)))[0]
