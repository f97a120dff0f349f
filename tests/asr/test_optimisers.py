"""Optimisers and schedules: what they move, how fast, and what of them a checkpoint keeps."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.model_config import ModelConfig
from asr.recipe import OptimConfig
from asr.training.optimisers import Optimisers, learning_rate
from asr.training.resume import Position
from asr.transducer import Transducer

MakeModel = Callable[..., Transducer]
KINDS = ["adamw", "muon", "sgd"]
SCHEDULES = ["cosine", "eden", "plateau"]


def backward(model: Transducer, seed: int) -> None:
    torch.manual_seed(seed)
    targets_bu = torch.randint(1, 12, (2, 4))
    model(torch.randn(2, 30, 8), torch.tensor([30, 18]), targets_bu, torch.tensor([4, 3])).total.backward()


def config(kind: str) -> OptimConfig:
    return OptimConfig(kind=kind, lr=1e-2)  # type: ignore[arg-type]


def steps(model: Transducer, optimisers: Optimisers, seeds: list[int]) -> None:
    for seed in seeds:
        optimisers.zero_grad()
        backward(model, seed)
        for part in optimisers.parts:
            part.step()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_moves_and_belongs_to_one_optimiser(make_model: MakeModel, kind: str) -> None:
    model = make_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimisers = Optimisers(model, config(kind))
    owned = [id(p) for part in optimisers.parts for group in part.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    steps(model, optimisers, [1])
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_restored_goes_on_to_the_same_weights(make_model: MakeModel, kind: str) -> None:
    model = make_model()
    optimisers = Optimisers(model, config(kind))
    steps(model, optimisers, [1, 2])
    other = make_model(seed=9)
    other.load_state_dict(model.state_dict())
    restored = Optimisers(other, config(kind))
    restored.restore(other, {name: value.clone() for name, value in optimisers.tensors(model).items()})
    for pair in ((model, optimisers), (other, restored)):
        steps(*pair, [3])
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_muon_turns_hidden_matrices_and_leaves_the_vocabulary_to_adamw(make_model: MakeModel) -> None:
    model = make_model()
    _, muon = Optimisers(model, config("muon")).parts
    turned = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in turned}
    assert {"enc_joint.weight", "predictor.projection.weight", "encoder.recurrent.0.weight_hh_l0"} <= names
    assert not names & {"output.weight", "ctc.weight", "predictor.embedding.weight"}
    assert all(p.ndim == 2 for group in muon.param_groups for p in group["params"])


def test_the_heads_of_the_pruned_loss_are_no_hidden_matrices() -> None:
    model = Transducer(ModelConfig(encoder_options={"hidden": 8, "projection": 8}, joint=8, prune=2), 8, 12)
    _, muon = Optimisers(model, config("muon")).parts
    turned = {id(p) for group in muon.param_groups for p in group["params"]}
    assert model.simple is not None
    assert not turned & {id(model.simple.enc.weight), id(model.simple.pred.weight)}


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(total=st.integers(0, 10**6), epoch=st.integers(0, 29), factor=st.floats(1e-9, 1))
def test_a_rate_is_never_above_the_configs_nor_below_0(schedule: str, total: int, epoch: int, factor: float) -> None:
    optim = OptimConfig(schedule=schedule, lr=2e-3, warmup_steps=100)  # type: ignore[arg-type]
    lr = learning_rate(optim, Position(epoch=epoch, total=total, lr_factor=factor), 30)
    warm = min(1.0, (total + 1) / 100)
    assert 0 < lr <= 2e-3 * warm * (1 + 1e-12)


def test_the_cosine_ends_at_its_share_and_eden_where_its_paper_says() -> None:
    late = Position(epoch=30, total=10_000)
    assert learning_rate(OptimConfig(lr=1.0, final_lr=0.02), late, 30) == pytest.approx(0.02)
    eden = OptimConfig(lr=1.0, schedule="eden", eden_steps=5000, eden_epochs=10)
    assert learning_rate(eden, late, 30) == pytest.approx(5**-0.25 * 10**-0.25)


def test_a_plateau_lowers_the_rate_after_its_patience_and_not_below_the_least() -> None:
    optim = OptimConfig(lr=1.0, schedule="plateau", factor=0.5, patience=1, min_lr=0.2, warmup_steps=1)
    position, rates = Position(total=10), []
    for wer, better in [(0.9, True), (0.95, False), (0.8, True), (0.9, False), (0.85, False), *[(0.9, False)] * 6]:
        position.measured(wer, better, optim)
        rates.append(learning_rate(optim, position, 30))
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    assert position.best_wer == 0.8


def test_no_plateau_is_seen_before_the_warmup_is_over() -> None:
    optim = OptimConfig(lr=1.0, schedule="plateau", patience=1, warmup_steps=100)
    position = Position(total=99)
    for _ in range(9):
        position.measured(1.0, False, optim)
    assert learning_rate(optim, position, 30) == 1.0
    position.total = 100
    for _ in range(2):
        position.measured(1.0, False, optim)
    assert learning_rate(optim, position, 30) == 0.5
