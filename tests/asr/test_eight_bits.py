"""The loss with logits from bytes is as near as bytes are, finite where it should be, and bfloat16's without them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain_loss import Case, gradients, make_case, plain_loss
from torch import Tensor

from asr.checkpoint import Bundle
from asr.loss import transducer_loss
from asr.losses import eight_bits
from asr.losses.joint import Precision
from asr.losses.pruned_loss import pruned_transducer_loss
from asr.model_config import LossConfig, ModelConfig, check_together
from asr.recipe import TrainConfig
from asr.training.session import identity_of
from asr.transducer import joint_precision
from configs import load
from shards.index import open_shards

BF16_UNIT = 2.0**-9  # largest relative error of one rounding to bfloat16
RAGGED = {
    "ragged": ([7, 4, 1, 5], [3, 4, 2, 0]),
    "no_tokens": ([4, 2], [0, 0]),
    "more_tokens_than_frames": ([2, 3], [6, 5]),
}
BYTES = pytest.mark.skipif(not eight_bits.available(torch.device("cpu")), reason="a processor without VNNI")
QLINEAR = getattr(torch.ops.onednn, "qlinear_pointwise", None)
STEP = 1 / 127  # of the hidden layer, and of a row of weights whose largest is 1


def by_bytes(case: Case, eps: float = 0.0) -> Tensor:
    return transducer_loss(*case.all, eps=eps, precision="int8", reduction="none")


@BYTES
@pytest.mark.parametrize("lens", RAGGED.values(), ids=RAGGED.keys())
def test_int8_is_within_its_rounding(lens: tuple[list[int], list[int]]) -> None:
    """Hidden layer and weights are each off by half a step at most.

    So a logit is off by at most r = (sum_j |w| + J largest (1 + STEP / 2)) STEP / 2, its log-probability by twice that,
    and a path adds T + U of them. The lattice's posteriors change by a factor of at most exp(4 r (T + U)), a softmax by
    exp(2 r), and bfloat16 rounds three times on the way from there to a gradient. What flows into the logits of an
    utterance is at most 2 (T + U) in the sum of absolute values, and neither |tanh| nor its slope is above 1.
    """
    case = make_case(*lens, vocab=16, joint=4, scale=0.2, dtype=torch.float32)
    exact, rounded = plain_loss(case), by_bytes(case)
    weight_vj = case.weight_vj.detach()
    widest_v = weight_vj.abs().sum(1) + 4 * weight_vj.abs().amax(1) * (1 + STEP / 2)
    off = float(widest_v.max()) * STEP / 2 + 1e-6
    steps_b = case.enc_lens_b + case.target_lens_b
    assert ((rounded - exact).abs() <= 2 * off * steps_b).all()
    assert not torch.equal(rounded.double(), exact)
    share = float((4 * off * steps_b.max() + 2 * off).exp()) * (1 + BF16_UNIT) ** 3 - 1
    assert share < 1
    bound = share * 2 * float(steps_b.sum())
    found = zip(gradients(rounded, case), gradients(exact, case), strict=True)
    d_enc, d_pred, d_weight, d_bias = (abs(low - full) for low, full in found)
    assert d_bias.sum() <= bound and (d_weight.sum(0) <= bound).all()
    assert all((d.sum((0, 1)) <= bound * weight_vj.abs().max()).all() for d in (d_enc, d_pred))


@BYTES
@pytest.mark.parametrize("size", [2.0**-6, 2.0**10])
def test_int8_of_what_bytes_hold_is_exact(size: float) -> None:
    """Hidden units and weights that are whole steps lose nothing, whatever the size of the logits."""
    case = make_case([7, 4, 1, 5], [3, 4, 2, 0], vocab=9, joint=8, dtype=torch.float32)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        case.weight_vj.copy_(size * torch.randint(-127, 128, (9, 8), generator=draw))
        case.weight_vj[:, 0] = size * 127
        for half, other, x in ((slice(4), slice(4, 8), case.enc_btj), (slice(4, 8), slice(4), case.pred_buj)):
            x[..., half] = (torch.randint(-126, 127, x[..., half].shape, generator=draw) / 127).double().atanh().float()
            x[..., other] = 0
    exact, ours = plain_loss(case), by_bytes(case)
    torch.testing.assert_close(ours.double(), exact, rtol=2e-6, atol=1e-5)
    for low, full in zip(gradients(ours, case), gradients(exact, case), strict=True):
        assert (low - full).norm() < 4 * BF16_UNIT * full.norm()


@BYTES
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e20])
def test_int8_gives_numbers_wherever_bf16_does(scale: float) -> None:
    case = make_case([6, 3], [2, 4], vocab=5, joint=7, dtype=torch.float32)
    with torch.no_grad():
        case.weight_vj *= scale
        case.weight_vj[2] = 0
    losses = by_bytes(case)
    assert losses.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(losses, case))


@BYTES
@pytest.mark.parametrize("which", range(4))
def test_what_is_no_number_is_none_in_int8_either(which: int) -> None:
    case = make_case([6, 3], [2, 4], vocab=5, joint=7, dtype=torch.float32)
    with torch.no_grad():
        case.leaves[which].view(-1)[0] = torch.nan
    losses = by_bytes(case)
    assert losses[0].isnan()
    assert any(g.isnan().any() for g in gradients(losses, case))


@BYTES
def test_int8_comes_out_the_same_each_time() -> None:
    case = make_case([40, 30], [9, 12], vocab=70, joint=33, dtype=torch.float32)
    first, second = ((losses, *gradients(losses, case)) for losses in (by_bytes(case), by_bytes(case)))
    assert all(map(torch.equal, first, second))


@BYTES
def test_how_a_weight_lies_in_memory_changes_nothing() -> None:
    """Packing its bytes reads memory in order, whatever the strides."""
    case = make_case([6, 3], [2, 4], vocab=5, joint=7, dtype=torch.float32)
    plain = by_bytes(case)
    turned = replace(case, weight_vj=case.weight_vj.detach().T.contiguous().T.requires_grad_())
    assert not turned.weight_vj.is_contiguous()
    ours = by_bytes(turned)
    assert torch.equal(ours, plain)
    assert all(map(torch.equal, gradients(ours, turned), gradients(plain, case)))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_inputs_of_other_types_have_gradients(dtype: torch.dtype, precision: Precision) -> None:
    case = make_case([7, 4, 1, 5], [3, 4, 2, 0], vocab=16, joint=8, scale=0.2, dtype=dtype)
    exact = plain_loss(case)
    ours = transducer_loss(*case.all, eps=0.0, precision=precision, reduction="none")
    torch.testing.assert_close(ours.double(), exact.double(), rtol=4 * BF16_UNIT, atol=0.02)
    for low, full in zip(gradients(ours, case), gradients(exact, case), strict=True):
        assert low.dtype == dtype and (low - full).norm() < 4 * BF16_UNIT * full.norm()


def raises(*_: object) -> Tensor:
    raise RuntimeError("other\narguments")


def saturates(*args: object) -> Tensor:
    assert QLINEAR is not None
    found: Tensor = QLINEAR(*args)
    return found.clamp(max=2.0**9)


@pytest.mark.parametrize(
    ("capable", "operator", "reason"),
    [
        ({"avx2": True}, QLINEAR, None),
        pytest.param({"avx512_vnni": True}, None, "TypeError: 'NoneType' object is not callable", marks=BYTES),
        pytest.param({"avx512_vnni": True}, raises, "RuntimeError: other arguments", marks=BYTES),
        pytest.param({"avx512_vnni": True}, saturates, "logits are off by", marks=BYTES),
    ],
    ids=["processor", "none", "raising", "wrong_sums"],
)
def test_without_products_of_bytes_int8_means_bf16(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], capable: dict[str, bool],
    operator: Callable[..., Tensor] | None, reason: str | None,
) -> None:  # fmt: skip
    """One line says why; none where the processor is not made for it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", operator, raising=False)
    eight_bits._tried.cache_clear()
    case = make_case([5, 3], [2, 3], joint=8, dtype=torch.float32)
    try:
        plain = transducer_loss(*case.all, eps=0.0, precision="bf16", reduction="none")
        for _ in range(2):
            ours = by_bytes(case)
            assert torch.equal(ours, plain)
        assert all(map(torch.equal, gradients(ours, case), gradients(plain, case)))
    finally:
        eight_bits._tried.cache_clear()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (0 if reason is None else 1)
    assert reason is None or f"no products of bytes, bfloat16 goes on: {reason}" in lines[0]


@BYTES
def test_the_pruned_loss_takes_int8() -> None:
    case = make_case([9, 6], [4, 5], vocab=9, joint=8, dtype=torch.float32)
    simple = [torch.randn(9, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    exact, low, ours = (
        pruned_transducer_loss(*case.leaves, *simple, *case.all[4:], s_range=6, eps=0.0, precision=p, reduction="none")
        for p in ("fp32", "bf16", "int8")
    )  # the band holds all points
    assert torch.equal(ours.simple, low.simple)
    torch.testing.assert_close(ours.pruned, by_bytes(case), rtol=1e-6, atol=1e-5)
    assert not torch.equal(ours.pruned, exact.pruned)


def test_runs_that_began_before_there_was_a_choice_are_resumed(shard_folder: Path, bundle: Bundle) -> None:
    shards, config = open_shards(str(shard_folder)), TrainConfig(frontend="default")
    chosen = replace(config, loss=replace(config.loss, precision="int8"))
    now, other = (identity_of(c, "bf16", bundle.tokenizer, shards, None) for c in (config, chosen))
    assert "precision" not in now["config"]["loss"]
    assert load.differences(now, other) == ["config.loss.precision not set then, int8 now"]


def test_a_training_may_choose_another_precision_for_its_loss_alone() -> None:
    chosen = [joint_precision(LossConfig(precision=p), "bf16") for p in ("auto", "fp32", "bf16", "int8")]
    assert chosen == ["bf16", "fp32", "bf16", "int8"]
    assert [joint_precision(LossConfig(), p) for p in ("fp32", "fp16")] == ["fp32", "fp32"]
    assert joint_precision(LossConfig(precision="int8"), "fp32") == "int8"
    check_together(ModelConfig(), LossConfig(precision="int8"))
    with pytest.raises(ValueError, match=r"loss\.precision is int8, but only a transducer"):
        check_together(ModelConfig(kind="ctc"), LossConfig(precision="int8"))
