"""Checkpoints of online-speech-recognition become bundles that compute what that system did, and nothing else does."""

import argparse
import dataclasses
import io
import itertools
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import origin
import pytest
import torch
import yaml
from origin import PIECES, Arrays, Shape
from streams import recognise, rounded
from toys import Toy, write_toys

from asr import checkpoint, frontend, import_bundle, train
from asr.checkpoint import Bundle
from asr.engines.torch_engine import TorchEngine
from asr.recipe import TrainConfig
from asr.searching.greedy import MAX_SYMBOLS
from asr.training.session import identity_of
from asr.transducer import Transducer
from configs import load
from shards.index import open_shards
from shards.spec import FrontendSpec

SHAPES = {
    "LSTM": Shape(),
    "GRU, halved twice": Shape(cell="gru", reduce_after=(1, 3), window=320, hop=160),
    "one layer, never halved": Shape(layers=1, reduce_after=(), predictor_layers=1, window=320, hop=200),
}


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    files = ["--vocab", f"{folder}/v-vocab.json", "--merges", f"{folder}/v-merges.txt", "--out", str(out)]
    system = ["--from", "online-speech-recognition", "--config", f"{folder}/config.yaml"]
    return [f"{folder}/origin.ckpt", *system, *files, *more]


def imported(folder: Path, *more: str) -> Bundle:
    assert import_bundle.main(arguments(folder, folder / "out", *more)) == 0
    return checkpoint.load(str(folder / "out"))


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert import_bundle.main(arguments(folder, folder / "out", *more)) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("import-bundle: error: ")
    assert not (folder / "out").exists()
    return message


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays, Bundle]:
    """The inputs, their weights, and the bundle made of them."""
    folder = tmp_path_factory.mktemp("talker")
    weights = origin.write_inputs(folder, Shape(), seed=5)
    return folder, weights, imported(folder)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("form", ["model", "lightning", "old"])
def test_the_model_computes_what_it_did(name: str, form: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    weights = origin.write_inputs(tmp_path, shape, form)
    bundle = imported(tmp_path)
    feats_tf = np.random.default_rng(1).normal(-6, 3, (4 * 12, shape.mels)).astype(np.float32)
    tokens = [5, 40, 7, 60, 60, 3]
    model = bundle.model
    assert isinstance(model, Transducer)
    with torch.inference_mode():
        enc_bte, _ = model.encoder.step(model.normalise(torch.from_numpy(feats_tf[None])), model.encoder.init_state(1))
        pred_bup, _ = model.predictor(torch.tensor([[2, *tokens]]), None)
    expected_te, expected_up = origin.encode(feats_tf, weights, shape), origin.predict(tokens, weights, shape)
    np.testing.assert_allclose(enc_bte[0].numpy(), expected_te, rtol=0, atol=1e-5)
    np.testing.assert_allclose(pred_bup[0].numpy(), expected_up, rtol=0, atol=1e-5)
    # the joiner by the calls that searches make: from the start of an utterance, and behind its first tokens
    engine = TorchEngine(model)
    enc_bnj, _ = engine.encode(feats_tf[None], engine.encoder_start(1))
    pred_bj, state = engine.predictor_start(1)
    for u, token in enumerate(tokens):
        logits = origin.join(expected_te[1], expected_up[u], weights)
        expected_v = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        np.testing.assert_allclose(engine.join(enc_bnj[:, 1], pred_bj)[0], expected_v, rtol=0, atol=1e-5)
        with torch.inference_mode():
            joined = model.output(torch.tanh(torch.from_numpy(enc_bnj[0, 1] + pred_bj[0]))).numpy()
        np.testing.assert_allclose(joined, logits, rtol=0, atol=1e-5)
        pred_bj, state = engine.predict(np.array([token]), state)


def test_what_training_minimises_starts_with_its_token(talker: tuple[Path, Arrays, Bundle]) -> None:
    """The transducer's loss (Graves 2012, section 2.4) of the float64 model, whose sequences begin with bos."""
    _folder, weights, bundle = talker
    feats_tf = np.random.default_rng(2).normal(-6, 3, (18, 80)).astype(np.float32)
    targets = [40, 5, 60]
    enc_te, pred_up = origin.encode(feats_tf, weights, Shape()), origin.predict(targets, weights, Shape())
    alpha_tu = np.full((len(enc_te) + 1, len(pred_up)), -np.inf)
    alpha_tu[0, 0] = 0.0
    for t, enc_e in enumerate(enc_te):
        for u, pred_p in enumerate(pred_up):
            logits = origin.join(enc_e, pred_p, weights)
            logp_v = logits - np.log(np.exp(logits).sum())
            alpha_tu[t + 1, u] = np.logaddexp(alpha_tu[t + 1, u], alpha_tu[t, u] + logp_v[0])
            if u < len(targets):
                alpha_tu[t, u + 1] = np.logaddexp(alpha_tu[t, u + 1], alpha_tu[t, u] + logp_v[targets[u]])
    model = bundle.model
    assert isinstance(model, Transducer)
    losses = model(torch.from_numpy(feats_tf[None]), torch.tensor([18]), torch.tensor([targets]), torch.tensor([3]))
    assert losses.total.item() == pytest.approx(-alpha_tu[-1, -1], rel=1e-5)


def librosa_features(samples: np.ndarray, shape: Shape) -> np.ndarray:
    emphasised = np.append(samples[:1], samples[1:] - 0.97 * samples[:-1]).astype(np.float64)
    power = np.abs(librosa.stft(emphasised, n_fft=512, hop_length=shape.hop, win_length=shape.window, center=True,
                                window=np.hanning(shape.window), pad_mode="reflect")) ** 2  # fmt: skip
    return np.log(librosa.filters.mel(sr=16000, n_fft=512, n_mels=shape.mels, dtype=np.float64) @ power + 1e-20).T


def test_words_are_those_of_the_whole_path_in_float64_however_they_stream(
    talker: tuple[Path, Arrays, Bundle], hum: np.ndarray
) -> None:
    _folder, weights, bundle = talker
    hum = hum[:12345]
    tokens = origin.greedy(librosa_features(hum, Shape()), weights, Shape(), MAX_SYMBOLS)
    expected = bundle.tokenizer.decode(tokens)
    assert len(expected.split()) > 3
    whole = recognise(bundle, [hum])
    assert " ".join(word.text for word in whole).split() == expected.split()
    for size in (100, 3200, 7777):
        assert rounded(recognise(bundle, np.split(hum, range(size, len(hum), size)))) == rounded(whole)


def test_words_end_where_their_last_piece_does(talker: tuple[Path, Arrays, Bundle], hum: np.ndarray) -> None:
    words = recognise(talker[2], [hum])
    assert all(earlier.start_s <= later.start_s for earlier, later in itertools.pairwise(words))
    assert all(word.end_s > word.start_s for word in words)


def test_the_bundle_is_trained_on(talker: tuple[Path, Arrays, Bundle], tmp_path: Path, hum: np.ndarray) -> None:
    """With the configs that were left beside it, on shards of its features."""
    folder, _weights, bundle = talker
    feats_tf = frontend.logmel(hum[:16000], bundle.spec)
    texts = ["the cat sat on the mat", "a dog on the cat"]
    write_toys(tmp_path / "s", [Toy(f"u{i}", texts[i % 2], feats_tf) for i in range(4)], bundle.spec, "logmel", 2)
    out = folder / "out"
    command = ["--config", f"{out}/train.yaml", "--shards", f"{tmp_path}/s", "--vocab", f"{out}/vocab.model", "--out",
               f"{tmp_path}/run", "--init-from", str(out), "epochs=1", "precision=fp32"]  # fmt: skip
    assert train.main(command) == 0
    trained = checkpoint.load(f"{tmp_path}/run/last")
    moved = [
        (ours - theirs).abs().max() for ours, theirs in zip(
            bundle.model.state_dict().values(), trained.model.state_dict().values(), strict=True
        )
    ]  # fmt: skip
    assert 0 < max(moved) < 0.1
    assert '"start_token": 2' in (tmp_path / "run" / "last" / "training.json").read_text()
    assert yaml.safe_load((out / "frontend.yaml").read_text())["definition"] == "librosa"
    assert trained.spec == bundle.spec == FrontendSpec(hop_samples=320, low_hz=0.0, window="hann", definition="librosa")


def without(key: str) -> Callable[[Arrays], None]:
    return lambda weights: weights.__delitem__(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("decoder.proj.bias"), "it lacks decoder.proj.bias"),
        (lambda weights: weights.update(extra=np.zeros(2)), "it has beside them extra"),
        (lambda weights: weights.update({"encoder.proj.bias": np.zeros(7)}),
         "of another shape are encoder.proj.bias ([7], by the config [12])"),
        (lambda weights: weights.update({"encoder.proj.bias": np.full(12, np.nan)}),
         "has weights that are not finite"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(
    change: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = origin.write_inputs(tmp_path, Shape())
    change(weights)
    origin.save(tmp_path / "origin.ckpt", weights)
    assert message in refusal(tmp_path, capsys)


def test_another_config_is_named_weight_by_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin.write_inputs(tmp_path, Shape())
    message = refusal(tmp_path, capsys, "model.encoder_options.layers=4", "model.joint=15")
    assert "it lacks encoder.lstm.lstms.3.weight_ih_l0" in message and " and 3 more" in message
    assert "joint.joint.0.weight ([14, 20], by the config [15, 20])" in message
    message = refusal(tmp_path, capsys, "model.encoder_options.cell=gru")
    assert "encoder.lstm.lstms.0.weight_ih_l0 ([80, 240], by the config [60, 240])" in message
    assert "start_token" not in message and "choose such a config" in refusal(tmp_path, capsys, "model.kind=ctc")


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "run")


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_that_would_run_code_is_refused(
    old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = origin.write_inputs(tmp_path, Shape())
    values = {
        "model": {key: torch.from_numpy(value.astype(np.float32)) for key, value in weights.items()},
        "hook": Evil(tmp_path / "ran"),
    }
    torch.save(values, tmp_path / "origin.ckpt", _use_new_zipfile_serialization=not old)
    assert "might run code" in refusal(tmp_path, capsys)
    assert not (tmp_path / "ran").exists()


def test_lightnings_options_are_passed_over(tmp_path: Path) -> None:
    weights = origin.write_inputs(tmp_path, Shape())
    tensors = {f"model.{key}": torch.from_numpy(value.astype(np.float32)) for key, value in weights.items()}
    torch.save({"state_dict": tensors, "hyper_parameters": argparse.Namespace(lr=0.1)}, tmp_path / "origin.ckpt")
    assert imported(tmp_path).model.config.start_token == 2


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"<html>not found</html>"])
def test_what_is_no_checkpoint_is_refused(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin.write_inputs(tmp_path, Shape())
    (tmp_path / "origin.ckpt").write_bytes(data)
    assert "is no checkpoint that torch.save wrote" in refusal(tmp_path, capsys)
    file = io.BytesIO()
    torch.save({"weights": {}}, file)
    (tmp_path / "origin.ckpt").write_bytes(file.getvalue())
    assert "has neither 'model' nor 'state_dict'" in refusal(tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v-vocab.json", "[]", "is no vocabulary from piece to id"),
        ("v-vocab.json", '{"a": 0, "b": 2}', "without a gap"),
        ("v-merges.txt", "t h\nz z\n", "line 2: 'z z' makes no piece"),
        ("v-merges.txt", "th\n", "line 1: 'th' makes no piece"),
    ],
)
def test_files_of_no_tokenizer_are_refused(
    name: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin.write_inputs(tmp_path, Shape())
    (tmp_path / name).write_text(text)
    assert message in refusal(tmp_path, capsys)


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin.write_inputs(tmp_path, Shape())
    (tmp_path / "v-vocab.json").write_text(json.dumps({p: i for i, p in enumerate([*PIECES, "é"])}))
    size = len(PIECES)
    assert f"decoder.embed.weight ([{size}, 6], by the config [{size + 1}, 6])" in refusal(tmp_path, capsys)


def test_a_folder_that_is_there_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin.write_inputs(tmp_path, Shape())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    for more in ([], ["--force"]):
        assert import_bundle.main(arguments(tmp_path, tmp_path / "out", *more)) == 1
        assert "is there already" in capsys.readouterr().err
    first = imported_to(tmp_path, "other", seed=0)
    assert import_bundle.main(arguments(tmp_path, tmp_path / "other")) == 1
    assert imported_to(tmp_path, "other", 1, "--force") != first


def imported_to(folder: Path, name: str, seed: int, *more: str) -> str:
    origin.save(folder / "origin.ckpt", origin.state_dict(dataclasses.replace(Shape()), seed))
    assert import_bundle.main(arguments(folder, folder / name, *more)) == 0
    return checkpoint.weights_sha256(str(folder / name))


class Payload:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("form", ["zip", "old", "plain"])
def test_what_a_checkpoint_would_run_is_not_run(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    origin.write_inputs(tmp_path, Shape())
    values, path = {"model": {}, "more": Payload(f"{tmp_path}/ran")}, tmp_path / "origin.ckpt"
    if form == "plain":
        path.write_bytes(pickle.dumps(values))
    else:
        torch.save(values, path, _use_new_zipfile_serialization=form == "zip")
    message = refusal(tmp_path, capsys)
    assert form == "plain" or "holds posix.mkdir beside its weights" in message
    assert not (tmp_path / "ran").exists() and not recwarn.list
    if form == "plain":
        pickle.loads(path.read_bytes())  # noqa: S301, to see that it would
        assert (tmp_path / "ran").exists()


def test_one_bit_turned_over_in_the_weights_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin.write_inputs(tmp_path, Shape())
    data = bytearray((tmp_path / "origin.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "origin.ckpt").write_bytes(data)
    assert "cut short or altered (the checksum of its part" in refusal(tmp_path, capsys)


def test_parameters_and_halves_are_weights_too(tmp_path: Path, talker: tuple[Path, Arrays, Bundle]) -> None:
    weights = origin.write_inputs(tmp_path, Shape(), seed=5)
    tensors = {key: torch.nn.Parameter(torch.from_numpy(value).float()) for key, value in weights.items()}
    torch.save({"model": tensors}, tmp_path / "origin.ckpt")
    mine, expected = imported(tmp_path).model.state_dict(), talker[2].model.state_dict()
    assert all(torch.equal(mine[key], value) for key, value in expected.items())
    torch.save({"model": {key: value.data.bfloat16() for key, value in tensors.items()}}, tmp_path / "origin.ckpt")
    imported(tmp_path, "--force")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda tensor: [1.0],
    ],
)
def test_what_is_no_plain_tensor_is_named(
    change: Callable[[torch.Tensor], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = origin.write_inputs(tmp_path, Shape())
    tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in weights.items()}
    tensors["encoder.proj.weight"] = change(tensors["encoder.proj.weight"])
    torch.save({"model": tensors}, tmp_path / "origin.ckpt")
    assert "encoder.proj.weight is no tensor of floating-point numbers" in refusal(tmp_path, capsys)


def test_a_run_is_resumed_with_the_start_token_that_it_began_with(shard_folder: Path, bundle: Bundle) -> None:
    """Runs that began before there was a choice say nothing of it, and had blank."""
    shards = open_shards(str(shard_folder))
    config = TrainConfig(frontend="default")
    then, now, other = (
        identity_of(replace(config, model=replace(config.model, **given)), "fp32", bundle.tokenizer, shards, None)
        for given in ({}, {"start_token": 0}, {"start_token": 2})
    )
    assert then == now and "start_token" not in then["config"]["model"]
    assert load.differences(then, other) == ["config.model.start_token not set then, 2 now"]


def test_merges_that_were_cut_short_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin.write_inputs(tmp_path, Shape())
    lines = (tmp_path / "v-merges.txt").read_text().splitlines(keepends=True)
    (tmp_path / "v-merges.txt").write_text("".join(lines[:-2]))
    assert "has no merge that makes 'sat</w>'" in refusal(tmp_path, capsys)
