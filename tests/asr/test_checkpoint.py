"""A bundle comes back as it was, refuses to be anything else, and survives a kill at any point of its writing."""

import copy
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from asr import checkpoint, tokenizer
from asr.checkpoint import FACTS, TRAINING_FACTS, TRAINING_TENSORS, VOCAB, WEIGHTS, Bundle
from asr.recipe import OptimConfig
from asr.tokenizer import Tokenizer
from asr.training.optimisers import Optimisers
from asr.transducer import Transducer
from manifests import storage

Training = tuple[dict[str, Tensor], dict[str, object]]


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    checkpoint.save(str(tmp_path / "last"), bundle)
    return tmp_path / "last"


def with_step(bundle: Bundle, step: int) -> Bundle:
    return Bundle(bundle.model, bundle.tokenizer, bundle.spec, {"step": step})


def loaded_step(folder: Path) -> int:
    return int(checkpoint.load(str(folder)).facts["step"])


def trained(model: Transducer, steps: int, optimisers: Optimisers) -> None:
    for seed in range(steps):
        feats_btf = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(seed))
        optimisers.zero_grad()
        losses = model(feats_btf, torch.tensor([24, 18]), torch.tensor([[2, 3, 4], [5, 6, 7]]), torch.tensor([3, 2]))
        (losses.main + losses.ctc).backward()
        for part in optimisers.parts:
            part.step()


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        checkpoint.load(str(folder))
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_bundle_comes_back_as_it_was(bundle: Bundle, saved: Path) -> None:
    back = checkpoint.load(str(saved))
    assert (back.spec, back.facts, back.model.config) == (bundle.spec, bundle.facts, bundle.model.config)
    assert back.tokenizer.model_bytes == bundle.tokenizer.model_bytes
    assert not back.model.training
    for (name, ours), (other, theirs) in zip(
        bundle.model.state_dict().items(), back.model.state_dict().items(), strict=True
    ):
        assert name == other and torch.equal(ours, theirs)
    feats_btf, lens_b = torch.randn(2, 24, 16), torch.tensor([24, 18])
    with torch.inference_mode():
        ours, theirs = (
            m.logits(m.enc_joint(m.encode(m.normalise(feats_btf), lens_b)[0][:, 1]), m.start(2))
            for m in (bundle.model, back.model)
        )
    assert torch.equal(ours, theirs)


def test_the_same_bundle_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("one", "two"):
        checkpoint.save(str(tmp_path / name), bundle)
    for file in (WEIGHTS, VOCAB, FACTS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_bundle_moves_and_is_read_by_url(bundle: Bundle, saved: Path, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "elsewhere")
    assert checkpoint.load(f"file://{tmp_path}/elsewhere").facts == bundle.facts


def test_no_file_of_a_bundle_is_a_pickle(bundle: Bundle, tmp_path: Path) -> None:
    model = copy.deepcopy(bundle.model)
    optimisers = Optimisers(model, OptimConfig())
    trained(model, 1, optimisers)
    training = optimisers.tensors(model), {"epoch": 1}
    checkpoint.save(str(tmp_path / "last"), bundle, training)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir()}
    assert set(contents) == {WEIGHTS, VOCAB, FACTS, TRAINING_TENSORS, TRAINING_FACTS}
    for name, data in contents.items():
        assert not data.startswith(b"\x80") and not zipfile.is_zipfile(io.BytesIO(data)), name
        if name.endswith(".json"):
            json.loads(data)
        elif name.endswith(".safetensors"):
            safetensors.torch.load(data)
        else:
            Tokenizer(data)


@pytest.mark.parametrize("place", [0, 9, 500, -1])
def test_a_flipped_bit_in_the_weights_is_refused(saved: Path, place: int) -> None:
    data = bytearray((saved / WEIGHTS).read_bytes())
    data[place] ^= 1
    (saved / WEIGHTS).write_bytes(data)
    assert WEIGHTS in refusal(saved) and "altered" in refusal(saved)


@pytest.mark.parametrize("name", [WEIGHTS, VOCAB, FACTS])
@pytest.mark.parametrize("kept_bytes", [0, 20])
def test_a_file_that_is_cut_short_is_refused(saved: Path, name: str, kept_bytes: int) -> None:
    (saved / name).write_bytes((saved / name).read_bytes()[:kept_bytes])
    assert name in refusal(saved)


@pytest.mark.parametrize("name", [WEIGHTS, VOCAB, FACTS])
def test_a_missing_file_is_refused(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert f"no {name}" in refusal(saved)


def test_another_vocab_of_the_same_size_is_refused(saved: Path) -> None:
    texts = ["one two three four", "five six seven eight nine", "ten eleven twelve"]
    ours = Tokenizer.load(str(saved / VOCAB))
    (saved / VOCAB).write_bytes(tokenizer.train(texts, "bpe", ours.size, byte_fallback=False))
    assert "not the vocabulary" in refusal(saved)


@pytest.mark.parametrize("named", [5, None, {}, {"size": 3}, {"size": "3", "fingerprint": "a"}])
def test_facts_that_name_no_vocab_are_refused(saved: Path, named: object) -> None:
    facts = json.loads((saved / FACTS).read_text()) | {"vocab": named}
    (saved / FACTS).write_text(json.dumps(facts))
    assert "it does not say which vocabulary" in refusal(saved)
    (saved / FACTS).write_text("[" * 100_000)
    assert "is damaged" in refusal(saved)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("model", {"joint": 17}, "does not fit the model"),
        ("model", {"joind": 16}, "unknown key joind .did you mean joint"),
        ("model", {"encoder": "none"}, "model.encoder is 'none'"),
        ("model", {"predictor_hidden": 10**12}, "does not fit the model"),  # for want of memory
        ("frontend", {"mels": "many"}, "mels is 'many'"),
        ("frontend", {"mels": 10**12}, "mels is 1000000000000"),
        ("frontend", {"fft_samples": 2**40}, "fft_samples is 1099511627776"),
    ],
)
def test_facts_that_do_not_fit_are_refused(saved: Path, part: str, values: dict[str, object], message: str) -> None:
    facts = json.loads((saved / FACTS).read_text())
    facts[part] |= values
    (saved / FACTS).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint.load(str(saved))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "[]", "7"])
def test_facts_of_another_program_are_refused(saved: Path, text: str) -> None:
    (saved / FACTS).write_text(text)
    with pytest.raises(ValueError, match="it says no version"):
        checkpoint.load(str(saved))


def test_facts_without_what_a_bundle_needs_are_refused(saved: Path) -> None:
    (saved / FACTS).write_text('{"version": 1, "model": {}, "vocab": {}, "training": {}}')
    assert "is damaged (it says no weights_sha256, no frontend)" in refusal(saved)


def test_a_damaged_training_state_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"has no training\.safetensors"):
        checkpoint.load_training(str(saved))
    (saved / checkpoint.TRAINING_TENSORS).write_bytes(b"cut")
    (saved / checkpoint.TRAINING_FACTS).write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load_training(str(saved))
    (saved / checkpoint.TRAINING_TENSORS).write_bytes(safetensors.torch.save({}))
    (saved / checkpoint.TRAINING_FACTS).write_text("[]")
    with pytest.raises(ValueError, match=r"is damaged \(training\.json says nothing"):
        checkpoint.load_training(str(saved))


def with_training(folder: Path, bundle: Bundle) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What training goes on from, also saved beside the bundle."""
    training = {"momentum": torch.randn(50)}, {"position": {"step": 7}}
    checkpoint.save(str(folder), bundle, training)
    return training


@pytest.mark.parametrize("place", [9, -1], ids=["name", "number"])
def test_a_flipped_bit_in_the_training_state_is_refused(saved: Path, bundle: Bundle, place: int) -> None:
    with_training(saved, bundle)
    path = saved / checkpoint.TRAINING_TENSORS
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError) as refused:
        checkpoint.load_training(str(saved))
    assert str(refused.value) == (
        f"{saved}: is damaged (training.safetensors was cut short or altered since it was written); say --force in "
        "place of --resume to start over"
    )


@pytest.mark.parametrize("earlier", [False, True])
def test_a_training_state_comes_back_also_from_before_it_had_a_hash(saved: Path, bundle: Bundle, earlier: bool) -> None:
    tensors, facts = with_training(saved, bundle)
    if earlier:
        (saved / checkpoint.TRAINING_FACTS).write_text(json.dumps(facts))
    found_tensors, found = checkpoint.load_training(str(saved))
    assert found == facts and torch.equal(found_tensors["momentum"], tensors["momentum"])


def test_another_version_is_refused(saved: Path) -> None:
    facts = json.loads((saved / FACTS).read_text())
    (saved / FACTS).write_text(json.dumps(facts | {"version": 99}))
    assert "version 99" in refusal(saved)


def test_a_newer_bundle_takes_the_place_of_an_older_one(bundle: Bundle, saved: Path, tmp_path: Path) -> None:
    (saved / "of_the_old_one").write_text("")
    checkpoint.save(str(saved), with_step(bundle, 8))
    assert loaded_step(saved) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    assert not (saved / "of_the_old_one").exists()


def after_kill(point: str, bundle: Bundle, folder: Path) -> int:
    """Leave what `save` of step 8 over step 7 leaves when it is killed there; the step that must come back."""
    checkpoint.save(str(folder), with_step(bundle, 7))
    staged, previous = folder.with_name(storage.STAGING + folder.name), folder.with_name(folder.name + ".previous")
    newer = folder.with_name("newer")
    checkpoint.save(str(newer), with_step(bundle, 8))
    newer.rename(staged)
    if point == "half staged":
        (staged / FACTS).unlink()
    if point == "half of an older previous deleted":
        shutil.copytree(folder, previous)
        (previous / WEIGHTS).unlink()
    if point in ("old one moved away", "new one in place", "half of the previous deleted"):
        folder.rename(previous)
    if point in ("new one in place", "half of the previous deleted"):
        staged.rename(folder)
    if point == "half of the previous deleted":
        (previous / FACTS).unlink()
    return 8 if point in ("new one in place", "half of the previous deleted") else 7


KILLS = [
    "half staged", "all staged", "half of an older previous deleted", "old one moved away", "new one in place",
    "half of the previous deleted",
]  # fmt: skip


@pytest.mark.parametrize("point", KILLS)
def test_settle_mends_what_a_kill_left(bundle: Bundle, tmp_path: Path, point: str) -> None:
    folder = tmp_path / "last"
    step = after_kill(point, bundle, folder)
    for _ in range(2):  # a second time there is nothing to do
        checkpoint.settle(str(folder))
        assert loaded_step(folder) == step
        assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("point", KILLS)
def test_save_goes_on_from_what_a_kill_left(bundle: Bundle, tmp_path: Path, point: str) -> None:
    folder = tmp_path / "last"
    after_kill(point, bundle, folder)
    checkpoint.save(str(folder), with_step(bundle, 9))
    assert loaded_step(folder) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_settle_of_nothing_makes_nothing(tmp_path: Path) -> None:
    checkpoint.settle(str(tmp_path / "last"))
    assert list(tmp_path.iterdir()) == []


def test_a_restored_optimiser_takes_the_same_next_steps(bundle: Bundle, tmp_path: Path) -> None:
    def fresh(model: Transducer) -> tuple[Transducer, Optimisers]:
        return model, Optimisers(model, OptimConfig())

    model, optimisers = fresh(copy.deepcopy(bundle.model))
    trained(model, 3, optimisers)
    training: Training = optimisers.tensors(model), {"epoch": 2, "best_wer": None}
    checkpoint.save(str(tmp_path / "last"), Bundle(model, bundle.tokenizer, bundle.spec, {}), training)
    trained(model, 2, optimisers)

    tensors, facts = checkpoint.load_training(str(tmp_path / "last"))
    assert facts == {"epoch": 2, "best_wer": None}
    resumed, again = fresh(checkpoint.load(str(tmp_path / "last")).model)
    again.restore(resumed, tensors)
    trained(resumed, 2, again)
    for (name, ours), theirs in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    ours_after, theirs_after = (of.tensors(m) for m, of in ((model, optimisers), (resumed, again)))
    assert ours_after.keys() == theirs_after.keys()
    assert all(torch.equal(value, theirs_after[key]) for key, value in ours_after.items())


def test_an_optimisers_state_goes_to_the_device_of_its_parameters(make_model: Callable[..., Transducer]) -> None:
    """The meta device stands for a GPU. AdamW wants its step counts on the CPU wherever the parameters are."""
    model = make_model(mels=16)
    optimisers = Optimisers(model, OptimConfig())
    trained(model, 1, optimisers)
    tensors = optimisers.tensors(model)
    elsewhere = make_model(mels=16).to("meta")
    restored = Optimisers(elsewhere, OptimConfig())
    restored.restore(elsewhere, tensors)
    devices = {(key, value.device.type) for state in restored.parts[0].state.values() for key, value in state.items()}
    assert devices == {("step", "cpu"), ("exp_avg", "meta"), ("exp_avg_sq", "meta")}
