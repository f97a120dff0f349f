"""The model around the loss: normalisation, the losses of padded batches, and the predictor's steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from asr import decode
from asr.ctc import ctc_loss
from asr.losses.pruned_loss import pruned_transducer_loss, warmup_scales
from asr.model_config import LossConfig, ModelConfig
from asr.transducer import BLANK, Transducer

MakeModel = Callable[..., Transducer]


def test_normalisation_gives_mean_0_and_variance_1(make_model: MakeModel) -> None:
    feats_btf = torch.randn(2, 500, 8) * torch.arange(1.0, 9.0) + 3
    model = make_model()
    model.set_normalisation(feats_btf.mean((0, 1)), feats_btf.var((0, 1), correction=0))
    normal_btf = model.normalise(feats_btf)
    torch.testing.assert_close(normal_btf.mean((0, 1)), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(normal_btf.var((0, 1), correction=0), torch.ones(8), rtol=0, atol=1e-4)


def test_a_mel_that_never_changes_stays_finite(make_model: MakeModel) -> None:
    model = make_model()
    model.set_normalisation(torch.full((8,), -15.9), torch.zeros(8))
    assert model.normalise(torch.full((1, 4, 8), -15.9)).isfinite().all()


@pytest.mark.parametrize("tail_frames", [0, 3])
def test_an_utterance_is_closed_alike_for_numbers_tensors_and_features(make_model: MakeModel, tail_frames: int) -> None:
    model = make_model(tail_frames=tail_frames)
    reduction = model.encoder.reduction
    for frames in range(1, 2 * reduction + 2):
        expected = -(-frames // reduction) + tail_frames
        assert model.encoder_frames(frames) == int(model.encoder_frames(torch.tensor(frames))) == expected
        assert model.closing_frames(frames) == expected * reduction - frames
        enc_bte, enc_lens_b = model.encode(torch.randn(1, frames, 8), torch.tensor([frames]))
        assert enc_bte.shape[1] == int(enc_lens_b) == expected


@pytest.mark.parametrize("tail_frames", [0, 3])
def test_every_utterance_of_a_batch_has_its_own_tail(make_model: MakeModel, tail_frames: int) -> None:
    model = make_model(tail_frames=tail_frames)
    feats_btf = torch.randn(2, 40, 8)
    feats_btf[1, 7:] = 0
    together, enc_lens_b = model.encode(feats_btf, torch.tensor([40, 7]))
    alone, _ = model.encode(feats_btf[1:, :7], torch.tensor([7]))
    torch.testing.assert_close(together[1, : enc_lens_b[1]], alone[0], rtol=0, atol=1e-5)


def test_the_losses_of_a_batch_are_the_means_of_its_utterances(make_model: MakeModel) -> None:
    model = make_model()
    lens, target_lens = [31, 12, 20], [4, 0, 2]
    feats_btf, targets_bu = torch.randn(3, 31, 8), torch.randint(1, 12, (3, 4))
    for b, frames in enumerate(lens):
        feats_btf[b, frames:] = 0
    together = model(feats_btf, torch.tensor(lens), targets_bu, torch.tensor(target_lens))
    alone = [
        model(feats_btf[b : b + 1, :t], torch.tensor([t]), targets_bu[b : b + 1, :u], torch.tensor([u]))
        for b, (t, u) in enumerate(zip(lens, target_lens, strict=True))
    ]
    torch.testing.assert_close(together.main, torch.stack([x.main for x in alone]).mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(together.ctc, torch.stack([x.ctc for x in alone]).mean(), rtol=1e-5, atol=0)


def test_the_loss_is_that_of_the_models_own_logits(make_model: MakeModel) -> None:
    """One frame and one token leave two alignments' worth of terms: -log p(token | start) p(blank | token)."""
    model = make_model()
    feats_btf = torch.randn(1, model.encoder.reduction, 8)
    enc_bj = model.enc_joint(model.encode(feats_btf, torch.tensor([feats_btf.shape[1]]))[0])[:, 0]
    start, token_b = model.start(1), torch.tensor([5])
    after = model.advance(token_b, start, torch.tensor([True]))
    first, second = (model.logits(enc_bj, s).log_softmax(1)[0] for s in (start, after))
    losses = model(feats_btf, torch.tensor([feats_btf.shape[1]]), token_b[:, None], torch.tensor([1]))
    torch.testing.assert_close(losses.main, -(first[5] + second[BLANK]), rtol=1e-5, atol=0)


def test_every_parameter_learns(make_model: MakeModel) -> None:
    model = make_model()
    losses = model(torch.randn(2, 30, 8), torch.tensor([30, 18]), torch.randint(1, 12, (2, 4)), torch.tensor([4, 3]))
    (losses.main + losses.ctc).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_more_tokens_than_frames_do_not_break_ctc(make_model: MakeModel) -> None:
    model = make_model()
    losses = model(torch.randn(1, 6, 8), torch.tensor([6]), torch.full((1, 5), 3), torch.tensor([5]))
    (losses.main + losses.ctc).backward()
    assert losses.ctc == 0 and losses.main.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_without_a_ctc_head_its_loss_is_0() -> None:
    model = Transducer(ModelConfig(encoder_options={"hidden": 8, "projection": 8}, ctc=False), mels=8, vocab=6)
    losses = model(torch.randn(1, 12, 8), torch.tensor([12]), torch.tensor([[1, 2]]), torch.tensor([2]))
    assert losses.ctc == 0 and losses.main > 0
    assert not any(name.startswith("ctc") for name in model.state_dict())


def check_steps_equal_one_pass(model: Transducer) -> None:
    tokens_bu = torch.randint(1, 12, (2, 6))
    whole_bup, _ = model.predictor(functional.pad(tokens_bu, (1, 0), value=BLANK), None)
    state, everywhere = model.start(2), torch.tensor([True, True])
    outs = [state.joint_bj]
    for u in range(6):
        state = model.advance(tokens_bu[:, u], state, everywhere)
        outs.append(state.joint_bj)
    torch.testing.assert_close(torch.stack(outs, 1), model.pred_joint(whole_bup), rtol=1e-4, atol=1e-4)


def test_steps_of_the_predictor_equal_one_pass(make_model: MakeModel) -> None:
    check_steps_equal_one_pass(make_model())


@pytest.mark.parametrize("where", [[True, False, True], [False, False, False], [False, True, False]])
def test_advance_moves_only_the_streams_it_is_told_to(make_model: MakeModel, where: list[bool]) -> None:
    model = make_model()
    start = model.advance(torch.tensor([1, 2, 3]), model.start(3), torch.tensor([True] * 3))
    tokens_b = torch.tensor([4, 5, 6])
    all_moved = model.advance(tokens_b, start, torch.tensor([True] * 3))
    some_moved = model.advance(tokens_b, start, torch.tensor(where))
    for b, moved in enumerate(where):
        expected = all_moved if moved else start
        assert torch.equal(some_moved.h[:, b], expected.h[:, b])
        assert torch.equal(some_moved.c[:, b], expected.c[:, b])
        assert torch.equal(some_moved.joint_bj[b], expected.joint_bj[b])
        assert not torch.equal(all_moved.joint_bj[b], start.joint_bj[b])


def stateless(context: int, seed: int = 6) -> Transducer:
    torch.manual_seed(seed)
    options = {"layers": 1, "hidden": 8, "projection": 8, "reduce_after": []}
    config = ModelConfig(
        encoder_options=options, embedding=6, predictor="stateless", predictor_context=context, joint=10
    )
    return Transducer(config, mels=8, vocab=12).eval()


@pytest.mark.parametrize("context", [1, 2, 4])
def test_steps_of_a_stateless_predictor_equal_one_pass(context: int) -> None:
    check_steps_equal_one_pass(stateless(context))


@pytest.mark.parametrize("context", [1, 2, 4])
def test_a_stateless_predictor_sees_so_many_tokens_and_no_more(context: int) -> None:
    model = stateless(context)
    tokens_bu = torch.randint(1, 11, (1, 9))
    before, _ = model.predictor(tokens_bu, None)
    for u in range(9):
        other_bu = tokens_bu.clone()
        other_bu[0, u] += 1
        after, _ = model.predictor(other_bu, None)
        assert (before != after).any(2)[0].nonzero()[:, 0].tolist() == list(range(u, min(u + context, 9)))


@pytest.mark.parametrize("where", [[True, False, True], [False, False, False]])
def test_a_stateless_predictor_moves_only_the_streams_it_is_told_to(where: list[bool]) -> None:
    """Seen in what the streams say to the token after."""
    model, everywhere = stateless(context=3), torch.tensor([True] * 3)
    start = model.advance(torch.tensor([1, 2, 3]), model.start(3), everywhere)
    tokens_b, next_b = torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9])
    all_moved = model.advance(tokens_b, start, everywhere)
    some_moved = model.advance(tokens_b, start, torch.tensor(where))
    after_all, after_some, after_none = (model.advance(next_b, s, everywhere) for s in (all_moved, some_moved, start))
    for b, moved in enumerate(where):
        assert torch.equal(some_moved.joint_bj[b], (all_moved if moved else start).joint_bj[b])
        assert torch.equal(after_some.joint_bj[b], (after_all if moved else after_none).joint_bj[b])
        assert not torch.equal(after_all.joint_bj[b], after_none.joint_bj[b])


def test_every_parameter_of_a_stateless_predictor_learns() -> None:
    model = stateless(context=2)
    losses = model(torch.randn(2, 30, 8), torch.tensor([30, 18]), torch.randint(1, 12, (2, 4)), torch.tensor([4, 3]))
    losses.main.backward()
    assert [n for n, p in model.predictor.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_predictor_must_see_a_token() -> None:
    with pytest.raises(ValueError, match=r"model\.predictor_context is 0; it must be 1 or more"):
        ModelConfig(predictor_context=0)


def pruning(prune: int, **options: Any) -> Transducer:
    torch.manual_seed(2)
    encoder = {"layers": 1, "hidden": 16, "projection": 16, "stack": 4, "reduce_after": []}
    return Transducer(ModelConfig("lstm", encoder, 8, 1, 16, 16, joint=16, prune=prune, **options), mels=8, vocab=9)


def two_utterances() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    feats_btf = torch.randn(2, 40, 8)
    feats_btf[1, 24:] = 0
    return feats_btf, torch.tensor([40, 24]), torch.tensor([[3, 5, 2, 7], [4, 1, 1, 1]]), torch.tensor([4, 2])


def parts(model: Transducer, batch: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Simple, pruned and CTC loss, put together from the model's modules."""
    enc_bte, enc_lens_b = model.encode(*batch[:2])
    pred_bup, _ = model.predictor(functional.pad(batch[2], (1, 0), value=BLANK), None)
    assert model.simple is not None and model.ctc is not None
    both = pruned_transducer_loss(
        model.enc_joint(enc_bte), model.pred_joint(pred_bup), model.output.weight, model.output.bias,
        model.simple.enc.weight, model.simple.pred.weight, batch[2], enc_lens_b, batch[3],
        s_range=model.config.prune, **options,
    )  # fmt: skip
    return both.simple, both.pruned, ctc_loss(model.ctc(enc_bte), batch[2], enc_lens_b, batch[3])


@pytest.mark.parametrize("step", [0, 30, 100, 5000])
def test_a_pruned_loss_takes_over_from_the_simple_one(step: int) -> None:
    model, batch = pruning(prune=3), two_utterances()
    config = LossConfig(ctc_weight=0.4, prune_warmup_steps=100)
    losses = model(*batch, config, step=step)
    simple, pruned, ctc = parts(model, batch)
    of_simple, of_pruned = warmup_scales(step, 100)
    torch.testing.assert_close(losses.main, pruned)
    torch.testing.assert_close(losses.ctc, ctc)
    torch.testing.assert_close(losses.total, of_simple * simple + of_pruned * pruned + 0.4 * ctc)


def test_a_band_over_all_tokens_is_the_exact_loss() -> None:
    pruned, exact = pruning(prune=9), pruning(prune=0)
    exact.load_state_dict({k: v for k, v in pruned.state_dict().items() if not k.startswith("simple")})
    batch = two_utterances()
    torch.testing.assert_close(pruned(*batch).main, exact(*batch).main)
    assert (pruning(prune=2)(*batch).main > exact(*batch).main + 1e-3).item()


@pytest.mark.parametrize("prune", [0, 2])
def test_options_of_the_loss_reach_it(prune: int) -> None:
    """FastEmit in the gradient alone, the delay penalty in the value too, of the simple loss as well."""
    model, batch = pruning(prune), two_utterances()
    learning = [model.output.weight, model.enc_joint.weight, *(model.simple.parameters() if model.simple else [])]
    found = []
    for option in ({}, {"fastemit": 0.5}, {"delay_penalty": 0.5}):
        losses = model(*batch, LossConfig(eps=0.0, **option))
        found.append((losses.main, torch.autograd.grad(losses.total, learning)))
    (plain, d_plain), (emitting, d_emitting), (delayed, d_delayed) = found
    assert torch.equal(plain, emitting) and not torch.allclose(plain, delayed)
    for d_other in (d_emitting, d_delayed):
        assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in zip(d_plain, d_other, strict=True))


def test_every_parameter_of_a_pruned_model_learns() -> None:
    model = pruning(prune=2)
    model(*two_utterances(), step=10).total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_pruned_model_learns_utterances_by_heart() -> None:
    model, batch = pruning(prune=3), two_utterances()
    config = LossConfig(prune_warmup_steps=40)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
    for step in range(200):
        losses = model(*batch, config, step=step)
        if step > 40 and losses.main < 0.05:
            break
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    found = decode.greedy(model.eval(), batch[0], batch[1])
    assert [[token for token, _ in tokens] for tokens in found] == [[3, 5, 2, 7], [4, 1]]


def test_a_band_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.prune is 1; it must be 0 \(the exact loss\) or 2 and more"):
        pruning(prune=1)
