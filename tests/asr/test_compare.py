"""compare-runtimes: what is measured, what the table says of it, and that a run that was stopped goes on."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toys import TEXTS

from asr import checkpoint, compare, export
from asr.checkpoint import Bundle
from asr.comparing import page as compare_page
from asr.comparing.one import TimedEngine, measure, with_chunk
from asr.comparing.result import Candidate, outcome
from asr.engines.torch_engine import listener_of
from asr.evaluation.scoring import count_edits
from asr.evaluation.spoken import Spoken, drawn, of_files
from asr.evaluation.trace import listen
from asr.model_config import ModelConfig
from asr.models import make_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, hum: np.ndarray) -> Path:
    """A bundle, and a list of two short files."""
    folder = tmp_path_factory.mktemp("compare")
    checkpoint.save(str(folder / "bundle"), bundle)
    for number in range(2):
        soundfile.write(folder / f"{number}.flac", hum[9000 * number :][:16000], 16000, subtype="PCM_16")
    (folder / "list.tsv").write_text(f"path\ttext\n0.flac\t{TEXTS[0]}\n1.flac\t{TEXTS[1]}\n")
    return folder


@pytest.fixture(scope="module")
def exported(place: Path) -> Path:
    folder = place / "onnx"
    options = ["--bundle", f"{place}/bundle", "--to", "onnx", "--chunk-ms", "120", "--out", str(folder), "--json",
               "--max-word-difference", "1", "--audio", f"{place}/0.flac"]  # fmt: skip
    assert export.main(options) == 0
    return folder


def arguments(place: Path, out: Path, *more: str) -> list[str]:
    return ["--bundle", f"{place}/bundle", "--files", f"{place}/list.tsv", "--out", str(out), *more]


def test_timing_an_engine_changes_no_word_and_counts_each_call(bundle: Bundle, hum: np.ndarray) -> None:
    listener = listener_of(bundle)
    engine = TimedEngine(listener.engine)
    timed = listen(replace(listener, engine=engine), hum, 1920)
    assert timed.trace.final == listen(listener, hum, 1920).trace.final != []
    spent = engine.spending
    tokens = len(bundle.tokenizer.encode(" ".join(timed.trace.final)))
    # one call for each piece that had a whole step of frames, and one that closes the stream
    assert 10 <= spent.encoder.calls <= -(-len(hum) // 1920) + 1
    assert spent.decoder.calls >= tokens / 2 and spent.joint.calls > spent.decoder.calls
    assert 0 < spent.encoder.cpu_s + spent.decoder.cpu_s + spent.joint.cpu_s < timed.cpu_s


def test_pytorch_gets_the_chunk_of_the_exports_beside_it(bundle: Bundle, hum: np.ndarray) -> None:
    """Of an encoder that was trained with several; it then says what a bundle with that chunk says."""
    options = {"layers": 1, "width": 8, "heads": 1, "channels": 2, "left": 4, "kernel": 2, "chunk": 4}
    models = [
        make_model(ModelConfig("conformer", options | {"chunk": chunk}, kind="ctc"), 16, bundle.tokenizer.size).eval()
        for chunk in (4, 2)
    ]
    models[0].load_state_dict(models[1].state_dict())
    ours, expected = (listener_of(replace(bundle, model=model)) for model in models)
    assert with_chunk(ours, 0) is with_chunk(ours, 4) is ours
    changed = with_chunk(ours, 2)
    assert changed.engine.traits == expected.engine.traits
    feats_btf = np.random.default_rng(0).normal(-2, 1, (1, 64, 16)).astype(np.float32)
    found, wanted = (
        listener.engine.encode(feats_btf, listener.engine.encoder_start(1))[0] for listener in (changed, expected)
    )
    np.testing.assert_array_equal(found, wanted)


def test_exports_that_a_run_made_are_kept_while_they_are_whole(place: Path, exported: Path, tmp_path: Path) -> None:
    """And PyTorch has the length of their steps, which are longer than what was asked for."""
    made = tmp_path / "exports" / "onnx-fp32-100ms"
    shutil.copytree(exported, made)
    weights = checkpoint.weights_sha256(f"{place}/bundle")
    assert compare.is_export(str(made), weights) and not compare.is_export(str(made), "0" * 64)
    args = argparse.Namespace(bundle=f"{place}/bundle", export=[], to=["onnx"], precision=["fp32"], chunk_ms=[100],
                              out=str(tmp_path), json=True)  # fmt: skip
    found = compare.candidates(args, weights)
    assert [str(one.candidate) for one in found] == ["torch fp32 at 120 ms", "onnx fp32 at 120 ms"]
    assert [one.folder for one in found] == [f"{place}/bundle", str(made)] and not any(one.reason for one in found)
    (made / "encoder.onnx").write_bytes(b"cut")
    assert not compare.is_export(str(made), weights)  # it is made again
    (made / "encoder.onnx").unlink()
    assert not compare.is_export(str(made), weights)


def test_a_step_is_not_a_chunk_late(bundle: Bundle, place: Path) -> None:
    """The window of a chunk's last frame reaches beyond the chunk, so the first piece is longer."""
    spoken = of_files(f"{place}/list.tsv").utterances[:1]
    found = measure(listener_of(bundle), spoken, 120)
    frames = bundle.spec.num_frames(16000)
    assert found["spending"]["encoder"]["calls"] == frames // 12 + (1 if frames % 12 else 0)
    assert found["audio_s"] == 1.0 and len(found["texts"]) == len(found["last_word_s"]) == 1


def one(texts: list[str], **changes: Any) -> dict[str, Any]:
    """What a measurement says."""
    spent = {part: {"calls": 10, "cpu_s": seconds} for part, seconds in
             (("encoder", 0.02), ("decoder", 0.004), ("joint", 0.001))}  # fmt: skip
    return {"texts": texts, "first_word_s": [0.4, 0.6, 0.9], "last_word_s": [0.01, 0.02, 0.03], "audio_s": 6.0,
            "cpu_s": 0.5, "wall_s": 0.6, "peak_bytes": 200_000_000, "spending": spent} | changes  # fmt: skip


SAID = [Spoken(f"u{i}", "", "", "", text, "x.wav") for i, text in enumerate(["a cat", "the dog", "a mat"])]


def test_figures_are_medians_over_repetitions_and_words_are_held_against_pytorch() -> None:
    texts = ["a cat", "the", "a mat sat"]
    found = [one(texts), one(texts, cpu_s=1.0, last_word_s=[0.02, 0.04, 0.06]), one(texts, cpu_s=0.6)]
    figures = outcome(Candidate(80, "onnx", "int8"), "", found, SAID, ["a cat", "the dog", "a mat"]).figures
    assert figures is not None
    assert figures.wer.edits.errors == 2 and figures.wer.edits.reference_length == 6
    assert figures.words_differ == 2 and figures.repeatable
    assert (figures.encoder_ms, figures.decoder_ms, figures.joint_ms) == pytest.approx((2.0, 0.4, 0.1))
    assert figures.audio_per_s == pytest.approx(10.0) and figures.spread == pytest.approx(0.6)
    assert figures.first_word_s == 0.6 and figures.final_ms == pytest.approx(20.0)
    assert figures.final_p95_ms == pytest.approx(30.0)


def test_pytorch_is_not_held_against_itself_and_other_words_each_time_are_told() -> None:
    torch = outcome(Candidate(80, "torch", "fp32"), "", [one(["a cat"] * 3), one(["a dog"] * 3)], SAID, ["a cat"] * 3)
    assert torch.figures is not None and torch.figures.words_differ is None and not torch.figures.repeatable
    assert any("did not give the same words" in line for line in compare_page.reasons([torch]))


def test_a_ctc_model_has_no_decoder() -> None:
    spent = {part: {"calls": 10 * (part != "decoder"), "cpu_s": 0.0} for part in ("encoder", "decoder", "joint")}
    row = outcome(Candidate(80, "torch", "fp32"), "", [one([""] * 3, spending=spent, first_word_s=[])], SAID, None)
    assert row.figures is not None and row.figures.decoder_ms is None and row.figures.first_word_s is None
    assert compare_page.cells(row).count("–") == 3


def test_the_table_has_each_row_and_the_reason_of_one_without_figures() -> None:
    rows = [
        outcome(Candidate(80, "torch", "fp32"), "", [one(["a cat"] * 3)], SAID, ["a cat"] * 3),
        outcome(Candidate(80, "openvino", "int8"), "there is <none> | of it", [], SAID, ["a cat"] * 3),
    ]
    about = {"Bundle": "<b>"}
    lines = [line for line in compare_page.markdown(rows, about).splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "openvino int8 at 80 ms: there is <none> | of it." in compare_page.markdown(rows, about)
    page = compare_page.render(rows, about)
    assert "&lt;none&gt;" in page and "&lt;b&gt;" in page and page.count("<svg") == 4
    assert not re.search(r"<script|src=|href=|url\(|@import", page)
    assert rows[1].to_json() == {
        "chunk_ms": 80, "runtime": "openvino", "precision": "int8", "reason": "there is <none> | of it"
    }  # fmt: skip
    json.dumps([row.to_json() for row in rows], allow_nan=False)


def test_the_same_utterances_are_drawn_each_time() -> None:
    many = [replace(SAID[0], id=str(i)) for i in range(100)]
    some = drawn(many, 10)
    assert some == drawn(many, 10) and len({u.id for u in some}) == 10
    assert [int(u.id) for u in some] == sorted(int(u.id) for u in some)
    assert drawn(many, 0) == drawn(many, 100) == many


def test_measuring_without_pytorch_loads_none() -> None:
    code = (
        "import sys, asr.comparing.one\n"
        "print([name for name in ('torch', 'torchaudio', 'jiwer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture(scope="module")
def compared(place: Path, exported: Path) -> Path:
    """What a run has left: a row for the export, and one of PyTorch beside it."""
    out = place / "out"
    assert compare.main(arguments(place, out, "--export", str(exported), "--repeats", "1")) == 0
    return out


def test_each_export_has_a_row_and_pytorch_one_beside_it(compared: Path) -> None:
    torch, onnx = json.loads((compared / "compare.json").read_text())["rows"]
    assert (torch["runtime"], onnx["runtime"], torch["words_differ"]) == ("torch", "onnx", None)
    assert torch["chunk_ms"] == onnx["chunk_ms"] == 120 and torch["wer"]["rate"] > 0
    assert torch["peak_bytes"] > onnx["peak_bytes"] > 10_000_000
    theirs, ours = (json.loads(p.read_text())["texts"] for p in sorted((compared / "parts").iterdir(), reverse=True))
    assert onnx["words_differ"] == sum(count_edits(a, b).errors for a, b in zip(theirs, ours, strict=True))
    assert (compared / "compare.md").read_text().count("| 120 |") == 2


def test_a_run_goes_on_with_what_is_missing(
    place: Path, exported: Path, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if killed before the last measurement was written: it alone is made again."""
    shutil.copytree(compared, tmp_path / "out")
    before = json.loads((compared / "compare.json").read_text())["rows"]
    next((tmp_path / "out" / "parts").glob("onnx*")).unlink()
    capsys.readouterr()
    command = arguments(place, tmp_path / "out", "--export", str(exported), "--repeats", "1", "--json")
    assert compare.main(command) == 0
    output = capsys.readouterr()
    assert "torch fp32" not in output.err and "onnx fp32 at 120 ms, 1 of 1" in output.err
    after = json.loads(output.out)["rows"]
    assert after[0] == before[0] and after[1]["wer"] == before[1]["wer"]
    assert sorted(p.name for p in (tmp_path / "out/parts").iterdir()) == sorted(
        p.name for p in (compared / "parts").iterdir()
    )


def test_a_measurement_that_fails_is_a_row_with_the_reason(
    place: Path, exported: Path, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The export's encoder is altered on the disk."""
    shutil.copytree(exported, tmp_path / "broken")
    shutil.copytree(compared, tmp_path / "out")
    (tmp_path / "broken" / "encoder.onnx").write_bytes(b"cut")
    command = arguments(place, tmp_path / "out", "--export", f"{tmp_path}/broken", "--repeats", "1", "--json")
    capsys.readouterr()
    assert compare.main(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert "encoder_ms" in rows[0] and "encoder.onnx: was cut short or altered" in rows[1]["reason"]
    assert "encoder.onnx: was cut short" in (tmp_path / "out" / "compare.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chunk-ms", "0"], "--chunk-ms 0: must be 1 or more"),
        (["--repeats", "0"], "--repeats 0: must be 1 or more"),
        (["--export", "{place}/bundle"], "is not an exported bundle"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert compare.main(arguments(place, tmp_path, *(o.format(place=place) for o in options))) == 1
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


def test_an_export_of_another_bundle_is_refused(
    place: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported, tmp_path / "other")
    facts = json.loads((exported / "export.json").read_text())
    facts["source"]["weights_sha256"] = "0" * 64
    (tmp_path / "other" / "export.json").write_text(json.dumps(facts))
    capsys.readouterr()
    assert compare.main(arguments(place, tmp_path / "out", "--export", f"{tmp_path}/other")) == 1
    assert "was made of another bundle" in capsys.readouterr().err
