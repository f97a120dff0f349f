"""Greedy transducer decoding, batched over streams, state in and state out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.tokenizer import BLANK
from asr.transducer import PredictorState, Transducer

MAX_SYMBOLS = 8  # tokens in one encoder frame; only a model that has not learnt to stop meets this limit


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the encoder frame, counted from the start of the stream, at which it became certain."""

    id: int
    frame: int


@dataclass
class DecoderState:
    predictor: PredictorState
    frames: int  # encoder frames decoded so far


def init_state(model: Transducer, batch: int) -> DecoderState:
    return DecoderState(model.start(batch), 0)


@torch.inference_mode()
def greedy_step(
    model: Transducer, enc_bte: Tensor, lens_b: Tensor, state: DecoderState
) -> tuple[list[list[Token]], DecoderState]:
    """The new tokens of each stream for the next encoder frames [b, t, e]. What was emitted is never taken back."""
    enc_btj = model.enc_joint(enc_bte)
    predictor = state.predictor
    tokens: list[list[Token]] = [[] for _ in range(len(enc_bte))]
    for t in range(enc_bte.shape[1]):
        open_b = t < lens_b
        for _ in range(MAX_SYMBOLS):
            best_b = model.logits(enc_btj[:, t], predictor).argmax(1)
            open_b = open_b & (best_b != BLANK)
            if not bool(open_b.any()):
                break
            predictor = model.advance(best_b, predictor, open_b)
            for stream in open_b.nonzero()[:, 0].tolist():
                tokens[stream].append(Token(int(best_b[stream]), state.frames + t))
    return tokens, DecoderState(predictor, state.frames + enc_bte.shape[1])


@torch.inference_mode()
def greedy(model: Transducer, feats_btf: Tensor, lens_b: Tensor) -> list[list[Token]]:
    """The tokens of whole utterances from raw (not normalised) features: one long chunk of the streaming call."""
    inside_bt1 = (torch.arange(feats_btf.shape[1], device=feats_btf.device) < lens_b[:, None])[..., None]
    enc_bte, enc_lens_b = model.encode(model.normalise(feats_btf) * inside_bt1, lens_b)
    return greedy_step(model, enc_bte, enc_lens_b, init_state(model, len(feats_btf)))[0]
