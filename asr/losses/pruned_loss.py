"""The pruned transducer loss (Kuang et al. 2022, "Pruned RNN-T for fast, memory-efficient ASR training").

A simple joiner, whose logits are a sum of an acoustic and a language part, gives the posteriors of all lattice points
for the price of a matrix product; where they are high, in a band of a few tokens for each frame, the real joiner is
computed. Both losses are trained. It is another objective than `asr.loss.transducer_loss`: paths outside of the band
do not count, and the band follows a weaker model, so that it needs the warm-up. For vocabularies of 4,000 and more.

Shape letters: b batch, t encoder frames, u tokens (+ 1), j joint size, v vocab.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asr.loss import Objective, Reduction, check_lens, delay_scores, losses_at, reduce
from asr.losses.joint import CHUNK_LOGITS, CHUNK_POINTS, Precision
from asr.losses.lattice import NEVER, Points, inside, posteriors


@dataclass(frozen=True, slots=True)
class PrunedLosses:
    """In nats; scalars, or [b] with reduction "none"."""

    simple: Tensor
    pruned: Tensor


def pruned_transducer_loss(
    enc_btj: Tensor,
    pred_buj: Tensor,
    weight_vj: Tensor,
    bias_v: Tensor,
    simple_enc_vj: Tensor,
    simple_pred_vj: Tensor,
    targets_bu: Tensor,
    enc_lens_b: Tensor,
    target_lens_b: Tensor,
    *,
    s_range: int = 5,
    blank: int = 0,
    eps: float = 1e-4,
    precision: Precision = "fp32",
    reduction: Reduction = "mean",
    fastemit: float = 0.0,
    delay_penalty: float = 0.0,
) -> PrunedLosses:
    """Losses of the simple joiner, enc @ simple_enc.T + pred @ simple_pred.T, and of the real one in the band.

    `s_range` is the band's height in lattice points; it grows for a batch in which an utterance has so many tokens to
    a frame that no path would fit. The rest is as for `asr.loss.transducer_loss`, also what it raises; FastEmit and the
    delay penalty apply to both losses. Train `warmup_scales()` times the two.
    """
    lens = check_lens(enc_btj, pred_buj, targets_bu, enc_lens_b, target_lens_b)
    objective = Objective(blank, eps, precision, fastemit, delay_penalty)
    with torch.autocast(enc_btj.device.type, enabled=False):
        simple_b, post_blank, post_token = _Simple.apply(
            enc_btj, pred_buj, simple_enc_vj, simple_pred_vj, targets_bu, lens, (enc_lens_b, target_lens_b), objective
        )
    inside_btu = inside(enc_btj.shape[1], pred_buj.shape[1], enc_lens_b, target_lens_b)
    height = max(s_range, *(1 + -(-tokens // frames) for frames, tokens in lens))
    first_bt = band(post_blank, post_token, enc_lens_b, target_lens_b, height)
    u = torch.arange(pred_buj.shape[1], device=first_bt.device)
    inside_btu &= (u >= first_bt[:, :, None]) & (u < first_bt[:, :, None] + height)
    points = Points(inside_btu, None, targets_bu, enc_lens_b, target_lens_b, blank)
    pruned_b = losses_at(points, enc_btj, pred_buj, weight_vj, bias_v, objective)
    return PrunedLosses(reduce(simple_b, reduction), reduce(pruned_b, reduction))


def warmup_scales(step: int, warmup_steps: int) -> tuple[float, float]:
    """Weights of the simple and the pruned loss: from (1, 0.1) to (0.5, 1), linearly, as the authors' recipes have it.

    At first the band is arbitrary, and only the simple loss teaches anything.
    """
    done = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return 1.0 - 0.5 * done, 0.1 + 0.9 * done


def band(
    post_blank_btu: Tensor, post_token_btu: Tensor, enc_lens_b: Tensor, target_lens_b: Tensor, height: int
) -> Tensor:
    """The lowest token position [b, t] of the band of so many positions in each frame.

    First the window of the highest posterior: paths that leave a frame inside it, less those that enter it from below
    in the same frame, having passed points outside. Then what a path needs: windows that start before the first token,
    never sink, overlap from frame to frame, and end behind the last token at the last frame.
    """
    num_t, num_u = post_blank_btu.shape[1:]
    highest_b = (target_lens_b + 1 - height).clamp(min=0)
    windows = max(1, num_u - height + 1)
    total = functional.pad(post_blank_btu.cumsum(2), (1, 0))
    lows = torch.arange(windows, device=total.device)
    mass = total[:, :, (lows + height).clamp(max=num_u)] - total[:, :, :windows]
    mass -= functional.pad(post_token_btu, (1, 0))[:, :, :windows]
    best = mass.argmax(2)
    t = torch.arange(num_t, device=total.device)
    climb = (height - 1) * t
    best = torch.where(t < enc_lens_b[:, None] - 1, best.minimum(highest_b[:, None]), highest_b[:, None])
    steady = best.flip(1).cummin(1).values.flip(1).minimum(climb)
    return (steady - climb).flip(1).cummax(1).values.flip(1) + climb


class _Simple(torch.autograd.Function):
    """The simple joiner's losses [b] and posteriors [b, t, u], which mean nothing outside of an utterance.

    A few frames of an utterance at a time, and again in the backward pass, so that [b, t, v] never exists. Checkpoints
    by torch would do that too, but load its compiler first: 880 modules.
    """

    @staticmethod
    def forward(
        ctx: Any, enc_btj: Tensor, pred_buj: Tensor, simple_enc_vj: Tensor, simple_pred_vj: Tensor,
        targets_bu: Tensor, lens: list[tuple[int, int]], lens_b: tuple[Tensor, Tensor], objective: Objective,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        (size_b, size_t), size_u = enc_btj.shape[:2], pred_buj.shape[1]
        blank_btu = enc_btj.new_zeros((size_b, size_t, size_u), dtype=torch.float64)
        token_btu = torch.full_like(blank_btu, NEVER)
        for b, frames, num_u in _parts(lens, len(simple_enc_vj)):
            enc_tj, pred_uj, targets_u = enc_btj[b, frames], pred_buj[b, : num_u + 1], targets_bu[b, :num_u]
            scores = _simple_joint(enc_tj, pred_uj, simple_enc_vj, simple_pred_vj, targets_u, objective)
            blank_btu[b, frames, : num_u + 1], token_btu[b, frames, :num_u] = scores
        if objective.delay_penalty:
            t = torch.arange(size_t, device=enc_btj.device)
            token_btu += delay_scores(t, lens_b[0][:, None], objective.delay_penalty)[:, :, None]
        loss_b, post_blank, post_token = posteriors(blank_btu, token_btu, *lens_b)
        ctx.mark_non_differentiable(post_blank, post_token)
        ctx.save_for_backward(enc_btj, pred_buj, simple_enc_vj, simple_pred_vj, targets_bu, post_blank, post_token)
        ctx.rest = lens, objective
        return loss_b.to(enc_btj.dtype), post_blank, post_token

    @staticmethod
    def backward(ctx: Any, grad_b: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, targets_bu, post_blank, post_token = ctx.saved_tensors
        lens, objective = ctx.rest
        d_enc, d_pred, d_simple_enc, d_simple_pred = grads = [torch.zeros_like(x) for x in inputs]
        enc_btj, pred_buj, *weights = inputs
        for b, frames, num_u in _parts(lens, len(weights[0])):
            leaves = [x.detach().requires_grad_() for x in (enc_btj[b, frames], pred_buj[b, : num_u + 1], *weights)]
            enc_tj, pred_uj, simple_enc, simple_pred = leaves
            with torch.enable_grad():
                scores = _simple_joint(enc_tj, pred_uj, simple_enc, simple_pred, targets_bu[b, :num_u], objective)
            on_blank = -grad_b[b] * post_blank[b, frames, : num_u + 1]
            on_token = -grad_b[b] * post_token[b, frames, :num_u] * (1 + objective.fastemit)
            found = torch.autograd.grad(scores, leaves, (on_blank, on_token))
            sums = d_enc[b, frames], d_pred[b, : num_u + 1], d_simple_enc, d_simple_pred
            for total, part in zip(sums, found, strict=True):
                total += part
        return *grads, None, None, None, None


def _parts(lens: list[tuple[int, int]], vocab: int) -> Iterator[tuple[int, slice, int]]:
    """Utterance, some of its frames, and its tokens."""
    step = max(CHUNK_POINTS, CHUNK_LOGITS // vocab)
    for b, (num_t, num_u) in enumerate(lens):
        for start in range(0, num_t, step):
            yield b, slice(start, min(start + step, num_t)), num_u


def _simple_joint(
    enc_tj: Tensor, pred_uj: Tensor, simple_enc_vj: Tensor, simple_pred_vj: Tensor, targets_u: Tensor,
    objective: Objective,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Log-probabilities of blank [t, u + 1] and of the next token [t, u].

    In float64, where sums of exponentials bear a spread of 700 nats; in float32 it would be 87.
    """
    enc_tv, pred_uv = _project(enc_tj, simple_enc_vj, objective), _project(pred_uj, simple_pred_vj, objective)
    top_t, top_u = enc_tv.detach().amax(1, keepdim=True), pred_uv.detach().amax(1, keepdim=True)
    sums_tu = (enc_tv - top_t).exp() @ (pred_uv - top_u).exp().T
    norm_tu = sums_tu.clamp(min=torch.finfo(torch.float64).tiny).log() + top_t + top_u.T
    blank_tu = enc_tv[:, objective.blank, None] + pred_uv[:, objective.blank] - norm_tu
    token_tu = enc_tv[:, targets_u] + pred_uv[:-1].gather(1, targets_u[:, None])[:, 0] - norm_tu[:, :-1]
    return blank_tu, token_tu


def _project(rows_nj: Tensor, weight_vj: Tensor, objective: Objective) -> Tensor:
    if objective.precision != "fp32":
        rows_nj, weight_vj = rows_nj.bfloat16(), weight_vj.bfloat16()
    return functional.linear(rows_nj, weight_vj).double()
