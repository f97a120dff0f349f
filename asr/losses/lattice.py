"""The transducer's lattice (Graves 2012, "Sequence transduction with recurrent neural networks", section 2.4).

A path starts at frame 0 before the first token; a blank takes it one frame on, a token one token on, and it ends with
the blank that leaves the last frame behind the last token. Points can be fewer than all (a band, see
asr/losses/pruned_loss.py): then only those paths count that stay on them.

Shape letters: b batch, t encoder frames, u tokens (+ 1), n lattice points.
"""

import torch
from torch import Tensor
from torch.nn import functional

from asr.losses import kernels

NEVER = kernels.OUTSIDE  # log-probability of what cannot happen


class Points:
    """Lattice points (b, t, u), flattened in this order, and what leaves each of them."""

    def __init__(
        self, inside_btu: Tensor, size: int | None, targets_bu: Tensor, enc_lens_b: Tensor, target_lens_b: Tensor,
        blank: int,
    ) -> None:  # fmt: skip
        """`size` is the number of points; None has it counted, which waits for the device."""
        self.shape = _, num_t, num_u = inside_btu.shape
        self.enc_lens_b, self.target_lens_b = enc_lens_b, target_lens_b
        flat = inside_btu.flatten()
        self.flat_n = (flat.nonzero() if size is None else flat.nonzero_static(size=size))[:, 0]
        self.enc_row_n = self.flat_n // num_u
        self.b_n = self.enc_row_n // num_t
        u_n = self.flat_n % num_u
        self.pred_row_n = self.b_n * num_u + u_n
        ended_bu = torch.arange(num_u, device=flat.device) >= target_lens_b[:, None]
        padded_bu = functional.pad(targets_bu, (0, 1))[:, :num_u].masked_fill(ended_bu, blank)  # padding may be -1
        self.token_n = padded_bu.flatten()[self.pred_row_n]  # the next token; blank where the target has ended
        above_btu = functional.pad(inside_btu[:, :, 1:], (0, 1)) & ~ended_bu[:, None]
        self.has_next_n = above_btu.flatten()[self.flat_n]

    @classmethod
    def all(
        cls,
        num_t: int,
        num_u: int,
        size: int,
        targets_bu: Tensor,
        enc_lens_b: Tensor,
        target_lens_b: Tensor,
        blank: int,
    ) -> "Points":
        """Every point of every utterance."""
        inside_btu = inside(num_t, num_u, enc_lens_b, target_lens_b)
        return cls(inside_btu, size, targets_bu, enc_lens_b, target_lens_b, blank)

    def spread(self, values_n: Tensor, fill: float) -> Tensor:
        """Values at the points as a float64 lattice [b, t, u]."""
        full = values_n.new_full(self.shape, fill, dtype=torch.float64)
        full.view(-1)[self.flat_n] = values_n.double()
        return full

    def posteriors(self, blank_n: Tensor, token_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the log-probabilities of blank and token: see the function `posteriors`, at the points."""
        blank_btu = self.spread(blank_n, 0.0)
        token_btu = self.spread(token_n.where(self.has_next_n, NEVER), NEVER)
        loss_b, post_blank, post_token = posteriors(blank_btu, token_btu, self.enc_lens_b, self.target_lens_b)
        return loss_b, post_blank.flatten()[self.flat_n], post_token.flatten()[self.flat_n]


def inside(num_t: int, num_u: int, enc_lens_b: Tensor, target_lens_b: Tensor) -> Tensor:
    """[b, t, u], true at the points that are inside their utterance."""
    inside_bt = torch.arange(num_t, device=enc_lens_b.device) < enc_lens_b[:, None]
    inside_bu = torch.arange(num_u, device=enc_lens_b.device) <= target_lens_b[:, None]
    return inside_bt[:, :, None] & inside_bu[:, None]


def posteriors(
    blank_btu: Tensor, token_btu: Tensor, enc_lens_b: Tensor, target_lens_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [b], and for each point the probability that the path leaves it by blank and by its token; all float64.

    Log-probabilities are 0 (blank) and NEVER (token) outside of an utterance and, in a column, before and behind its
    points; a token that leads to no point is NEVER, too. What is returned there means nothing.
    """
    scores = blank_btu, token_btu, enc_lens_b, target_lens_b
    if blank_btu.shape[2] <= kernels.MOST_LANES and kernels.available(blank_btu.device):
        return kernels.posteriors(*scores)
    return posteriors_by_scans(*scores)


def posteriors_by_scans(
    blank_btu: Tensor, token_btu: Tensor, enc_lens_b: Tensor, target_lens_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What `posteriors` returns, in PyTorch.

    A column of the lattice (all frames at one u) is one prefix scan: a path enters it at some frame t' by a token and
    then moves by blanks, so with C the running sum of the column's blanks, alpha_u(t) = C(t) + logcumsumexp over t'
    <= t of (alpha_{u-1}(t') + token_{u-1}(t') - C(t')). Float64 keeps the differences of C exact to about 1e-11.
    """
    run = functional.pad(blank_btu.cumsum(1), (0, 0, 1, 0))  # [b, t + 1, u]: blanks before frame t
    columns = [run[:, :-1, 0]]
    for u in range(1, blank_btu.shape[2]):
        before = run[:, :-1, u]
        columns.append(before + torch.logcumsumexp(columns[-1] + token_btu[:, :, u - 1] - before, 1))
    alpha = torch.stack(columns, 2)
    beta = _beta(run, token_btu, enc_lens_b, target_lens_b)
    total_b = beta[:, 0, 0]
    here = alpha - total_b[:, None, None]
    post_blank = (here + blank_btu).add_(beta[:, 1:]).exp_()
    above = functional.pad(beta[:, :-1, 1:], (0, 1), value=NEVER)
    post_token = here.add_(token_btu).add_(above).exp_()
    return -total_b, post_blank, post_token


def _beta(run: Tensor, token_btu: Tensor, enc_lens_b: Tensor, target_lens_b: Tensor) -> Tensor:
    """[b, t + 1, u], log-probability of finishing from the arrival at frame t: the same scan from the end backwards."""
    num_u = run.shape[2]
    end_bu = run.gather(1, enc_lens_b[:, None, None].expand(-1, 1, num_u))[:, 0]  # all blanks of each column
    columns: list[Tensor] = []
    for u in reversed(range(num_u)):
        final = end_bu[:, u, None] - run[:, :, u]  # blanks to the very end: right where the target has ended
        if not columns:
            columns.append(final)
            continue
        leave = run[:, :-1, u] + token_btu[:, :, u] + columns[-1][:, :-1]
        scan = torch.logcumsumexp(leave.flip(1), 1).flip(1) - run[:, :-1, u]
        scan = functional.pad(scan, (0, 1), value=NEVER)
        columns.append(torch.where((target_lens_b == u)[:, None], final, scan))
    return torch.stack(columns[::-1], 2)
