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
from torch.nn import functional

from asr.losses import kernels
from asr.losses.kernels import BITS
from asr.losses.lattice import Points

Precision = Literal["fp32", "bf16"]
Reduction = Literal["mean", "sum", "none"]
CHUNK_LOGITS = (
    1 << 19
)  # on CPU stays near the cache: 2^18 to 2^21 take as long (to 5 %), 2^20 half as much memory again
CHUNK_POINTS = 256  # at least: with 64, a vocabulary of 16,384 takes 1.6 times as long, moving weights about
CUDA_CHUNK_LOGITS = 1 << 24  # three float32 copies of 64 MB; smaller ones would mostly wait for kernels to start


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

    The value is exact. The gradient leaves out lattice points whose posterior is at most `eps`; 0 keeps them all.
    "bf16" multiplies matrices in bfloat16, with the softmax in float32: for processors that do this natively.
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
        enc, pred = enc_btj.flatten(0, 1), pred_buj.flatten(0, 1)
        weight = weight_vj.bfloat16() if objective.precision == "bf16" else weight_vj
        blank_n, token_n, norm_n = (enc.new_empty(len(points.flat_n)) for _ in range(3))
        for part in _chunks(len(points.flat_n), weight):
            hidden_nj = _hidden(enc, pred, points.enc_row_n[part], points.pred_row_n[part], weight)
            blank_n[part], token_n[part], norm_n[part] = _row_stats(
                hidden_nj, weight, bias_v, points.token_n[part], objective.blank
            )
        blank_n, token_n = ((bits_n - norm_n) / BITS for bits_n in (blank_n, token_n))
        if objective.delay_penalty:
            frames_n = points.enc_row_n % points.shape[1]
            token_n += delay_scores(frames_n, points.enc_lens_b[points.b_n], objective.delay_penalty)
        loss_b, post_blank_n, post_token_n = points.posteriors(blank_n, token_n)
        posts = post_blank_n.to(enc.dtype), post_token_n.to(enc.dtype)
        ctx.save_for_backward(enc_btj, pred_buj, weight_vj, bias_v, norm_n, *posts)
        ctx.rest = points, objective
        return loss_b.to(enc.dtype)

    @staticmethod
    def backward(ctx: Any, grad_b: Tensor) -> tuple[Tensor | None, ...]:
        enc_btj, pred_buj, weight_vj, bias_v, norm_n, post_blank_n, post_token_n = ctx.saved_tensors
        points, objective = ctx.rest
        enc, pred = enc_btj.flatten(0, 1), pred_buj.flatten(0, 1)
        weight = weight_vj.bfloat16() if objective.precision == "bf16" else weight_vj
        d_enc, d_pred, d_weight, d_bias = (torch.zeros_like(x) for x in (enc, pred, weight_vj, bias_v))
        # Not `> eps`: a posterior that is no number is kept, so that the gradient is none either, and somebody notices.
        kept = (~(post_blank_n + post_token_n <= objective.eps)).nonzero()[:, 0]
        scale_n = grad_b[points.b_n[kept]]
        on_blank_n = post_blank_n[kept] * scale_n
        on_token_n = post_token_n[kept] * scale_n * (1 + objective.fastemit)
        enc_row_n, pred_row_n, token_n = points.enc_row_n[kept], points.pred_row_n[kept], points.token_n[kept]
        norm_n = norm_n[kept]
        for part in _chunks(len(kept), weight):
            hidden_nj = _hidden(enc, pred, enc_row_n[part], pred_row_n[part], weight)
            on_blank, on_token = on_blank_n[part], on_token_n[part]
            known = norm_n[part], token_n[part], on_blank, on_token, objective.blank
            low, d_bias_part = _d_logits(hidden_nj, weight, bias_v, *known)
            d_bias += d_bias_part
            d_weight += low.T @ hidden_nj
            d_sum_nj = torch.ops.aten.tanh_backward((low @ weight).to(enc.dtype), hidden_nj.to(enc.dtype))
            d_enc.index_add_(0, enc_row_n[part], d_sum_nj)
            d_pred.index_add_(0, pred_row_n[part], d_sum_nj)
        return d_enc.view_as(enc_btj), d_pred.view_as(pred_buj), d_weight, d_bias, None, None


def _chunks(points: int, weight_vj: Tensor) -> list[slice]:
    logits = CUDA_CHUNK_LOGITS if weight_vj.is_cuda else CHUNK_LOGITS
    step = max(CHUNK_POINTS, logits // max(weight_vj.shape))
    return [slice(start, start + step) for start in range(0, points, step)]


def _hidden(enc: Tensor, pred: Tensor, enc_row: Tensor, pred_row: Tensor, weight: Tensor) -> Tensor:
    """[n, j] in the precision of the weights."""
    sum_nj = enc.index_select(0, enc_row).add_(pred.index_select(0, pred_row))
    if weight.dtype == torch.bfloat16 and not weight.is_cuda:
        # tanh x = 2 sigmoid(2x) - 1: on CPU float32's sigmoid takes half the time of tanh in bfloat16
        return sum_nj.mul_(2).sigmoid_().mul_(2).sub_(1).bfloat16()
    return sum_nj.to(weight.dtype).tanh_()


def _row_stats(
    hidden_nj: Tensor, weight: Tensor, bias_v: Tensor, next_n: Tensor, blank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """In bits, of each row of logits: blank, the next token, and the logarithm of the sum."""
    if _by_kernels(bias_v):
        return kernels.row_stats(functional.linear(hidden_nj, weight), bias_v, next_n, blank)
    bits_nv = _bits(hidden_nj, weight, bias_v)
    blank_n, token_n, top_n = bits_nv[:, blank].clone(), bits_nv.gather(1, next_n[:, None])[:, 0], bits_nv.amax(1)
    return blank_n, token_n, bits_nv.sub_(top_n[:, None]).exp2_().sum(1).log2_().add_(top_n)


def _d_logits(
    hidden_nj: Tensor, weight: Tensor, bias_v: Tensor, norm_n: Tensor, next_n: Tensor, on_blank_n: Tensor,
    on_token_n: Tensor, blank: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """d loss / d logits = (blank + token posterior) * softmax - posterior of the symbol itself; and its sum."""
    if _by_kernels(bias_v):
        logits_nv = functional.linear(hidden_nj, weight)
        low = kernels.to_gradients_(logits_nv, bias_v, norm_n, next_n, on_blank_n, on_token_n, blank)
        return low, low.sum(0, dtype=bias_v.dtype)
    d_nv = _bits(hidden_nj, weight, bias_v).sub_(norm_n[:, None]).exp2_().mul_((on_blank_n + on_token_n)[:, None])
    d_nv[:, blank] -= on_blank_n
    d_nv.scatter_add_(1, next_n[:, None], -on_token_n[:, None])
    return d_nv.to(weight.dtype), d_nv.sum(0)


def _by_kernels(bias_v: Tensor) -> bool:
    return bias_v.dtype == torch.float32 and kernels.available(bias_v.device)


def _bits(hidden_nj: Tensor, weight: Tensor, bias_v: Tensor) -> Tensor:
    """Logits in units of log 2, since powers of 2 take a third of the time of exp on CPU."""
    if weight.dtype == torch.bfloat16:
        return functional.linear(hidden_nj, weight).float().mul_(BITS).add_(bias_v * BITS)
    return torch.addmm(bias_v * BITS, hidden_nj, weight.T, alpha=BITS)
