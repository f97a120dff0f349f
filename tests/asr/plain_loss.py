"""The transducer loss by its definition, in float64: what the fast ones are tested against."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Case:
    """Inputs of the loss in its order; the first four are leaves that gather gradients."""

    enc_btj: Tensor
    pred_buj: Tensor
    weight_vj: Tensor
    bias_v: Tensor
    targets_bu: Tensor
    enc_lens_b: Tensor
    target_lens_b: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.enc_btj, self.pred_buj, self.weight_vj, self.bias_v

    @property
    def all(self) -> tuple[Tensor, ...]:
        return *self.leaves, self.targets_bu, self.enc_lens_b, self.target_lens_b


def make_case(
    enc_lens: list[int], target_lens: list[int], vocab: int = 5, joint: int = 3, seed: int = 0,
    scale: float = 2.0, dtype: torch.dtype = torch.float64,
) -> Case:  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    shapes = [
        (len(enc_lens), max(enc_lens), joint),
        (len(enc_lens), max(target_lens) + 1, joint),
        (vocab, joint),
        (vocab,),
    ]
    enc, pred, weight, bias = (
        (scale * torch.randn(s, generator=draw, dtype=torch.float64)).to(dtype).requires_grad_() for s in shapes
    )
    targets = torch.randint(1, vocab, (len(enc_lens), max(target_lens)), generator=draw)
    return Case(enc, pred, weight, bias, targets, torch.tensor(enc_lens), torch.tensor(target_lens))


def log_probs(case: Case, b: int) -> Tensor:
    """[t, u, v] of one utterance, from materialised logits in float64."""
    enc, pred, weight, bias = (x.double() for x in case.leaves)
    t, u = int(case.enc_lens_b[b]), int(case.target_lens_b[b]) + 1
    hidden_tuj = torch.tanh(enc[b, :t, None] + pred[b, None, :u])
    return torch.log_softmax(hidden_tuj @ weight.T + bias, -1)


def recursion(logp_tuv: Tensor, targets_u: Tensor, within_tu: Tensor | None = None) -> Tensor:
    """Loss of one utterance by Graves' forward recursion, one lattice point (of those `within`) after the other."""
    alpha: dict[tuple[int, int], Tensor] = {(0, 0): logp_tuv.new_zeros(())}
    for t, u in itertools.product(*map(range, logp_tuv.shape[:2])):
        if within_tu is not None and not within_tu[t, u]:
            continue
        ways = [alpha[t - 1, u] + logp_tuv[t - 1, u, 0]] if (t - 1, u) in alpha else []
        ways += [alpha[t, u - 1] + logp_tuv[t, u - 1, targets_u[u - 1]]] if (t, u - 1) in alpha else []
        if ways:
            alpha[t, u] = torch.stack(ways).logsumexp(0)
    last = logp_tuv.shape[0] - 1, logp_tuv.shape[1] - 1
    return -(alpha[last] + logp_tuv[*last, 0])


def delayed(logp_tuv: Tensor, delay_penalty: float) -> Tensor:
    """Tokens get lambda ((T - 1) / 2 - t) more, blank (0) does not."""
    num_t, _, vocab = logp_tuv.shape
    bonus_t = delay_penalty * ((num_t - 1) / 2 - torch.arange(num_t, dtype=logp_tuv.dtype))
    return logp_tuv + bonus_t[:, None, None] * (torch.arange(vocab) > 0)


def fast_emitting(logp_tuv: Tensor, targets_u: Tensor, fastemit: float, within_tu: Tensor | None = None) -> Tensor:
    """The loss and, adding nothing to its value, lambda times the gradient that flows through tokens."""
    apart_tuv = logp_tuv.detach().requires_grad_()
    (grad_tuv,) = torch.autograd.grad(recursion(apart_tuv, targets_u, within_tu), apart_tuv)
    through_tokens = (grad_tuv[:, :, 1:] * logp_tuv[:, :, 1:]).sum()
    return recursion(logp_tuv, targets_u, within_tu) + fastemit * (through_tokens - through_tokens.detach())


def plain_loss(case: Case) -> Tensor:
    """[b], by definition."""
    return torch.stack([recursion(log_probs(case, b), case.targets_bu[b]) for b in range(len(case.enc_btj))])


def enumerated_loss(case: Case, b: int, delay_penalty: float = 0.0) -> Tensor:
    """One utterance, by writing down every alignment: T blanks and U tokens in any order that ends in a blank."""
    logp_tuv = delayed(log_probs(case, b), delay_penalty)
    frames, tokens = int(case.enc_lens_b[b]), int(case.target_lens_b[b])
    paths = []
    for emits in itertools.combinations(range(frames + tokens - 1), tokens):
        t = u = 0
        total = logp_tuv.new_zeros(())
        for at in range(frames + tokens):
            symbol = int(case.targets_bu[b, u]) if at in emits else 0
            total = total + logp_tuv[t, u, symbol]
            t, u = (t, u + 1) if at in emits else (t + 1, u)
        paths.append(total)
    return -torch.stack(paths).logsumexp(0)


def gradients(losses_b: Tensor, case: Case) -> tuple[Tensor, ...]:
    """Of a sum that weighs the utterances differently, so that mixing them up shows."""
    weights_b = torch.arange(1, len(losses_b) + 1, dtype=losses_b.dtype)
    return torch.autograd.grad((losses_b * weights_b).sum(), case.leaves)
