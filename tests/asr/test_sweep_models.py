"""The models of a sweep: as large as they are when they are trained, and equally large where they are to be."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from asr.models import make_model
from asr.recipe import TrainConfig
from asr.sweep_models import describe, sizes
from asr.tokenizer import Tokenizer
from configs import load
from pipelines import sweep_config
from pipelines.sweep_config import Balance

CONFORMER = Balance(3e6, "model.encoder_options.width", "model.predictor_hidden", (1, 2), multiple_of=8)
SETTINGS = ["model.encoder_options.layers=4", "model.encoder_options.heads=4"]


@pytest.fixture(scope="module")
def vocab_file(vocab: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "toy.model"
    path.write_bytes(vocab.model_bytes)
    return path


def described(
    shards: Path, vocab: Path, base: str, balance: Balance | None, settings: list[str], ratios: tuple[float | None, ...]
) -> list[dict[str, Any]]:
    points = [{"label": f"{r}", "settings": settings, "vocab": str(vocab), "ratio": r} for r in ratios]
    known = None if balance is None else asdict(balance)
    return describe({"base": base, "shards": str(shards), "balance": known, "points": points})


def test_the_points_of_balance_are_equally_large_and_have_the_ratios_that_it_says(
    shard_folder: Path, vocab_file: Path
) -> None:
    config = sweep_config.read("balance", [])
    balance = config.balance
    assert balance is not None and balance.ratios == (0.5, 1, 2, 4, 8, 16)
    found = described(shard_folder, vocab_file, config.base, balance, [], balance.ratios)
    for ratio, point in zip(balance.ratios, found, strict=True):
        parts = point["parameters"]
        assert parts["total"] == pytest.approx(balance.parameters, rel=0.02)
        assert parts["encoder"] / parts["predictor"] == pytest.approx(ratio, rel=0.03)


def test_a_conformer_is_balanced_in_steps_of_its_heads(shard_folder: Path, vocab_file: Path) -> None:
    base = "conformer-s"
    found = described(shard_folder, vocab_file, base, CONFORMER, SETTINGS, CONFORMER.ratios)
    for ratio, point in zip(CONFORMER.ratios, found, strict=True):
        assert point["parameters"]["total"] == pytest.approx(3e6, rel=0.02)
        assert point["config"]["model"]["encoder_options"]["width"] % 8 == 0
        assert point["parameters"]["encoder"] / point["parameters"]["predictor"] == pytest.approx(ratio, rel=0.25)


def test_sizes_are_those_of_the_real_model(shard_folder: Path, vocab: Tokenizer, vocab_file: Path) -> None:
    (point,) = described(shard_folder, vocab_file, "tiny", None, ["model.joint=24"], (None,))
    settings = load.load(TrainConfig, "tiny", "train", ["model.joint=24"])
    model = make_model(settings.model, 8, vocab.size)
    assert point["parameters"] == sizes(model)
    assert point["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert point["parameters"]["encoder"] == sum(p.numel() for p in model.encoder.parameters())


def test_a_balance_that_no_widths_have_is_a_reason(shard_folder: Path, vocab_file: Path) -> None:
    small = Balance(9000, "model.encoder_options.hidden", "model.predictor_hidden", (4,))
    (point,) = described(shard_folder, vocab_file, "tiny", small, [], small.ratios)
    assert "no widths give 9,000 parameters" in point["reason"]


def test_utterances_that_a_point_leaves_out_are_counted(shard_folder: Path, vocab_file: Path) -> None:
    whole, half = (
        described(shard_folder, vocab_file, "tiny", None, [f"data.max_s={limit}"], (None,))[0] for limit in (20, 0.45)
    )
    assert whole["left_out"]["too long"] == 0 and 0 < half["left_out"]["too long"] < 24
    assert half["hours_an_epoch"] < whole["hours_an_epoch"]


def test_a_wrong_setting_is_told_with_its_point(shard_folder: Path, vocab_file: Path) -> None:
    with pytest.raises(ValueError, match=r"point None: .*unknown key jiont \(did you mean joint\?\)"):
        described(shard_folder, vocab_file, "tiny", None, ["model.jiont=24"], (None,))
