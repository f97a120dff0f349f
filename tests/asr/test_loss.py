"""The loss is the sum over all alignments, its gradient is that of the plain definition, and sparseness is bounded."""

import itertools
from dataclasses import dataclass

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr import loss
from asr.loss import transducer_loss

BF16_UNIT = 2.0**-9  # largest relative error of one rounding to bfloat16


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


def recursion(logp_tuv: Tensor, targets_u: Tensor, blank: int = 0) -> Tensor:
    """Loss of one utterance by Graves' forward recursion, one lattice point after the other."""
    alpha: dict[tuple[int, int], Tensor] = {(0, 0): logp_tuv.new_zeros(())}
    for t, u in itertools.product(*map(range, logp_tuv.shape[:2])):
        ways = [alpha[t - 1, u] + logp_tuv[t - 1, u, blank]] if t else []
        ways += [alpha[t, u - 1] + logp_tuv[t, u - 1, targets_u[u - 1]]] if u else []
        if ways:
            alpha[t, u] = torch.stack(ways).logsumexp(0)
    last = logp_tuv.shape[0] - 1, logp_tuv.shape[1] - 1
    return -(alpha[last] + logp_tuv[*last, blank])


def plain_loss(case: Case) -> Tensor:
    """[b], by definition."""
    return torch.stack([recursion(log_probs(case, b), case.targets_bu[b]) for b in range(len(case.enc_btj))])


def enumerated_loss(case: Case, b: int) -> Tensor:
    """One utterance, by writing down every alignment: T blanks and U tokens in any order that ends in a blank."""
    logp_tuv = log_probs(case, b)
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


RAGGED = {
    "one": ([6], [3]),
    "ragged": ([7, 4, 1, 5], [3, 4, 2, 0]),
    "no_tokens": ([4, 2], [0, 0]),
    "one_frame": ([1, 1], [3, 0]),
    "more_tokens_than_frames": ([2, 3], [6, 5]),
}


@pytest.mark.parametrize("vocab", [2, 6])  # 2: blank and a single symbol
@pytest.mark.parametrize("lens", RAGGED.values(), ids=RAGGED.keys())
def test_value_and_gradient_are_those_of_the_definition(lens: tuple[list[int], list[int]], vocab: int) -> None:
    case = make_case(*lens, vocab=vocab)
    ours, plain = transducer_loss(*case.all, eps=0.0, reduction="none"), plain_loss(case)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(gradients(ours, case), gradients(plain, case), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(0, 4), st.integers(2, 4), st.integers(0, 1 << 30), st.sampled_from([0.1, 1.0, 5.0])
)
def test_value_is_the_sum_over_all_alignments(frames: int, tokens: int, vocab: int, seed: int, scale: float) -> None:
    case = make_case([frames, 5], [tokens, 2], vocab=vocab, seed=seed, scale=scale)
    ours = transducer_loss(*case.all, reduction="none")
    expected = torch.stack([enumerated_loss(case, 0), enumerated_loss(case, 1)])
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("blank", [0, 3, 6])
def test_value_and_gradient_are_torchaudios(blank: int) -> None:
    case = make_case([9, 5, 1], [4, 6, 2], vocab=7, dtype=torch.float32)
    targets_bu = torch.where(case.targets_bu == blank, 0 if blank else 1, case.targets_bu)
    case.targets_bu = targets_bu
    ours = transducer_loss(*case.all, blank=blank, eps=0.0, reduction="none")
    hidden_btuj = torch.tanh(case.enc_btj[:, :, None] + case.pred_buj[:, None])
    lens = (x.int() for x in (targets_bu, case.enc_lens_b, case.target_lens_b))
    theirs = torchaudio.functional.rnnt_loss(
        hidden_btuj @ case.weight_vj.T + case.bias_v, *lens, blank=blank, reduction="none"
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(gradients(ours, case), gradients(theirs, case), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_gradcheck() -> None:
    case = make_case([3, 2], [2, 1], vocab=4)

    def losses(enc_btj: Tensor, pred_buj: Tensor, weight_vj: Tensor, bias_v: Tensor) -> Tensor:
        lens = case.enc_lens_b, case.target_lens_b
        return transducer_loss(enc_btj, pred_buj, weight_vj, bias_v, case.targets_bu, *lens, eps=0.0, reduction="none")

    assert torch.autograd.gradcheck(losses, case.leaves)


def test_what_lies_behind_the_ends_has_no_influence_and_no_gradient() -> None:
    case = make_case([4, 7], [3, 1])
    before = transducer_loss(*case.all, eps=0.0, reduction="none")
    with torch.no_grad():
        case.enc_btj[0, 4:] = 1e3
        case.pred_buj[1, 2:] = -1e3
        case.targets_bu[1, 1:] = -1  # no token at all
    after = transducer_loss(*case.all, eps=0.0, reduction="none")
    assert torch.equal(before, after)
    d_enc, d_pred, _, _ = gradients(after, case)
    assert not d_enc[0, 4:].any() and not d_pred[1, 2:].any()
    assert d_enc[0, :4].any() and d_pred[1, :2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_huge_logits_stay_finite(where: str, dtype: torch.dtype) -> None:
    case = make_case([6, 3], [2, 4], vocab=5, dtype=dtype)
    huge = case.weight_vj if where == "weight" else case.bias_v
    with torch.no_grad():
        huge.copy_(1e4 * huge.sign())
    ours, plain = transducer_loss(*case.all, eps=0.0, reduction="none"), plain_loss(case)
    assert plain.max() > 1e4
    torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=1e-5)
    assert all(g.isfinite().all() for g in gradients(ours, case))


@pytest.mark.parametrize("eps", [1e-1, 1e-2, 1e-4])
def test_a_sparse_gradient_lacks_the_points_of_at_most_eps_and_no_others(eps: float) -> None:
    case = make_case([12], [5], vocab=6, joint=4)
    logp_tuv = log_probs(case, 0)
    apart_tuv = logp_tuv.detach().requires_grad_()
    (minus_posterior_tuv,) = torch.autograd.grad(recursion(apart_tuv, case.targets_bu[0]), apart_tuv)
    kept_tu = -minus_posterior_tuv.sum(2) > eps
    assert 0 < kept_tu.sum() < kept_tu.numel()
    expected = torch.autograd.grad((minus_posterior_tuv * kept_tu[:, :, None] * logp_tuv).sum(), case.leaves)
    ours = gradients(transducer_loss(*case.all, eps=eps, reduction="none"), case)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("eps", [1e-2, 1e-4])
def test_a_sparse_gradient_is_as_near_as_eps_says(eps: float) -> None:
    """A point of posterior p adds p softmax - p (symbols) to d logits, at most 2 p in the sum of absolute values.

    So what is left out of the bias's gradient is at most 2 eps for each point of the lattice, and out of one encoder
    frame's at most 2 eps (U + 1) times the largest weight, tanh having a slope of at most 1.
    """
    frames, tokens = 12, 5
    case = make_case([frames], [tokens], vocab=6, joint=4)
    exact, sparse = (gradients(transducer_loss(*case.all, eps=e, reduction="none"), case) for e in (0.0, eps))
    d_enc, d_pred, _, d_bias = (abs(a - b) for a, b in zip(exact, sparse, strict=True))
    assert 0 < d_bias.sum() <= 2 * eps * frames * (tokens + 1)
    largest = case.weight_vj.abs().max()
    assert d_enc.max() <= 2 * eps * (tokens + 1) * largest
    assert d_pred.max() <= 2 * eps * frames * largest


def test_eps_leaves_the_value_exact() -> None:
    case = make_case([8, 5], [3, 3])
    assert torch.equal(transducer_loss(*case.all, eps=0.5), transducer_loss(*case.all, eps=0.0))


def test_bf16_is_within_its_rounding() -> None:
    """Three roundings make a logit: of tanh, of the weight and of the product.

    With r their relative errors' sum and m the largest sum_j |h w|, a logit errs by at most r m, its log-probability
    by twice that, and a path adds T + U of them.
    """
    case = make_case([9, 6], [4, 5], vocab=16, joint=32, scale=0.5, dtype=torch.float32)
    exact, rounded = (transducer_loss(*case.all, eps=0.0, precision=p, reduction="none") for p in ("fp32", "bf16"))
    largest = case.weight_vj.abs().sum(1).max()  # |tanh| < 1
    bound_b = 2 * 3.01 * BF16_UNIT * largest * (case.enc_lens_b + case.target_lens_b)
    assert ((rounded - exact).abs() <= bound_b).all()
    assert not torch.equal(rounded, exact)
    for low, full in zip(gradients(rounded, case), gradients(exact, case), strict=True):
        assert low.dtype == torch.float32
        assert (low - full).norm() < 8 * BF16_UNIT * full.norm()


def test_reductions() -> None:
    case = make_case([4, 6, 2], [1, 3, 2])
    each = transducer_loss(*case.all, reduction="none")
    assert each.shape == (3,)
    torch.testing.assert_close(transducer_loss(*case.all, reduction="sum"), each.sum())
    torch.testing.assert_close(transducer_loss(*case.all), each.mean())


@pytest.mark.parametrize("chunk_logits", [1, 5, 7, 35, 1000])  # one point at a time, a point exactly, across, all
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk_logits: int) -> None:
    case = make_case([5, 7, 3], [3, 0, 2], vocab=5)
    whole = transducer_loss(*case.all, eps=1e-3, reduction="none")
    whole_gradients = gradients(whole, case)
    monkeypatch.setattr(loss, "CHUNK_LOGITS", chunk_logits)
    parts = transducer_loss(*case.all, eps=1e-3, reduction="none")
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients(parts, case), whole_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("enc_lens", "target_lens", "message"),
    [
        ([0, 4], [1, 2], "encoder lengths must be 1 to 4"),
        ([5, 4], [1, 2], "encoder lengths must be 1 to 4"),
        ([4, 4], [1, 3], "a target is longer"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(enc_lens: list[int], target_lens: list[int], message: str) -> None:
    case = make_case([4, 4], [2, 2])
    case.enc_lens_b, case.target_lens_b = torch.tensor(enc_lens), torch.tensor(target_lens)
    with pytest.raises(ValueError, match=message):
        transducer_loss(*case.all)


def test_too_few_predictor_outputs_are_refused() -> None:
    case = make_case([4], [3])
    case.pred_buj = case.pred_buj[:, :3]
    with pytest.raises(ValueError, match="a target is longer"):
        transducer_loss(*case.all)
