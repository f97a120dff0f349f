"""The transducer: encoder, predictor and a joiner that projects both before it adds them.

Shape letters: b batch, t frames, f mels, u tokens, e encoder output, p predictor output, j joint size, v vocab.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import asr.encoders
from asr.loss import Precision, transducer_loss
from asr.model_config import LossConfig, ModelConfig
from asr.tokenizer import BLANK
from configs.load import build

T = TypeVar("T", int, Tensor, np.ndarray)
DEFAULT_LOSS = LossConfig()


@dataclass
class PredictorState:
    """The predictor's state and its output for the last token, projected to the joint size.

    Of an LSTM the state is h and c [layers, b, hidden]. Of a stateless predictor h is the embeddings of the tokens that
    it sees before the next one [context - 1, b, embedding], and c is empty.
    """

    h: Tensor
    c: Tensor
    joint_bj: Tensor


@dataclass
class Losses:
    """Means over the utterances of a batch, in nats."""

    total: Tensor  # what training minimises
    main: Tensor  # of the transducer, or of a CTC model
    ctc: Tensor  # of the CTC head beside a transducer; 0 without one


class Encoder(Protocol):
    """What asr/encoders/<name>.py offers as `Encoder(config, mels)`, beside its frozen dataclass `Config`.

    One whose frames see some of the future has also `chunk`, see `chunk_of`.
    """

    output_size: int
    reduction: int  # feature frames in one encoder frame

    def init_state(self, batch: int) -> Any: ...

    def step(self, feats_btf: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Normalised frames, a multiple of `reduction`, to [b, t / reduction, e] and the state behind them."""


def chunk_of(encoder: Encoder) -> int:
    """Encoder frames that come out together, as the first may have seen the last; 1 for an encoder that says nothing.

    Steps give what one step of all frames gives when all but the last have a multiple of chunk * reduction frames.
    """
    return int(getattr(encoder, "chunk", 1))


def encoder_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(asr.encoders.__path__)]


def make_encoder(name: str, options: dict[str, Any], mels: int) -> Encoder:
    if name not in encoder_names():
        raise ValueError(f"model.encoder is {name!r}; there are {', '.join(encoder_names())}")
    module = importlib.import_module(f"asr.encoders.{name}")
    return cast(Encoder, module.Encoder(build(module.Config, options, "model.encoder_options"), mels))


class Predictor(nn.Module):
    """Embedding -> LSTM -> projection over the tokens so far; a sequence starts with blank."""

    def __init__(self, config: ModelConfig, vocab: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, config.embedding)
        self.lstm = nn.LSTM(
            config.embedding, config.predictor_hidden, config.predictor_layers, batch_first=True,
            dropout=config.predictor_dropout if config.predictor_layers > 1 else 0.0,
        )  # fmt: skip
        self.dropout = nn.Dropout(config.predictor_dropout)
        self.projection = nn.Linear(config.predictor_hidden, config.predictor_projection)

    def forward(self, tokens_bu: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Tokens to [b, u, p] and the state after them; None is the state at the start."""
        out_buh, state = self.lstm(self.dropout(self.embedding(tokens_bu)), state)
        return self.projection(self.dropout(out_buh)), state


class StatelessPredictor(nn.Module):
    """Embedding -> causal convolution -> projection over the last tokens alone (Ghodsi et al. 2020)."""

    def __init__(self, config: ModelConfig, vocab: int) -> None:
        super().__init__()
        self.context = config.predictor_context
        self.embedding = nn.Embedding(vocab, config.embedding)
        self.convolution = nn.Linear(config.predictor_context * config.embedding, config.predictor_hidden)
        self.dropout = nn.Dropout(config.predictor_dropout)
        self.projection = nn.Linear(config.predictor_hidden, config.predictor_projection)

    def forward(self, tokens_bu: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Tokens to [b, u, p] and the state after them; None is the state at the start: zeros before the first."""
        new_bue = self.dropout(self.embedding(tokens_bu))
        if state is None:
            past_bue = new_bue.new_zeros(len(new_bue), self.context - 1, new_bue.shape[2])
            nothing = new_bue.new_zeros(0, len(new_bue), 0)
        else:
            past_bue, nothing = state[0].transpose(0, 1), state[1]
        all_bue = torch.cat([past_bue, new_bue], 1)
        out_buh = functional.silu(self.convolution(all_bue.unfold(1, self.context, 1).flatten(2)))
        past_bue = all_bue[:, all_bue.shape[1] - self.context + 1 :]
        return self.projection(self.dropout(out_buh)), (past_bue.transpose(0, 1), nothing)


class Transducer(nn.Module):
    mean_f: Tensor
    scale_f: Tensor

    def __init__(self, config: ModelConfig, mels: int, vocab: int) -> None:
        super().__init__()
        self.config = config
        self.vocab = vocab
        self.register_buffer("mean_f", torch.zeros(mels))
        self.register_buffer("scale_f", torch.ones(mels))
        self.encoder = make_encoder(config.encoder, config.encoder_options, mels)
        self.predictor = (StatelessPredictor if config.predictor == "stateless" else Predictor)(config, vocab)
        self.enc_joint = nn.Linear(self.encoder.output_size, config.joint)
        self.pred_joint = nn.Linear(config.predictor_projection, config.joint, bias=False)
        self.output = nn.Linear(config.joint, vocab)
        self.ctc = nn.Linear(self.encoder.output_size, vocab) if config.ctc else None

    def set_normalisation(self, mean_f: Tensor, variance_f: Tensor) -> None:
        """Global mean and variance of the training features, applied to every input."""
        self.mean_f.copy_(mean_f)
        self.scale_f.copy_(variance_f.clamp(min=1e-4).rsqrt())

    def normalise(self, feats_btf: Tensor) -> Tensor:
        return (feats_btf - self.mean_f) * self.scale_f

    def encoder_frames(self, frames: T) -> T:
        """Encoder frames of an utterance of so many feature frames: its last one is filled up, the tail follows."""
        return -(-frames // self.encoder.reduction) + self.config.tail_frames

    def closing_frames(self, frames: int) -> int:
        """Feature frames of zeros, which are mean frames, that end an utterance of so many. Training, offline and
        streamed recognition all end in this way."""
        return self.encoder_frames(frames) * self.encoder.reduction - frames

    def encode(self, feats_btf: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features, zero behind each end, to encoder outputs [b, t', e] and their lengths."""
        padded = functional.pad(feats_btf, (0, 0, 0, self.closing_frames(feats_btf.shape[1])))
        enc_bte, _ = self.encoder.step(padded, self.encoder.init_state(len(padded)))
        return enc_bte, self.encoder_frames(lens_b)

    def forward(
        self, feats_btf: Tensor, lens_b: Tensor, targets_bu: Tensor, target_lens_b: Tensor,
        config: LossConfig = DEFAULT_LOSS, precision: Precision = "fp32", step: int = 0,
    ) -> Losses:  # fmt: skip
        """Losses of a batch. Features are normalised; targets are padded with any token; `step` counts from 0."""
        with torch.autocast(feats_btf.device.type, torch.bfloat16, enabled=precision == "bf16"):
            enc_bte, enc_lens_b = self.encode(feats_btf, lens_b)
            pred_bup, _ = self.predictor(functional.pad(targets_bu, (1, 0), value=BLANK), None)
        enc_bte, pred_bup = enc_bte.float(), pred_bup.float()
        loss = transducer_loss(
            self.enc_joint(enc_bte), self.pred_joint(pred_bup), self.output.weight, self.output.bias,
            targets_bu, enc_lens_b, target_lens_b, blank=BLANK, eps=config.eps, precision=precision,
            fastemit=config.fastemit, delay_penalty=config.delay_penalty,
        )  # fmt: skip
        if self.ctc is None:
            return Losses(loss, loss, torch.zeros_like(loss))
        logp_tbv = self.ctc(enc_bte).log_softmax(-1).transpose(0, 1)
        ctc_b = functional.ctc_loss(
            logp_tbv, targets_bu, enc_lens_b, target_lens_b, blank=BLANK, reduction="none", zero_infinity=True
        )
        ctc = ctc_b.mean()
        return Losses(loss + config.ctc_weight * ctc, loss, ctc)

    def start(self, batch: int) -> PredictorState:
        """The predictor's state before the first token."""
        blank = torch.full((batch, 1), BLANK, device=self.output.weight.device)
        out_bup, (h, c) = self.predictor(blank, None)
        return PredictorState(h, c, self.pred_joint(out_bup[:, 0]))

    def advance(self, tokens_b: Tensor, state: PredictorState, where_b: Tensor) -> PredictorState:
        """The state after one more token in the streams where `where_b` is true."""
        out_bup, (h, c) = self.predictor(tokens_b[:, None], (state.h, state.c))
        keep = where_b[None, :, None]
        return PredictorState(
            torch.where(keep, h, state.h),
            torch.where(keep, c, state.c),
            torch.where(where_b[:, None], self.pred_joint(out_bup[:, 0]), state.joint_bj),
        )

    def logits(self, enc_bj: Tensor, state: PredictorState) -> Tensor:
        """[b, v] for one encoder frame each, already projected by enc_joint."""
        return self.output(torch.tanh(enc_bj + state.joint_bj))
