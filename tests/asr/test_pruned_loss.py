"""The simple loss is that of added logits, the pruned one the exact one on a band, and every band has a path."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_loss import Case, delayed, fast_emitting, log_probs, make_case, plain_loss, recursion
from torch import Tensor

from asr.loss import transducer_loss
from asr.losses import joint, pruned_loss
from asr.losses.lattice import inside
from asr.losses.pruned_loss import band, pruned_transducer_loss, warmup_scales

RAGGED = {
    "one": ([9], [6]),
    "ragged": ([10, 7, 1, 5], [5, 6, 2, 0]),
    "no_tokens": ([4, 2], [0, 0]),
    "one_frame": ([1, 1], [3, 0]),
    "more_tokens_than_frames": ([2, 3], [6, 5]),
}
ragged = pytest.mark.parametrize("lens", RAGGED.values(), ids=RAGGED.keys())
OPTIONS = [{}, {"fastemit": 0.3}, {"delay_penalty": 0.2}]
options = pytest.mark.parametrize("option", OPTIONS, ids=["plain", "fastemit", "delay_penalty"])
Lens = tuple[list[int], list[int]]


def simple_weights(case: Case, scale: float = 1.0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    shape = case.weight_vj.shape
    drawn = [scale * torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2)]
    return [x.to(case.weight_vj.dtype).requires_grad_() for x in drawn]


def losses(case: Case, simple: list[Tensor], **keywords: Any) -> tuple[Tensor, Tensor]:
    both = pruned_transducer_loss(*case.leaves, *simple, *case.all[4:], reduction="none", **keywords)
    return both.simple, both.pruned


def simple_log_probs(case: Case, simple: list[Tensor], b: int) -> Tensor:
    enc, pred = case.enc_btj[b, : case.enc_lens_b[b]], case.pred_buj[b, : case.target_lens_b[b] + 1]
    return torch.log_softmax((enc @ simple[0].T)[:, None] + pred @ simple[1].T, -1)


def targets(case: Case, b: int) -> Tensor:
    return case.targets_bu[b, : case.target_lens_b[b]]


def by_definition(
    logp_tuv: Tensor, targets_u: Tensor, option: dict[str, float], within: Tensor | None = None
) -> Tensor:
    scores_tuv = delayed(logp_tuv, option.get("delay_penalty", 0.0))
    return fast_emitting(scores_tuv, targets_u, option.get("fastemit", 0.0), within)


def assert_same(ours: Tensor, plain: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    weights_b = torch.arange(1, len(ours) + 1, dtype=ours.dtype)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights_b).sum(), leaves),
        torch.autograd.grad((plain * weights_b).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


def band_of(case: Case, simple: list[Tensor], b: int, height: int, delay_penalty: float = 0.0) -> Tensor:
    """[t, u], from posteriors by autograd."""
    apart_tuv = delayed(simple_log_probs(case, simple, b).detach(), delay_penalty).requires_grad_()
    (grad_tuv,) = torch.autograd.grad(recursion(apart_tuv, targets(case, b)), apart_tuv)
    ends = case.enc_lens_b[b : b + 1], case.target_lens_b[b : b + 1]
    post_blank, post_token = -grad_tuv[:, :, 0], -grad_tuv[:, :, 1:].sum(2)
    low_t = band(post_blank[None], post_token[None], *ends, height)[0]
    u = torch.arange(grad_tuv.shape[1])
    return (u >= low_t[:, None]) & (u < low_t[:, None] + height)


@options
@ragged
def test_the_simple_loss_is_that_of_added_logits(lens: Lens, option: dict[str, float]) -> None:
    case = make_case(*lens)
    simple = simple_weights(case)
    ours, _ = losses(case, simple, **option)
    plain = [by_definition(simple_log_probs(case, simple, b), targets(case, b), option) for b in range(len(ours))]
    assert_same(ours, torch.stack(plain), [case.enc_btj, case.pred_buj, *simple])


@options
@ragged
def test_a_band_over_everything_is_the_exact_loss(lens: Lens, option: dict[str, float]) -> None:
    case = make_case(*lens)
    _, ours = losses(case, simple_weights(case), s_range=99, eps=0.0, **option)
    assert_same(ours, transducer_loss(*case.all, eps=0.0, reduction="none", **option), list(case.leaves))


@options
@pytest.mark.parametrize("height", [2, 3, 4])
def test_the_pruned_loss_counts_the_paths_in_the_band_and_no_others(height: int, option: dict[str, float]) -> None:
    case = make_case([10, 7, 6], [5, 6, 0])
    simple = simple_weights(case)
    _, ours = losses(case, simple, s_range=height, eps=0.0, **option)
    plain = []
    for b in range(len(ours)):
        within = band_of(case, simple, b, height, option.get("delay_penalty", 0.0))
        plain.append(by_definition(log_probs(case, b), targets(case, b), option, within))
    assert_same(ours, torch.stack(plain), list(case.leaves))
    if "delay_penalty" not in option:
        lost = ours - plain_loss(case)
        assert (lost[:2] > 1e-6).all()
        torch.testing.assert_close(lost[2], torch.zeros_like(lost[2]), rtol=0, atol=1e-12)  # without tokens: one path


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_band_has_a_path_from_the_first_point_to_the_last(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 3))
    enc_lens = data.draw(st.lists(st.integers(1, 9), min_size=size, max_size=size))
    target_lens = data.draw(st.lists(st.integers(0, 12), min_size=size, max_size=size))
    least = max(1 + -(-u // t) for t, u in zip(enc_lens, target_lens, strict=True))
    height = data.draw(st.integers(least, 14))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 30)))
    lens = torch.tensor(enc_lens), torch.tensor(target_lens)
    shape = size, max(enc_lens), max(target_lens) + 1
    within = inside(*shape[1:], *lens)
    post_blank, post_token = (torch.rand(shape, generator=draw, dtype=torch.float64) ** 8 * within for _ in range(2))
    for low_t, frames, tokens in zip(band(post_blank, post_token, *lens, height), enc_lens, target_lens, strict=True):
        lows = low_t[:frames].tolist()
        assert lows[0] == 0
        assert lows[-1] == max(0, tokens + 1 - height)
        assert all(0 <= after - before < height for before, after in itertools.pairwise(lows))


def test_the_band_follows_the_posterior() -> None:
    """A path that waits, climbs three tokens within one frame and waits again is in a band of four."""
    frames, tokens, at = 9, 3, 4
    post_blank = torch.zeros(1, frames, tokens + 1, dtype=torch.float64)
    post_token = torch.zeros_like(post_blank)
    post_blank[0, :at, 0] = post_blank[0, at:, tokens] = 1.0
    post_token[0, at, :tokens] = 1.0
    low_t = band(post_blank, post_token, torch.tensor([frames]), torch.tensor([tokens]), 4)[0]
    assert low_t.tolist() == [0] * frames
    low_t = band(post_blank, post_token, torch.tensor([frames]), torch.tensor([tokens]), 2)[0]
    path = [0] * at + [tokens] * (frames - at)
    outside = sum(not low <= u < low + 2 for low, u in zip(low_t.tolist(), path, strict=True))
    assert outside <= 2  # two windows of two cannot climb three at once; only frames beside the climb may miss it


def test_where_both_joiners_are_sure_of_the_same_path_little_is_lost() -> None:
    """An encoder that says which symbol comes, in every frame: one path holds all of the probability."""
    tokens, per_token, vocab = 8, 4, 12
    targets_u = torch.arange(1, tokens + 1)
    frames = tokens * per_token
    enc = torch.zeros(1, frames, 2 * vocab, dtype=torch.float64)
    pred = torch.zeros(1, tokens + 1, 2 * vocab, dtype=torch.float64)
    for t in range(frames):
        enc[0, t, : t // per_token + 1 + 1] = 2.0  # the symbols spoken so far, and blank
    for u in range(tokens + 1):
        pred[0, u, vocab + u] = 2.0
    weight = torch.zeros(vocab, 2 * vocab, dtype=torch.float64)
    weight[:, :vocab] = 8 * torch.eye(vocab)
    weight[0, 0] = 4.0
    for u in range(tokens):
        weight[:, vocab + u] = -8.0
        weight[[0, u + 1], vocab + u] = 0.0
    inputs = (
        enc, pred, weight, torch.zeros(vocab, dtype=torch.float64), weight, weight,
        targets_u[None], torch.tensor([frames]), torch.tensor([tokens]),
    )  # fmt: skip
    exact = transducer_loss(*inputs[:4], *inputs[6:], eps=0.0)
    pruned = pruned_transducer_loss(*inputs, s_range=3, eps=0.0).pruned
    assert 0 <= pruned - exact < 0.05


def test_a_band_too_low_for_its_tokens_grows() -> None:
    case = make_case([2, 3], [9, 4])
    low, enough = (losses(case, simple_weights(case), s_range=s, eps=0.0)[1] for s in (2, 6))
    assert torch.equal(low, enough)  # nine tokens in two frames need windows of six
    assert (low < 1e3).all()


def test_gradcheck() -> None:
    case = make_case([4, 3], [3, 1], vocab=4)

    def both(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        each = pruned_transducer_loss(*leaves, *case.all[4:], s_range=2, eps=0.0, reduction="none")
        return each.simple, each.pruned

    assert torch.autograd.gradcheck(both, (*case.leaves, *simple_weights(case)))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case([11, 7], [4, 0])
    simple = simple_weights(case)

    def found() -> list[Tensor]:
        both = losses(case, simple, s_range=2, delay_penalty=0.1)
        return [*both, *torch.autograd.grad((both[0] + both[1]).sum(), [*case.leaves, *simple])]

    whole = found()
    for module in (joint, pruned_loss):
        monkeypatch.setattr(module, "CHUNK_LOGITS", 15)
        monkeypatch.setattr(module, "CHUNK_POINTS", 1)
    for part, all_at_once in zip(found(), whole, strict=True):
        torch.testing.assert_close(part, all_at_once, rtol=1e-10, atol=1e-12)


def test_what_lies_behind_the_ends_has_no_influence_and_no_gradient() -> None:
    case = make_case([6, 9], [4, 1])
    simple = simple_weights(case)
    before = torch.stack(losses(case, simple, s_range=2))
    with torch.no_grad():
        case.enc_btj[0, 6:] = 1e3
        case.pred_buj[1, 2:] = -1e3
        case.targets_bu[1, 1:] = -1
    after = torch.stack(losses(case, simple, s_range=2))
    assert torch.equal(before, after)
    d_enc, d_pred = torch.autograd.grad(after.sum(), (case.enc_btj, case.pred_buj))
    assert not d_enc[0, 6:].any() and not d_pred[1, 2:].any()
    assert d_enc[0, :6].any() and d_pred[1, :2].any()


@pytest.mark.parametrize("scale", [100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits_stay_finite(dtype: torch.dtype, scale: float) -> None:
    case = make_case([6, 3], [2, 4], dtype=dtype)
    simple = simple_weights(case, scale)
    ours, pruned = losses(case, simple, s_range=3)
    found = torch.autograd.grad((ours + pruned).sum(), [*case.leaves, *simple])
    assert ours.isfinite().all() and pruned.isfinite().all() and all(g.isfinite().all() for g in found)
    if scale == 100.0:  # differences of some hundred nats
        plain = [recursion(simple_log_probs(case, simple, b).double(), targets(case, b)) for b in range(2)]
        torch.testing.assert_close(ours.double(), torch.stack(plain), rtol=1e-5, atol=1e-5)


def test_bf16_is_near_and_keeps_the_dtypes() -> None:
    case = make_case([9, 6], [4, 5], vocab=16, joint=32, scale=0.5, dtype=torch.float32)
    simple = simple_weights(case, 0.3)
    exact, rounded = (losses(case, simple, precision=p, s_range=6, eps=0.0) for p in ("fp32", "bf16"))
    for low, full in zip(rounded, exact, strict=True):
        assert not torch.equal(low, full)
        torch.testing.assert_close(low, full, rtol=0.02, atol=0.05)
    found = torch.autograd.grad(sum(x.sum() for x in rounded), [*case.leaves, *simple])
    assert {g.dtype for g in found} == {torch.float32}


@pytest.mark.parametrize("reduce", [torch.mean, torch.sum], ids=["mean", "sum"])
def test_reductions(reduce: Callable[[Tensor], Tensor]) -> None:
    case = make_case([4, 6, 2], [1, 3, 2])
    simple = simple_weights(case)
    whole = pruned_transducer_loss(*case.leaves, *simple, *case.all[4:], reduction=reduce.__name__)
    each = losses(case, simple)
    torch.testing.assert_close(whole.simple, reduce(each[0]))
    torch.testing.assert_close(whole.pruned, reduce(each[1]))


def test_lengths_that_do_not_fit_are_refused() -> None:
    case = make_case([4, 4], [2, 2])
    case.target_lens_b = torch.tensor([1, 3])
    with pytest.raises(ValueError, match="a target is longer"):
        losses(case, simple_weights(case))


def test_the_warm_up_goes_from_the_simple_loss_to_both() -> None:
    assert warmup_scales(0, 2000) == (1.0, 0.1)
    assert warmup_scales(1000, 2000) == pytest.approx((0.75, 0.55))
    assert warmup_scales(2000, 2000) == warmup_scales(9999, 2000) == warmup_scales(0, 0) == (0.5, 1.0)
