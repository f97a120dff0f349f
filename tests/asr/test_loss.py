"""The loss is the sum over all alignments, its gradient is that of the plain definition, and sparseness is bounded."""

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_loss import (
    Case,
    delayed,
    enumerated_loss,
    fast_emitting,
    gradients,
    log_probs,
    make_case,
    plain_loss,
    recursion,
)
from torch import Tensor

from asr.loss import transducer_loss
from asr.losses import joint

BF16_UNIT = 2.0**-9  # largest relative error of one rounding to bfloat16


RAGGED = {
    "one": ([6], [3]),
    "ragged": ([7, 4, 1, 5], [3, 4, 2, 0]),
    "no_tokens": ([4, 2], [0, 0]),
    "one_frame": ([1, 1], [3, 0]),
    "more_tokens_than_frames": ([2, 3], [6, 5]),
}


def targets(case: Case) -> list[Tensor]:
    return [case.targets_bu[b, :length] for b, length in enumerate(case.target_lens_b)]


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


@pytest.mark.parametrize("lens", RAGGED.values(), ids=RAGGED.keys())
def test_fastemit_strengthens_what_flows_through_tokens(lens: tuple[list[int], list[int]]) -> None:
    case = make_case(*lens)
    ours = transducer_loss(*case.all, eps=0.0, fastemit=0.3, reduction="none")
    plain = torch.stack([fast_emitting(log_probs(case, b), y, 0.3) for b, y in enumerate(targets(case))])
    torch.testing.assert_close(ours, plain_loss(case), rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(gradients(ours, case), gradients(plain, case), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("lens", RAGGED.values(), ids=RAGGED.keys())
def test_the_delay_penalty_scores_tokens_by_their_frame(lens: tuple[list[int], list[int]]) -> None:
    case = make_case(*lens)
    ours = transducer_loss(*case.all, eps=0.0, delay_penalty=0.2, reduction="none")
    plain = torch.stack([recursion(delayed(log_probs(case, b), 0.2), y) for b, y in enumerate(targets(case))])
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours[0], enumerated_loss(case, 0, 0.2), rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(gradients(ours, case), gradients(plain, case), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("option", ["fastemit", "delay_penalty"])
def test_both_options_lead_to_earlier_tokens(option: str) -> None:
    """Descending each gradient for a while, with nothing else to learn, moves the mean frame of the tokens forward."""
    plain, early = (mean_token_frame(**{option: strength}) for strength in (0.0, 0.1))
    assert early < plain - 0.2


def mean_token_frame(**option: float) -> float:
    case = make_case([12], [3], vocab=4, joint=8, scale=0.5)
    optimiser = torch.optim.SGD(case.leaves, lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        transducer_loss(*case.all, **option).backward()
        optimiser.step()
    apart_tuv = log_probs(case, 0).detach().requires_grad_()
    (grad_tuv,) = torch.autograd.grad(recursion(apart_tuv, case.targets_bu[0]), apart_tuv)
    posterior_t = -grad_tuv[:, :, 1:].sum((1, 2))
    return float((posterior_t * torch.arange(12)).sum() / posterior_t.sum())


def test_autocast_around_it_changes_nothing() -> None:
    case = make_case([5, 7], [3, 2], dtype=torch.float32)
    outside = transducer_loss(*case.all, eps=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = transducer_loss(*case.all, eps=0.0)
    assert torch.equal(inside, outside)


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
    monkeypatch.setattr(joint, "CHUNK_LOGITS", chunk_logits)
    monkeypatch.setattr(joint, "CHUNK_POINTS", 1)
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
        ([4, 4], [1, -1], "a target is longer"),
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
