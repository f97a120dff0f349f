"""The transducer loss (Graves 2012, "Sequence transduction with recurrent neural networks"), joint included.

It takes encoder and predictor outputs that are already projected to the joint size, so that the big tensor of
logits [batch, frames, tokens + 1, vocab] never exists: the joint is computed for about a million logits at a time,
kept only as the log-probabilities of blank and of the next token, and computed again in the backward pass, there only
at the lattice points that a path is likely to cross.

Shape letters: b batch, t encoder frames, u tokens (+ 1), j joint size, v vocab, n lattice points.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from asr.losses.joint import Joint, Precision
from asr.losses.kernels import BITS
from asr.losses.lattice import Points

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True, slots=True)
class Objective:
    """How the loss of some lattice points is computed; see `transducer_loss`."""

    blank: int = 0
    eps: float = 1e-4
    precision: Precision = "fp32"
    fastemit: float = 0.0
    delay_penalty: float = 0.0


def transducer_loss(
    enc_btj: Tensor,
    pred_buj: Tensor,
    weight_vj: Tensor,
    bias_v: Tensor,
    targets_bu: Tensor,
    enc_lens_b: Tensor,
    target_lens_b: Tensor,
    *,
    blank: int = 0,
    eps: float = 1e-4,
    precision: Precision = "fp32",
    reduction: Reduction = "mean",
    fastemit: float = 0.0,
    delay_penalty: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of the targets where logits = tanh(enc + pred) @ weight.T + bias.

    No path is left out of the value. The gradient leaves out lattice points whose posterior is at most `eps`; 0 keeps
    them all. `precision` is that of matrix products; softmaxes are in float32, the lattice is in float64. "bf16" is for
    processors that do bfloat16 natively. "int8" computes logits from bytes, asr/losses/eight_bits.py, and gradients
    in bfloat16: for CPUs with VNNI that do both; elsewhere, also on a GPU, it is "bf16". With random weights the value
    is within 1.3e-4 of itself in bf16 and 3.3e-4 in int8, gradients within 0.6 and 1.5 % of their largest value; with
    trained models both are within 0.07 nats an utterance and 3 % (tests/bench/rnnt_loss.md).

    `pred_buj` has one row more than the longest target. "mean" is over utterances; "none" gives one value each.

    `fastemit` is lambda of Yu et al. 2021, "FastEmit: Low-latency streaming ASR with sequence-level emission
    regularization": the gradient through tokens, not through blanks, counts 1 + lambda times; the value
    is unchanged. `delay_penalty` is lambda of Kang et al. 2022, "Delay-penalized transducer for low-latency streaming
    ASR": lambda ((T - 1) / 2 - t) is added to the log-probability of a token at frame t of T, and the value
    is that of these scores.

    Raises ValueError for an utterance without encoder frames or with a target longer than the batch allows.
    """
    lens = check_lens(enc_btj, pred_buj, targets_bu, enc_lens_b, target_lens_b)
    size = sum(frames * (tokens + 1) for frames, tokens in lens)
    shape = enc_btj.shape[1], pred_buj.shape[1]
    points = Points.all(*shape, size, targets_bu, enc_lens_b, target_lens_b, blank)
    objective = Objective(blank, eps, precision, fastemit, delay_penalty)
    return reduce(losses_at(points, enc_btj, pred_buj, weight_vj, bias_v, objective), reduction)


def check_lens(
    enc_btj: Tensor, pred_buj: Tensor, targets_bu: Tensor, enc_lens_b: Tensor, target_lens_b: Tensor
) -> list[tuple[int, int]]:
    """Frames and tokens of each utterance: the one time that the forward pass waits for the device."""
    enc_lens, target_lens = torch.stack((enc_lens_b, target_lens_b)).tolist()
    if min(enc_lens) < 1 or max(enc_lens) > enc_btj.shape[1]:
        raise ValueError(f"transducer_loss: encoder lengths must be 1 to {enc_btj.shape[1]}, got {enc_lens}")
    if min(target_lens) < 0 or max(target_lens) > min(targets_bu.shape[1], pred_buj.shape[1] - 1):
        raise ValueError("transducer_loss: a target is longer than the targets or the predictor outputs")
    return list(zip(enc_lens, target_lens, strict=True))


def losses_at(
    points: Points, enc_btj: Tensor, pred_buj: Tensor, weight_vj: Tensor, bias_v: Tensor, objective: Objective
) -> Tensor:
    """Losses [b] of the paths that stay on the points."""
    with torch.autocast(enc_btj.device.type, enabled=False):
        losses_b: Tensor = _Transducer.apply(enc_btj, pred_buj, weight_vj, bias_v, points, objective)
    return losses_b


def reduce(losses_b: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses_b
    return losses_b.mean() if reduction == "mean" else losses_b.sum()


def delay_scores(frames_n: Tensor, enc_lens_n: Tensor, delay_penalty: float) -> Tensor:
    """What the delay penalty adds to the log-probability of a token at a frame, in float64."""
    return delay_penalty * ((enc_lens_n.double() - 1) / 2 - frames_n)


class _Transducer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, enc_btj: Tensor, pred_buj: Tensor, weight_vj: Tensor, bias_v: Tensor,
        points: Points, objective: Objective,
    ) -> Tensor:  # fmt: skip
        joint = Joint(enc_btj, pred_buj, weight_vj, bias_v, objective.precision, objective.blank)
        rows = points.enc_row_n, points.pred_row_n, points.token_n
        blank_n, token_n, norm_n = (enc_btj.new_empty(len(points.flat_n)) for _ in range(3))
        for part in joint.chunks(len(points.flat_n)):
            blank_n[part], token_n[part], norm_n[part] = joint.row_stats(*(x[part] for x in rows))
        blank_n, token_n = ((bits_n - norm_n) / BITS for bits_n in (blank_n, token_n))
        if objective.delay_penalty:
            frames_n = points.enc_row_n % points.shape[1]
            token_n += delay_scores(frames_n, points.enc_lens_b[points.b_n], objective.delay_penalty)
        loss_b, post_blank_n, post_token_n = points.posteriors(blank_n, token_n)
        posts = post_blank_n.to(enc_btj.dtype), post_token_n.to(enc_btj.dtype)
        ctx.save_for_backward(enc_btj, pred_buj, weight_vj, bias_v, norm_n, *posts)
        ctx.rest = points, objective
        return loss_b.to(enc_btj.dtype)

    @staticmethod
    def backward(ctx: Any, grad_b: Tensor) -> tuple[Tensor | None, ...]:
        enc_btj, pred_buj, weight_vj, bias_v, norm_n, post_blank_n, post_token_n = ctx.saved_tensors
        points, objective = ctx.rest
        joint = Joint(enc_btj, pred_buj, weight_vj, bias_v, objective.precision, objective.blank)
        d_enc, d_pred, d_weight, d_bias = (torch.zeros_like(x) for x in (joint.enc, joint.pred, weight_vj, bias_v))
        # Not `> eps`: a posterior that is no number is kept, so that the gradient is none either, and somebody notices.
        kept = (~(post_blank_n + post_token_n <= objective.eps)).nonzero()[:, 0]
        scale_n = grad_b[points.b_n[kept]]
        on_blank_n = post_blank_n[kept] * scale_n
        on_token_n = post_token_n[kept] * scale_n * (1 + objective.fastemit)
        enc_row_n, pred_row_n, token_n = points.enc_row_n[kept], points.pred_row_n[kept], points.token_n[kept]
        known = enc_row_n, pred_row_n, token_n, norm_n[kept], on_blank_n, on_token_n
        for part in joint.chunks(len(kept)):
            d_weight_part, d_bias_part, d_sum_nj = joint.gradients(*(x[part] for x in known))
            d_weight += d_weight_part
            d_bias += d_bias_part
            d_enc.index_add_(0, enc_row_n[part], d_sum_nj)
            d_pred.index_add_(0, pred_row_n[part], d_sum_nj)
        return d_enc.view_as(enc_btj), d_pred.view_as(pred_buj), d_weight, d_bias, None, None
