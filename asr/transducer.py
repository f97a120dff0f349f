"""The transducer: encoder, predictor and a joiner that projects both before it adds them.

Shape letters: b batch, t frames, f mels, u tokens, e encoder output, p predictor output, j joint size, v vocab.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.ctc import ctc_loss
from asr.loss import transducer_loss
from asr.losses.joint import Precision as JointPrecision
from asr.losses.pruned_loss import pruned_transducer_loss, warmup_scales
from asr.model_config import LossConfig, ModelConfig
from asr.recogniser import DEFAULT_LOSS, Losses, Precision, Recogniser, autocast
from asr.tokenizer import BLANK


@dataclass
class PredictorState:
    """The predictor's state and its output for the last token, projected to the joint size.

    Of an LSTM the state is h and c [layers, b, hidden]. Of a stateless predictor h is the embeddings of the tokens that
    it sees before the next one [context - 1, b, embedding], and c is empty.
    """

    h: Tensor
    c: Tensor
    joint_bj: Tensor


class Predictor(nn.Module):
    """Embedding -> LSTM -> projection over the tokens so far; a sequence starts with the config's start token."""

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


def joint_precision(config: LossConfig, precision: Precision) -> JointPrecision:
    """In what the loss multiplies, in a training in `precision`."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if precision == "bf16" else "fp32"  # float16 ends too early for logits and their gradients


class SimpleJoiner(nn.Module):
    """The projections to the vocabulary that say where losses/pruned_loss.py computes the joint."""

    def __init__(self, joint: int, vocab: int) -> None:
        super().__init__()
        self.enc = nn.Linear(joint, vocab, bias=False)
        self.pred = nn.Linear(joint, vocab, bias=False)


class Transducer(Recogniser):
    def __init__(self, config: ModelConfig, mels: int, vocab: int) -> None:
        super().__init__(config, mels, vocab)
        if config.start_token >= vocab:
            raise ValueError(f"model.start_token is {config.start_token}, but the vocabulary has {vocab} pieces")
        self.predictor = (StatelessPredictor if config.predictor == "stateless" else Predictor)(config, vocab)
        self.enc_joint = nn.Linear(self.encoder.output_size, config.joint)
        self.pred_joint = nn.Linear(config.predictor_projection, config.joint, bias=False)
        self.output = nn.Linear(config.joint, vocab)
        # the rest is used in training only
        self.ctc = nn.Linear(self.encoder.output_size, vocab) if config.ctc else None
        self.simple = SimpleJoiner(config.joint, vocab) if config.prune else None

    def forward(
        self, feats_btf: Tensor, lens_b: Tensor, targets_bu: Tensor, target_lens_b: Tensor,
        config: LossConfig = DEFAULT_LOSS, precision: Precision = "fp32", step: int = 0,
    ) -> Losses:  # fmt: skip
        """Losses of a batch. Features are normalised; targets are padded with any token; `step` counts from 0."""
        with autocast(feats_btf.device, precision):
            enc_bte, enc_lens_b = self.encode(feats_btf, lens_b)
            pred_bup, _ = self.predictor(functional.pad(targets_bu, (1, 0), value=self.config.start_token), None)
        enc_bte, pred_bup = enc_bte.float(), pred_bup.float()
        joined = self.enc_joint(enc_bte), self.pred_joint(pred_bup), self.output.weight, self.output.bias
        targets = targets_bu, enc_lens_b, target_lens_b
        options: dict[str, Any] = {
            "blank": BLANK, "eps": config.eps, "precision": joint_precision(config, precision),
            "fastemit": config.fastemit, "delay_penalty": config.delay_penalty,
        }  # fmt: skip
        if self.simple is None:
            total = main = transducer_loss(*joined, *targets, **options)
        else:
            both = pruned_transducer_loss(
                *joined, self.simple.enc.weight, self.simple.pred.weight, *targets, s_range=self.config.prune, **options
            )
            scales = warmup_scales(step, config.prune_warmup_steps)
            total, main = scales[0] * both.simple + scales[1] * both.pruned, both.pruned
        if self.ctc is None:
            return Losses(total, main, torch.zeros_like(main))
        ctc = ctc_loss(self.ctc(enc_bte), *targets)
        return Losses(total + config.ctc_weight * ctc, main, ctc)

    def start(self, batch: int) -> PredictorState:
        """The predictor's state before the first token."""
        begin = torch.full((batch, 1), self.config.start_token, device=self.output.weight.device)
        out_bup, (h, c) = self.predictor(begin, None)
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
