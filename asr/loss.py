"""The transducer loss (Graves 2012, "Sequence transduction with recurrent neural networks"), joint included.

It takes encoder and predictor outputs that are already projected to the joint size, so that the big tensor of
logits [batch, frames, tokens + 1, vocab] never exists: the joint is computed for about a million logits at a time,
kept only as the log-probabilities of blank and of the next token, and computed again in the backward pass, there only
at the lattice points that a path is likely to cross.

Shape letters: b batch, t encoder frames, u tokens (+ 1), j joint size, v vocab, n lattice points.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Precision = Literal["fp32", "bf16"]
CHUNK_LOGITS = 1 << 20  # stays near the cache; 2^18 to 2^22 differ by under 5 %
NEVER = -1e30  # log-probability of what cannot happen; finite, so that differences stay numbers


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
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Negative log-likelihood of the targets where logits = tanh(enc + pred) @ weight.T + bias.

    The value is exact. The gradient leaves out lattice points whose posterior is at most `eps`; 0 keeps them all.
    `pred_buj` has one row more than the longest target. "mean" is over utterances; "none" gives one value each.
    Raises ValueError for an utterance without encoder frames or with a target longer than the batch allows.
    """
    if int(enc_lens_b.min()) < 1 or int(enc_lens_b.max()) > enc_btj.shape[1]:
        raise ValueError(f"transducer_loss: encoder lengths must be 1 to {enc_btj.shape[1]}, got {enc_lens_b.tolist()}")
    if int(target_lens_b.max()) > min(targets_bu.shape[1], pred_buj.shape[1] - 1):
        raise ValueError("transducer_loss: a target is longer than the targets or the predictor outputs")
    points = _Points.of(targets_bu, enc_lens_b, target_lens_b, enc_btj.shape[1], pred_buj.shape[1], blank)
    losses_b = _Transducer.apply(enc_btj, pred_buj, weight_vj, bias_v, points, blank, eps, precision)
    if reduction == "none":
        return losses_b
    return losses_b.mean() if reduction == "mean" else losses_b.sum()


class _Points:
    """The lattice points (b, t, u) that are inside their utterance, flattened, and the shape of the whole."""

    def __init__(self, shape: tuple[int, int, int], where: tuple[Tensor, ...], token_n: Tensor, lens: tuple) -> None:
        self.shape = shape
        self.b, self.t, self.u = where
        self.enc_row = self.b * shape[1] + self.t
        self.pred_row = self.b * shape[2] + self.u
        self.token_n = token_n  # the next token; blank where the target has ended
        self.enc_lens_b, self.target_lens_b = lens
        self.has_next_n = self.u < self.target_lens_b[self.b]

    @classmethod
    def of(cls, targets_bu: Tensor, enc_lens_b: Tensor, target_lens_b: Tensor, t: int, u: int, blank: int) -> "_Points":
        device = targets_bu.device
        inside_bt = torch.arange(t, device=device) < enc_lens_b[:, None]
        inside_bu = torch.arange(u, device=device) <= target_lens_b[:, None]
        where = (inside_bt[:, :, None] & inside_bu[:, None]).nonzero(as_tuple=True)
        padded_bu = functional.pad(targets_bu, (0, u - targets_bu.shape[1]))
        ended_bu = torch.arange(u, device=device) >= target_lens_b[:, None]
        padded_bu = padded_bu.masked_fill(ended_bu, blank)  # the padding may be no token at all, -1 for instance
        return cls((len(enc_lens_b), t, u), where, padded_bu[where[0], where[2]], (enc_lens_b, target_lens_b))

    def lattice(self, values_n: Tensor, fill: float) -> Tensor:
        """Values at the points as a float64 lattice [b, t, u]."""
        full = values_n.new_full(self.shape, fill, dtype=torch.float64)
        full[self.b, self.t, self.u] = values_n.double()
        return full


class _Transducer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, enc_btj: Tensor, pred_buj: Tensor, weight_vj: Tensor, bias_v: Tensor,
        points: _Points, blank: int, eps: float, precision: Precision,
    ) -> Tensor:  # fmt: skip
        enc, pred = enc_btj.flatten(0, 1), pred_buj.flatten(0, 1)
        weight = weight_vj.bfloat16() if precision == "bf16" else weight_vj
        blank_n, token_n, norm_n = (enc.new_empty(len(points.b)) for _ in range(3))
        step = max(1, CHUNK_LOGITS // max(weight.shape))
        for start in range(0, len(points.b), step):
            part = slice(start, start + step)
            hidden_nj = _hidden(enc, pred, points.enc_row[part], points.pred_row[part], weight)
            logits_nv = _logits(hidden_nj, weight, bias_v)
            first = logits_nv[:, 0].clone()
            logp_nv = torch.log_softmax(logits_nv, 1)
            norm_n[part] = first - logp_nv[:, 0]  # the log-sum-exp, without a second pass over the logits
            blank_n[part] = logp_nv[:, blank]
            token_n[part] = logp_nv.gather(1, points.token_n[part, None])[:, 0]
        loss_b, post_blank_n, post_token_n = _posteriors(points, blank_n, token_n)
        ctx.save_for_backward(enc_btj, pred_buj, weight_vj, bias_v, norm_n, post_blank_n, post_token_n)
        ctx.rest = points, blank, eps, precision
        return loss_b.to(enc_btj.dtype)

    @staticmethod
    def backward(ctx: Any, grad_b: Tensor) -> tuple:
        enc_btj, pred_buj, weight_vj, bias_v, norm_n, post_blank_n, post_token_n = ctx.saved_tensors
        points, blank, eps, precision = ctx.rest
        enc, pred = enc_btj.flatten(0, 1), pred_buj.flatten(0, 1)
        weight = weight_vj.bfloat16() if precision == "bf16" else weight_vj
        d_enc, d_pred, d_weight, d_bias = (torch.zeros_like(x) for x in (enc, pred, weight_vj, bias_v))
        kept = ((post_blank_n + post_token_n) > eps).nonzero()[:, 0]
        scale_n = grad_b[points.b]
        step = max(1, CHUNK_LOGITS // max(weight.shape))
        for start in range(0, len(kept), step):
            at = kept[start : start + step]
            enc_row, pred_row = points.enc_row[at], points.pred_row[at]
            hidden_nj = _hidden(enc, pred, enc_row, pred_row, weight)
            on_blank, on_token = post_blank_n[at] * scale_n[at], post_token_n[at] * scale_n[at]
            # d loss / d logits = (blank + token posterior) * softmax - posterior of the symbol itself
            d_nv = _logits(hidden_nj, weight, bias_v).sub_(norm_n[at, None]).exp_().mul_((on_blank + on_token)[:, None])
            d_nv[:, blank] -= on_blank
            d_nv.scatter_add_(1, points.token_n[at, None], -on_token[:, None])
            d_bias += d_nv.sum(0)
            low = d_nv.to(weight.dtype)
            d_weight += (low.T @ hidden_nj).to(d_weight.dtype)
            d_sum_nj = (low @ weight).to(enc.dtype).mul_(1 - hidden_nj.to(enc.dtype).square())
            d_enc.index_add_(0, enc_row, d_sum_nj)
            d_pred.index_add_(0, pred_row, d_sum_nj)
        return d_enc.view_as(enc_btj), d_pred.view_as(pred_buj), d_weight, d_bias, None, None, None, None


def _hidden(enc: Tensor, pred: Tensor, enc_row: Tensor, pred_row: Tensor, weight: Tensor) -> Tensor:
    """[n, j] in the precision of the weights; bf16 has a three times faster tanh on CPU, too."""
    return torch.tanh((enc[enc_row] + pred[pred_row]).to(weight.dtype))


def _logits(hidden_nj: Tensor, weight: Tensor, bias_v: Tensor) -> Tensor:
    if weight.dtype == torch.bfloat16:
        return functional.linear(hidden_nj, weight).float().add_(bias_v)
    return torch.addmm(bias_v, hidden_nj, weight.T)


def _posteriors(points: _Points, blank_n: Tensor, token_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [b] in float64, and for each point the probability that the path leaves it by blank and by its token.

    A column of the lattice (all frames at one u) is one prefix scan: a path enters it at some frame t' by a token and
    then moves by blanks, so with C the running sum of the column's blanks, alpha_u(t) = C(t) + logcumsumexp over t'
    <= t of (alpha_{u-1}(t') + token_{u-1}(t') - C(t')). Float64 keeps the differences of C exact to about 1e-11.
    """
    blank = points.lattice(blank_n, 0.0)
    token = points.lattice(torch.where(points.has_next_n, token_n, NEVER), NEVER)
    size_b, _, num_u = points.shape
    run = functional.pad(blank.cumsum(1), (0, 0, 1, 0))  # [b, t + 1, u]: blanks before frame t
    columns = [run[:, :-1, 0]]
    for u in range(1, num_u):
        before = run[:, :-1, u]
        columns.append(before + torch.logcumsumexp(columns[-1] + token[:, :, u - 1] - before, 1))
    alpha = torch.stack(columns, 2)
    batch = torch.arange(size_b, device=blank.device)
    beta = _beta(points, run, token)  # [b, t + 1, u]: from the arrival at frame t to the end
    total_b = beta[batch, 0, 0]
    where = points.b, points.t, points.u
    here = alpha[where] - total_b[points.b]
    post_blank = (here + blank[where] + beta[points.b, points.t + 1, points.u]).exp()
    up = torch.where(points.has_next_n, points.u + 1, points.u)
    post_token = (here + token[where] + beta[points.b, points.t, up]).exp()
    return -total_b, post_blank.to(blank_n.dtype), post_token.to(blank_n.dtype)


def _beta(points: _Points, run: Tensor, token: Tensor) -> Tensor:
    """Log-probability of finishing from each point, by the same scan from the last column and frame backwards."""
    num_u = points.shape[2]
    end_b = run.gather(1, points.enc_lens_b[:, None, None].expand(-1, 1, num_u))[:, 0]  # all blanks of each column
    columns: list[Tensor] = []
    for u in reversed(range(num_u)):
        final = end_b[:, u, None] - run[:, :, u]  # blanks to the very end: right where the target has ended
        if not columns:
            columns.append(final)
            continue
        leave = run[:, :-1, u] + token[:, :, u] + columns[-1][:, :-1]
        scan = torch.logcumsumexp(leave.flip(1), 1).flip(1) - run[:, :-1, u]
        scan = functional.pad(scan, (0, 1), value=NEVER)
        columns.append(torch.where((points.target_lens_b == u)[:, None], final, scan))
    return torch.stack(columns[::-1], 2)
