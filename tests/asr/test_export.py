"""export-asr from its command line to words: what it writes, what it refuses, and that recognition needs no PyTorch."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import bundle as bundles
from asr import checkpoint, export, runtimes, stream
from asr.checkpoint import Bundle
from asr.engine import Floats
from asr.engines import exported
from asr.engines.torch_engine import TorchEngine
from asr.exporting.graphs import make_graphs
from asr.exporting.parity import Parity, features, synthetic, transcript
from asr.model_config import ModelConfig
from asr.models import make_model
from asr.recogniser import make_encoder
from asr.stream import Listener
from manifests import storage
from shards.spec import FrontendSpec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, hum: Floats) -> Path:
    """A bundle as `best`, two seconds of sound as `hum.wav`, and the export of the bundle to ONNX as `onnx`."""
    folder = tmp_path_factory.mktemp("export")
    checkpoint.save(str(folder / "best"), bundle)
    soundfile.write(folder / "hum.wav", hum, 16000, subtype="FLOAT")
    assert (
        run(folder, "--to", "onnx", "--chunk-ms", "100", "--out", f"{folder}/onnx", "--audio", f"{folder}/hum.wav") == 0
    )
    return folder


def run(folder: Path, *argv: str) -> int:
    return export.main(["--bundle", f"{folder}/best", *argv])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ended with."""
    _, _, line = capsys.readouterr().err.strip().rpartition("\n")
    return line


def test_the_folder_says_what_its_graphs_take(folder: Path, bundle: Bundle) -> None:
    facts = exported.read_facts(str(folder / "onnx"))
    assert facts["runtime"] == "onnx" and facts["precision"] == "fp32"
    assert facts["chunk_ms"] == 120  # 100 ms, rounded up to whole encoder frames of 60
    assert facts["traits"]["step_frames"] == 12
    assert facts["mean_f"] == [-2.0] * 16
    assert facts["encoder_state"] == [[f"state_{i}", [1, 16], "float32"] for i in range(4)]
    assert facts["source"]["weights_sha256"] == checkpoint.weights_sha256(str(folder / "best"))
    assert bundles.read_tokenizer(str(folder / "onnx"), facts).fingerprint == bundle.tokenizer.fingerprint
    assert bundles.read_spec(str(folder / "onnx"), facts) == bundle.spec
    assert {path.name for path in (folder / "onnx").iterdir()} == {
        "export.json", "vocab.model", "frontend.onnx", "encoder.onnx", "predictor.onnx", "joiner.onnx"
    }  # fmt: skip
    parity = Parity(**facts["parity"])
    assert parity.steps == 1000 and parity.files == 1 and parity.words > 0 and parity.words_differing == 0
    assert max(*parity.encoder.values(), *parity.predictor.values()) < 1e-5 and parity.features < 1e-3


@pytest.mark.parametrize("chunk", [160, 1000, 32000])
def test_streams_say_the_words_that_pytorch_says(folder: Path, bundle: Bundle, hum: Floats, chunk: int) -> None:
    """Also with a pause that makes them start anew, and with several at once."""
    theirs = runtimes.open_listener(str(folder / "onnx"), "onnx")
    ours = Listener(TorchEngine(bundle.model), bundle.tokenizer, bundle.spec, endpoints=None)
    samples = np.concatenate([hum, np.zeros(48000, np.float32), hum[:20000]])
    assert transcript(theirs, samples, chunk) == transcript(ours, samples, chunk) != ""


def test_streams_of_a_batch_say_what_each_says_alone(folder: Path, hum: Floats) -> None:
    listener = runtimes.open_listener(str(folder / "onnx"))
    states = [stream.accept(listener, hum[start:], stream.start(listener)) for start in (0, 3000, 9000)]
    words: list[list[str]] = [[], [], []]
    while all(stream.ready(listener, state) for state in states):
        for i, (update, state) in enumerate(stream.step_batch(listener, states)):
            words[i] += [word.text for word in update.final]
            states[i] = state
    for i, start in enumerate((0, 3000, 9000)):
        update, state = stream.step(listener, np.empty(0, np.float32), states[i])
        words[i] += [word.text for word in [*update.final, *stream.finish(listener, state).final]]
        assert " ".join(words[i]) == transcript(listener, hum[start:], 1600)


def test_recognition_needs_no_torch(folder: Path, bundle: Bundle, hum: Floats) -> None:
    code = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio", "onnx", "openvino", "ray"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
from asr import audio, runtimes, stream
import asr.engines.onnx_engine, asr.engines.graph_engine
listener = runtimes.open_listener(sys.argv[1])
update, state = stream.step(listener, audio.read(sys.argv[2]), stream.start(listener))
print(" ".join(word.text for word in [*update.final, *stream.finish(listener, state).final]))
"""
    argv = [sys.executable, "-c", code, str(folder / "onnx"), str(folder / "hum.wav")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ours = Listener(TorchEngine(bundle.model), bundle.tokenizer, bundle.spec, endpoints=None)
    assert done.stdout.strip() == transcript(ours, hum, len(hum))


@pytest.mark.parametrize("name", ["encoder.onnx", "joiner.onnx", "vocab.model", "export.json"])
@pytest.mark.parametrize("fault", ["cut", "altered", "missing"])
def test_a_folder_that_is_not_whole_is_refused(folder: Path, tmp_path: Path, name: str, fault: str) -> None:
    damaged = tmp_path / "onnx"
    shutil.copytree(folder / "onnx", damaged)
    data = bytearray((damaged / name).read_bytes())
    data[len(data) // 2] ^= 1
    if fault == "missing":
        (damaged / name).unlink()
    elif (fault, name) == ("altered", "export.json"):
        (damaged / name).write_text((damaged / name).read_text().replace('"traits"', '"trials"'))
    else:
        (damaged / name).write_bytes(bytes(data[: len(data) // 2] if fault == "cut" else data))
    with pytest.raises(ValueError, match=name if (fault, name) != ("missing", "export.json") else "bundle") as caught:
        runtimes.open_listener(str(damaged), "onnx")
    assert "\n" not in str(caught.value)


def test_a_vocabulary_of_another_model_and_a_newer_version_are_refused(
    folder: Path, tmp_path: Path, bundle: Bundle
) -> None:
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    facts = json.loads((tmp_path / "onnx/export.json").read_text())
    (tmp_path / "onnx/export.json").write_text(json.dumps(facts | {"version": 2}))
    with pytest.raises(ValueError, match=r"is an export of version 2, this program reads 1"):
        runtimes.open_listener(str(tmp_path / "onnx"))
    (tmp_path / "onnx/export.json").write_text(
        json.dumps(facts | {"vocab": facts["vocab"] | {"fingerprint": "0" * 12}})
    )
    with pytest.raises(ValueError, match=r"vocab\.model: is not the vocabulary"):
        runtimes.open_listener(str(tmp_path / "onnx"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["traits", "step_frames"], 0, "its traits cannot be"),
        (["traits", "step_frames"], 18, "cannot run it"),  # a multiple, but not what the graph takes
        (["traits", "reduction"], 0, "reduction is 0"),
        (["traits", "tail_frames"], 10**9, "tail_frames is 1000000000"),
        (["traits", "start_token"], -1, "start_token is -1"),
        (["traits", "kind"], "ctc", "cannot run it"),
        (["traits"], None, "expected keys with values"),
        (["runtime"], "x", "its runtime cannot be"),
        (["vocab"], [], "its vocab cannot be"),
        (["vocab", "size"], 3, "its vocab cannot be"),
        (["mean_f"], [0.0], "its mean_f cannot be"),
        (["frontend", "mels"], 80, "its mean_f cannot be"),
        (["encoder_state", 0, 1], [10**7, 10**7], "its encoder_state cannot be"),
        (["encoder_state", 0, 1], [1, 7], "cannot run it"),
        (["encoder_state", 0], "x", "its encoder_state cannot be"),
        (["predictor_state"], [], "cannot run it"),
        (["files"], 3, "its files cannot be"),
        (["files", "../best/bundle.json"], "0" * 64, "its files cannot be"),
        (["source"], None, "its source cannot be"),
    ],
)
def test_an_export_json_that_was_edited_is_one_line(
    folder: Path, tmp_path: Path, path: list, value: object, message: str
) -> None:
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    facts = json.loads((tmp_path / "onnx/export.json").read_text())
    inner = facts
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "onnx/export.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=message) as caught:
        runtimes.open_listener(str(tmp_path / "onnx"))
    assert str(caught.value).startswith(f"{tmp_path}/onnx") and "\n" not in str(caught.value)


@pytest.mark.parametrize("graph", ["encoder.onnx", "predictor.onnx", "joiner.onnx"])
@pytest.mark.parametrize("data", [b"", b"\0" * 1000, b"another"])
def test_a_graph_that_is_none_is_one_line(
    folder: Path, tmp_path: Path, graph: str, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its hash is right: somebody made this folder. `another` is a graph that takes something else."""
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    data = (folder / "onnx/frontend.onnx").read_bytes() if data == b"another" else data
    facts = json.loads((tmp_path / "onnx/export.json").read_text())
    facts["files"][graph] = hashlib.sha256(data).hexdigest()
    (tmp_path / "onnx" / graph).write_bytes(data)
    (tmp_path / "onnx/export.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="onnx cannot run it") as caught:
        runtimes.open_listener(str(tmp_path / "onnx"))
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""


def test_an_export_is_for_its_runtime(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"was exported for --runtime onnx, not for openvino"):
        runtimes.open_listener(str(folder / "onnx"), "openvino")


def test_an_int8_export_takes_the_place_of_another(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a synthetic signal, whose words mean nothing, differing ones are said and fail nothing."""
    shutil.copytree(folder / "onnx", tmp_path / "out")
    assert run(folder, "--to", "onnx", "--precision", "int8", "--out", f"{tmp_path}/out", "--force", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["parity"]["files"] == 0 and values["parity"]["words"] > 0
    assert 1e-4 < max(values["parity"]["encoder"].values()) < 0.3
    assert values["onnx"]["encoder_ms"] > 0 and values["torch"]["audio_s_per_s"] > 0
    facts = exported.read_facts(f"{tmp_path}/out")
    assert facts["precision"] == "int8" and b"DynamicQuantizeLSTM" in (tmp_path / "out/encoder.onnx").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_says_other_words_is_not_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random model is unsure of all it says: in eight bits it says something else."""
    heard = ["--audio", f"{folder}/hum.wav"]
    assert run(folder, "--to", "onnx", "--precision", "int8", "--out", f"{tmp_path}/out", *heard) == 1
    assert "words differ from PyTorch's" in error(capsys) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--chunk-ms", "0"], "--chunk-ms 0: must be from 1 to 10,000"),
        (["--chunk-ms", "10001"], "--chunk-ms 10001: must be from 1 to 10,000"),
        (["--to", "openvino", "--precision", "int8"], "say --precision fp16, or --to onnx --precision int8"),
        (["--max-word-difference", "1.5"], "--max-word-difference 1.5: must be from 0 to 1"),
        (["--out", "s3://bucket/export"], "is written to a folder of this machine"),
        (["--out", "{folder}/best"], "is not empty; choose another"),
        (["--out", "{folder}/best", "--force"], "is not empty; choose another"),  # it is no export
        (["--out", "{folder}/onnx"], "or say --force to replace an exported bundle"),
        (
            ["--audio", "{folder}/hum.wav", "--chunk-ms", "2000"],
            "--audio: is 2.00 s long together; give 4.08 s or more",
        ),
        (["--audio", "{folder}/none.wav"], "none.wav"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    before = sorted(folder.rglob("*"))
    given = [part.format(folder=folder) for part in argv]
    assert run(folder, "--to", "onnx", "--out", f"{tmp_path}/new", *given) == 1
    out, err = capsys.readouterr()
    assert message in err and ("openvino" not in given or out == "")
    assert sorted(folder.rglob("*")) == before and not list(tmp_path.iterdir())


GOOD = Parity(1000, 1e-4, {"output": 1e-6, "state_0": 2e-6}, {"output": 1e-6}, files=3, words=100, words_differing=0)


@pytest.mark.parametrize(
    ("parity", "precision", "message"),
    [
        (replace(GOOD, features=0.5), "fp32", "features differ by 0.5"),
        (replace(GOOD, encoder={"state_1": 0.01}), "fp32", "encoder state_1 differs by 0.01 of its largest number"),
        (replace(GOOD, encoder={"output": float("nan")}), "int8", "encoder output differs by nan"),
        (replace(GOOD, predictor={"output": 0.4}), "int8", "predictor output differs by 0.4"),
        (replace(GOOD, words_differing=1), "fp32", "1 of 100 words differ from PyTorch's, 1.0%, and 0.0% may"),
        (replace(GOOD, words_differing=6), "int8", "6 of 100 words differ"),
        (replace(GOOD, files=0, words_differing=1), "fp32", "1 of 100 words differ"),
    ],
)
def test_what_differs_too_much_is_named(parity: Parity, precision: exported.Precision, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parity.check(precision, export.WORDS[precision])
    assert "nothing was written" in str(caught.value)


def test_an_export_may_differ_a_little() -> None:
    GOOD.check("fp32", 0.0)
    replace(GOOD, encoder={"output": 0.05}, words_differing=5).check("int8", 0.05)
    replace(GOOD, files=0, words_differing=90).check("int8", 0.05)  # words of a synthetic signal


@pytest.mark.parametrize(
    ("name", "options", "chunk_ms", "steps"),
    [
        ("lstm", {}, 1, export.Steps(6, 1, 60)),
        ("lstm", {}, 320, export.Steps(36, 1, 360)),
        ("lstm", {"stack": 4, "reduce_after": []}, 320, export.Steps(32, 1, 320)),
        ("conformer", {}, 320, export.Steps(32, 4, 320)),
        ("conformer", {}, 80, export.Steps(8, 1, 80)),  # trained for chunks of one frame too
        ("conformer", {}, 1120, export.Steps(112, 14, 1120)),
        ("conformer", {}, 400, export.Steps(64, 4, 640)),  # not for five: two whole chunks of four
        ("conformer", {"chunk": 5, "chunks": [5]}, 320, export.Steps(40, 5, 400)),
    ],
)
def test_a_step_is_the_audio_asked_for_or_a_little_more(
    name: str, options: dict, chunk_ms: int, steps: export.Steps
) -> None:
    encoder = make_encoder(name, {"layers": 2, **options}, 8)
    assert export.fit(encoder, 0.01, chunk_ms) == steps


def test_a_chunk_that_fits_the_step_is_used(tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """And PyTorch, which it is compared with, uses the same."""
    options = {"layers": 1, "width": 8, "heads": 1, "channels": 2, "left": 4, "kernel": 2, "chunk": 4}
    model = make_model(ModelConfig("conformer", options, kind="ctc"), 16, bundle.tokenizer.size).eval()
    checkpoint.save(str(tmp_path / "best"), replace(bundle, model=model))
    assert run(tmp_path, "--to", "onnx", "--chunk-ms", "80", "--out", f"{tmp_path}/onnx") == 0
    assert "in chunks of 1 encoder frames (the bundle says 4, trained for both)" in capsys.readouterr().out
    facts = exported.read_facts(f"{tmp_path}/onnx")
    assert facts["traits"]["chunk"] == 1 and facts["traits"]["step_frames"] == 8
    assert set(facts["files"]) == {"frontend.onnx", "encoder.onnx", "vocab.model"}


@pytest.mark.parametrize(
    "spec",
    [
        FrontendSpec(mels=16),
        FrontendSpec(mels=16, window_samples=320, hop_samples=200, window="hann", low_hz=0, definition="librosa"),
    ],
    ids=lambda spec: spec.definition,
)
def test_the_frontend_graph_makes_our_features(tmp_path: Path, bundle: Bundle, spec: FrontendSpec) -> None:
    """In steps, from samples with the ones before them as state."""
    data = make_graphs(bundle.model, spec, step_frames=12).onnx["frontend"]
    storage.write_bytes(str(tmp_path / "frontend.onnx"), data)
    facts = {"runtime": "onnx", "files": {"frontend.onnx": hashlib.sha256(data).hexdigest()}}
    graph = export.open_frontend(str(tmp_path), facts)
    assert features(graph, synthetic(spec.sample_rate), spec, 12) < 1e-3
