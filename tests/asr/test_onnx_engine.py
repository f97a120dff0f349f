"""Every encoder and kind of model, exported: the runtimes say what PyTorch says, frame by frame, with their states."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.ctc import Ctc
from asr.engine import Engine, Floats, State
from asr.engines import exported
from asr.engines.exported import Precision, Runtime
from asr.engines.torch_engine import TorchEngine
from asr.exporting import cells
from asr.exporting.cells import unrolled
from asr.exporting.graphs import Graphs, make_graphs
from asr.exporting.parity import BOUNDS, encoder_states, predictor_states
from asr.exporting.precision import files_of
from asr.model_config import ModelConfig
from asr.models import Model, make_model
from asr.recogniser import encoder_names
from manifests import storage
from shards.spec import FrontendSpec

SPEC = FrontendSpec(mels=8)
VOCAB = 12
STEPS = 2  # chunks in a step
SMALL: dict[str, list[dict[str, Any]]] = {  # an encoder that is not named here is exported as it comes
    "lstm": [
        {"layers": 3, "hidden": 16, "projection": 12},
        {"layers": 2, "hidden": 16, "projection": 12, "cell": "gru", "stack": 2, "reduce_after": []},
    ],
    "conformer": [{"layers": 2, "width": 16, "heads": 2, "channels": 4, "left": 9, "chunk": 2}],
}
PREDICTORS: list[dict[str, Any]] = [
    {"kind": "ctc"},
    {"predictor": "lstm", "predictor_layers": 2, "start_token": 2},
    {"predictor": "stateless", "predictor_context": 3},
]
MODELS = [
    (name, options, parts) for name in encoder_names() for options in SMALL.get(name, [{}]) for parts in PREDICTORS
]


def model_of(name: str, options: dict[str, Any], parts: dict[str, Any]) -> Model:
    torch.manual_seed(2)
    sizes = {"embedding": 8, "predictor_hidden": 16, "predictor_projection": 12, "joint": 16, "tail_frames": 1}
    model = make_model(ModelConfig(name, options, **sizes | parts), SPEC.mels, VOCAB)
    model.set_normalisation(torch.linspace(-3, 0, SPEC.mels), torch.full((SPEC.mels,), 2.3))
    return model.eval()


NAMES = ["-".join([name, options.get("cell", ""), *map(str, parts.values())]) for name, options, parts in MODELS]
every_model = pytest.mark.parametrize("i", range(len(MODELS)), ids=NAMES)
Open = Callable[..., tuple[TorchEngine, Engine]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Both engines of a model; its graphs are made once."""
    made: dict[int, tuple[TorchEngine, Graphs]] = {}

    def open_both(i: int, runtime: Runtime, precision: Precision) -> tuple[TorchEngine, Engine]:
        if i not in made:
            ours = TorchEngine(model_of(*MODELS[i]))
            made[i] = ours, make_graphs(ours.model, SPEC, step_of(ours))
        ours, graphs = made[i]
        return ours, open_export(tmp_path_factory.mktemp("export"), ours, graphs, runtime, precision)

    return functools.cache(open_both)


def step_of(ours: TorchEngine) -> int:
    return STEPS * ours.traits.reduction * ours.traits.chunk


def open_export(
    folder: Path, ours: TorchEngine, graphs: Graphs, runtime: Runtime, precision: Precision, step: int = 0
) -> Engine:
    files = files_of(graphs, runtime, precision)
    for file, data in files.items():
        storage.write_bytes(str(folder / file), data)
    facts = {
        "runtime": runtime,
        "precision": precision,
        "traits": asdict(replace(ours.traits, step_frames=step or step_of(ours))),
        "mean_f": ours.mean_f.tolist(),
        "encoder_state": graphs.encoder_state,
        "predictor_state": graphs.predictor_state,
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
    }
    return exported.open_engine(str(folder), facts)


def features(batch: int, frames: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(-2, 1.5, (batch, frames, SPEC.mels)).astype(np.float32)


def assert_same_states(ours: State, theirs: State, atol: float) -> None:
    kept = [array for array in map(np.asarray, ours) if array.size]
    assert len(kept) == len(theirs)
    for a, b in zip(kept, map(np.asarray, theirs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=0, atol=atol)


EXPORTS: list[tuple[int, Runtime, Precision]] = [
    *((i, "onnx", "fp32") for i in range(len(MODELS))),
    *((i, "onnx", "int8") for i in range(len(MODELS)) if MODELS[i][2].get("predictor") == "lstm"),
    *((i, "openvino", "fp32") for i in range(len(MODELS)) if MODELS[i][2].get("predictor") == "stateless"),
]


@pytest.mark.parametrize(
    ("i", "runtime", "precision"),
    EXPORTS,
    ids=[f"{NAMES[i]}-{runtime}-{precision}" for i, runtime, precision in EXPORTS],
)
def test_it_says_what_pytorch_says(opened: Open, i: int, runtime: Runtime, precision: Precision) -> None:
    """Encoder frames and states of one and of three streams, over several steps; tokens and log-probabilities."""
    ours, theirs = opened(i, runtime, precision)
    atol = 2e-5 if precision == "fp32" else 0.1
    assert theirs.traits == replace(ours.traits, step_frames=theirs.traits.step_frames)
    for batch in (1, 3):
        feats_btf = features(batch, 4 * theirs.traits.step_frames)
        a, b = ours.encoder_start(batch), theirs.encoder_start(batch)
        for part_btf in np.split(feats_btf, 4, axis=1):
            enc_a, a = ours.encode(part_btf, a)
            enc_b, b = theirs.encode(part_btf, b)
            np.testing.assert_allclose(enc_b, enc_a, rtol=0, atol=atol)
            assert_same_states(a, b, atol)
        if ours.traits.kind == "ctc":
            np.testing.assert_allclose(np.exp(theirs.join(enc_b[:, 0], None)).sum(-1), 1, atol=1e-3)
            continue
        (pred_a, a), (pred_b, b) = ours.predictor_start(batch), theirs.predictor_start(batch)
        for tokens_b in np.random.default_rng(3).integers(1, VOCAB, (5, batch)):
            np.testing.assert_allclose(pred_b, pred_a, rtol=0, atol=atol)
            assert_same_states(a, b, atol)
            np.testing.assert_allclose(theirs.join(enc_b[:, 0], pred_b), ours.join(enc_a[:, 0], pred_a), atol=2 * atol)
            pred_a, a = ours.predict(tokens_b, a)
            pred_b, b = theirs.predict(tokens_b, b)


@every_model
def test_steps_may_be_cut_and_streams_joined_as_one_likes(opened: Open, i: int) -> None:
    """Many steps at once, one by one, and streams that share a batch for a while give the same frames."""
    _, engine = opened(i, "onnx", "fp32")
    step = engine.traits.step_frames
    feats_btf = features(2, 3 * step + engine.traits.reduction)  # the last step is short, as at an utterance's end
    whole_bnj, _ = engine.encode(feats_btf, engine.encoder_start(2))
    assert whole_bnj.shape[1] * engine.traits.reduction == feats_btf.shape[1]
    states = [engine.encoder_start(1), engine.encoder_start(1)]
    first = [engine.encode(feats_btf[b : b + 1, :step], states[b]) for b in range(2)]
    second_bnj, both = engine.encode(feats_btf[:, step : 2 * step], engine.stack([state for _, state in first]))
    rest = [engine.encode(feats_btf[b : b + 1, 2 * step :], state)[0] for b, state in enumerate(engine.unstack(both))]
    pieces = [np.concatenate([first[b][0], second_bnj[b : b + 1], rest[b]], 1) for b in range(2)]
    np.testing.assert_allclose(np.concatenate(pieces), whole_bnj, rtol=0, atol=1e-5)


@every_model
def test_a_short_end_is_what_pytorch_makes_of_it(opened: Open, i: int) -> None:
    """The frames that fill up the last step change nothing in those before them."""
    ours, theirs = opened(i, "onnx", "fp32")
    feats_btf = features(1, theirs.traits.step_frames + ours.traits.reduction)
    a, _ = ours.encode(feats_btf, ours.encoder_start(1))
    b, _ = theirs.encode(feats_btf, theirs.encoder_start(1))
    np.testing.assert_allclose(b, a, rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_states_stay_close_over_a_hundred_steps(opened: Open, runtime: Runtime, precision: Precision) -> None:
    i = next(i for i, (name, _, parts) in enumerate(MODELS) if (name, parts.get("predictor")) == ("lstm", "lstm"))
    ours, theirs = opened(i, runtime, precision)
    names = [f"state_{k}" for k in range(6)]
    found = encoder_states(ours, theirs, features(1, 500)[0], names, 100)
    found |= predictor_states(ours, theirs, names[:2], 100)
    assert max(found.values()) < BOUNDS[precision]
    assert (max(found.values()) > 1e-5) == (precision == "fp16")  # it was rounded, and only where that was asked for


def test_an_encoder_without_memory_of_its_own_can_be_exported(opened: Open, tmp_path: Path) -> None:
    """States that hold nothing are no inputs of the graph."""
    options = {"layers": 1, "width": 8, "heads": 1, "channels": 2, "left": 0, "kernel": 1, "chunk": 1}
    model = model_of("conformer", options, {"predictor": "stateless", "predictor_context": 1})
    assert not isinstance(model, Ctc)
    ours = TorchEngine(model)
    graphs = make_graphs(model, SPEC, step_of(ours))
    with pytest.raises(ValueError, match=r"OpenVINO cannot read the encoder .*; say --to onnx"):
        files_of(replace(graphs, onnx={"encoder": graphs.onnx["encoder"]}), "openvino", "fp32")
    theirs = open_export(tmp_path, ours, graphs, "onnx", "fp32")
    assert len(theirs.encoder_start(1)) == 2 and theirs.predictor_start(2)[1] == ()
    feats_btf = features(2, 40)
    a, _ = ours.encode(feats_btf, ours.encoder_start(2))
    b, _ = theirs.encode(feats_btf, theirs.encoder_start(2))
    np.testing.assert_allclose(b, a, rtol=0, atol=2e-5)
    tokens_b = np.array([3, 7])
    a, b = (engine.predict(tokens_b, engine.predictor_start(2)[1])[0] for engine in (ours, theirs))
    np.testing.assert_allclose(b, a, rtol=0, atol=2e-5)


WIDE_MODELS: list[dict[str, Any]] = [
    {"layers": 3, "hidden": 32, "projection": 12},
    {"layers": 2, "hidden": 32, "projection": 12, "cell": "gru", "stack": 2, "reduce_after": []},
]


@pytest.mark.parametrize("options", WIDE_MODELS, ids=["lstm", "gru"])
def test_recurrent_layers_as_products_are_the_same_in_float32(options: dict[str, Any]) -> None:
    ours = TorchEngine(model_of("lstm", options, PREDICTORS[1]))
    theirs = TorchEngine(unrolled(ours.model))
    assert not any(isinstance(module, torch.nn.RNNBase) for module in theirs.model.modules())
    feats_btf, tokens_b = features(3, 5 * ours.traits.reduction), np.array([1, 4, 2])
    enc_bnj, state = ours.encode(feats_btf, ours.encoder_start(3))
    again_bnj, again = theirs.encode(feats_btf, theirs.encoder_start(3))
    np.testing.assert_allclose(again_bnj, enc_bnj, rtol=0, atol=1e-5)
    assert_same_states(state, again, 1e-5)
    pred_bj, state = ours.predict(tokens_b, ours.predictor_start(3)[1])
    again_bj, again = theirs.predict(tokens_b, theirs.predictor_start(3)[1])
    np.testing.assert_allclose(again_bj, pred_bj, rtol=0, atol=1e-5)
    assert_same_states(state, again, 1e-5)


@pytest.mark.parametrize("options", WIDE_MODELS, ids=["lstm", "gru"])
def test_wide_layers_in_short_steps_are_rounded_by_rows(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stream gets does not depend on who shares its batch, however loud."""
    monkeypatch.setattr(cells, "WIDE", 32)
    ours = TorchEngine(model_of("lstm", options, PREDICTORS[1]))
    step = ours.traits.reduction
    graphs = make_graphs(ours.model, SPEC, step, "int8")
    assert graphs.products and not make_graphs(ours.model, SPEC, 2 * step, "int8").products
    theirs = open_export(tmp_path, ours, graphs, "onnx", "int8", step)
    feats_btf = features(3, 8 * step)
    enc_bnj, state = ours.encode(feats_btf, ours.encoder_start(3))
    rounded_bnj, rounded = theirs.encode(feats_btf, theirs.encoder_start(3))
    largest = np.abs(enc_bnj).max()
    assert 1e-5 * largest < np.abs(rounded_bnj - enc_bnj).max() < BOUNDS["int8"] * largest
    assert_same_states(state, rounded, BOUNDS["int8"])
    loud_btf = np.concatenate([feats_btf[:1], 30 * feats_btf[1:]])
    beside_bnj, _ = theirs.encode(loud_btf, theirs.encoder_start(3))
    np.testing.assert_allclose(beside_bnj[0], rounded_bnj[0], rtol=0, atol=1e-4 * largest)
