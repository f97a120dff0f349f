"""train-lm: texts to a language model, the same one however often it was killed on the way."""

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import TEXTS

from asr import folders, lm, train_lm
from asr.language import model as lm_model
from asr.language import session as lm_session
from asr.language import texts as lm_texts
from asr.language.config import LmTrainConfig
from asr.language.session import Session
from asr.language.texts import LeftOut
from asr.tokenizer import BLANK, Tokenizer
from manifests import parquet
from manifests.schema import Utterance

WORDS = ["cat", "cow", "dog", "hen", "mat", "nest"]
SMALL = ["model.embedding=16", "model.hidden=32", "batch_tokens=500", "warmup_steps=10", "lr=0.01", "log_steps=7"]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Of a toy grammar in which eight words of eleven follow from those before."""
    rng = random.Random(seed)
    return [
        f"the {rng.choice(WORDS)} sat on a {rng.choice(WORDS)} and saw the {rng.choice(WORDS)}" for _ in range(count)
    ]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{line.capitalize()}!\n" for line in sentences(300)))
    return path


@pytest.fixture
def model(tmp_path: Path, vocab: Tokenizer) -> Path:
    path = tmp_path / "vocab.model"
    path.write_bytes(vocab.model_bytes)
    return path


def arguments(texts: Path, model: Path, out: Path, *more: str) -> list[str]:
    return ["--text", str(texts), "--language", "en", "--vocab", str(model), "--out", str(out), *SMALL, *more]


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_a_grammar_and_says_how_well(
    texts: Path, model: Path, vocab: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_lm.main(arguments(texts, model, tmp_path / "run", "--json", "epochs=8")) == 0
    out = capsys.readouterr()
    summary = json.loads(out.out)
    found = summary["perplexity"]
    assert "perplexity" in out.err
    assert found["token"] < found["unigram_token"] / 4
    # 216 sentences, of 11 words each
    assert 216 ** (1 / 11) * 0.97 < found["word"] < 2.5
    best = lm.load(summary["bundle"])
    assert best.mean_logp == -math.log(found["token"]) and best.vocab_fingerprint == vocab.fingerprint

    def logp(text: str) -> float:
        score, (logp_bv, state) = 0.0, best.start(1)
        for token in vocab.encode(text):
            score += float(logp_bv[0, token])
            logp_bv, state = best.advance(np.array([token]), state)
        return score

    assert logp("the cat sat on a mat") > logp("the cat sat on the mat") + 2
    # somebody goes on without a pause: joined texts have taught it that
    assert logp("and saw the dog the cat sat on a mat") > logp("and saw the dog cat the sat on a mat") + 2


def die_at(command: list[str], step: int | None) -> None:
    """Train until the process is killed: before a step, or else between its first bundle and the checkpoint."""
    take, write = train_lm.take, lm_model.save

    def die_stepping(session: Session, packed_bu: np.ndarray, lr: float) -> tuple[float, int]:
        if session.position.total == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(session, packed_bu, lr)

    def die_writing(*args: Any) -> None:
        write(*args)
        if step is None:
            os.kill(os.getpid(), signal.SIGKILL)

    train_lm.take, lm_model.save = die_stepping, die_writing
    sys.exit(train_lm.main(command))


def test_a_killed_training_goes_on_to_the_same_losses_and_bytes(texts: Path, model: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ["epochs=3", "save_steps=5"]
    assert train_lm.main(arguments(texts, model, whole, *more)) == 0
    command = arguments(texts, model, killed, "--resume", *more)
    for step in (3, 13, None):
        process = multiprocessing.get_context("fork").Process(target=die_at, args=(command, step))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert train_lm.main(command) == 0
    assert records(killed) == records(whole)
    for name in ("best/weights.safetensors", "best/lm.json", "training.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert train_lm.main(command) == 0  # nothing is left to do
    assert records(killed) == records(whole)


def test_it_ends_early_when_more_epochs_bring_nothing(texts: Path, model: Path, tmp_path: Path) -> None:
    assert train_lm.main(arguments(texts, model, tmp_path / "run", "epochs=500", "lr=0.03", "patience=2")) == 0
    losses = [record["dev_loss"] for record in records(tmp_path / "run") if "dev_loss" in record]
    assert len(losses) < 40
    facts = json.loads((tmp_path / "run" / "best" / "lm.json").read_text())
    assert facts["training"]["epoch"] == 1 + int(np.argmin(losses))


def utterance(number: int, split: str, text: str) -> Utterance:
    return Utterance(
        f"{split}-{number}", "toy", split, "en", "s", "a.wav", 0.0, 1.0, 16000, 1, text, text, "CC0", "made"
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [utterance(i, "train", text) for i, text in enumerate(sentences(40))]
    rows += [utterance(i, split, f"{split} mat") for split in ("dev", "test", "validation-other") for i in range(2)]
    parquet.write_utterances(str(tmp_path / "m" / parquet.MANIFEST), rows)
    return tmp_path / "m"


def lines_of(manifest: Path, splits: list[str] | None, dev: bool = False) -> set[str]:
    return {id_.rpartition("-")[0] for id_, _ in lm_texts.manifest_lines([str(manifest)], splits, dev)}


def test_held_out_splits_are_read_only_when_asked_for(manifest: Path) -> None:
    assert lines_of(manifest, None) == {"train"}
    assert lines_of(manifest, None, dev=True) == {"dev", "validation-other"}
    assert lines_of(manifest, ["test"]) == {"test"}
    rows = [utterance(0, "test", "the mat")]
    parquet.write_utterances(str(manifest / parquet.MANIFEST), rows)
    with pytest.raises(ValueError, match=r"has no split to train on \(splits: test\); say which .* --splits"):
        lines_of(manifest, None)
    with pytest.raises(ValueError, match=r"has no dev split \(splits: test\)"):
        lines_of(manifest, None, dev=True)


def test_what_is_measured_on_is_not_trained_on(manifest: Path, model: Path, tmp_path: Path) -> None:
    dev = tmp_path / "dev.txt"
    held = sentences(40)[:5]
    dev.write_text("".join(f"{line}\n" for line in held))
    command = ["--manifest", str(manifest), "--dev", str(dev), "--language", "en", "--vocab", str(model)]
    args = train_lm.make_parser().parse_args([*command, "--out", str(tmp_path / "run")])
    session = lm_session.prepare(args)
    assert len(session.dev) == 5
    assert len(session.train) == sum(text not in held for text in sentences(40)) < 40
    args.dev, args.out = [str(manifest)], str(tmp_path / "run2")
    session = lm_session.prepare(args)
    assert (len(session.train), len(session.dev)) == (40, 4)


def test_a_sentence_is_held_out_wherever_and_whenever_it_comes(vocab: Tokenizer) -> None:
    def held(texts: list[str]) -> set[str]:
        lines = [("", text) for text in texts]
        train, dev = lm_texts.hold_out(lm_texts.to_tokens(lines, vocab, 100, LeftOut()), 0.3)
        assert not set(train.hashes) & set(dev.hashes) and len(train) + len(dev) == len(texts)
        starts = dev.ends - dev.lengths
        return {vocab.decode(dev.tokens[a:b].tolist()) for a, b in zip(starts, dev.ends, strict=True)}

    some = [f"{text} {other}" for text in TEXTS for other in TEXTS]
    found = held(some)
    assert 2 < len(found) < 15
    assert held([*TEXTS, *reversed(some), *some]) & set(some) == found


def test_at_most_so_many_are_held_out(vocab: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_texts, "DEV_MOST", 3)
    lines = [("", f"{text} {other}") for text in TEXTS for other in TEXTS]
    train, dev = lm_texts.hold_out(lm_texts.to_tokens(lines, vocab, 100, LeftOut()), 0.5)
    assert (len(train), len(dev)) == (22, 3)


def test_lines_that_cannot_be_said_are_left_out_and_counted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.txt"
    lines = ["\ufeffThe cat.", "a § b", "", "...", "The dog sat on the mat" + 20 * " the mat", "3:7:2", "The mat"]
    path.write_text("\n".join([*lines, *sentences(30)]), encoding="utf-8")
    assert train_lm.main(arguments(path, model, tmp_path / "run", "epochs=1", "max_tokens=35", "dev_share=0.3")) == 0
    assert "left out: 1 longer than max_tokens (35); 2 no words; 2 unknown characters" in capsys.readouterr().out
    named = (tmp_path / "run" / "left-out.tsv").read_text().splitlines()
    assert f"{path}:2\tunknown characters\t§" in named and len(named) == 5


def test_an_epoch_has_every_text_once_and_some_joined(vocab: Tokenizer) -> None:
    lines = [("", text) for text in sentences(200)]
    texts = lm_texts.to_tokens(lines, vocab, 100, LeftOut())
    config = LmTrainConfig(max_tokens=100, batch_tokens=300, join=0.4)
    plan = lm_texts.plan(texts, config, 1)
    seen = np.concatenate([lm_texts.pack(texts, texts.ends, plan, i).ravel() for i in range(len(plan.batches))])
    np.testing.assert_array_equal(np.sort(seen[seen != BLANK]), np.sort(texts.tokens))
    sizes = [lm_texts.pack(texts, texts.ends, plan, i)[:, 1:] for i in range(len(plan.batches))]
    assert max(size.size for size in sizes) <= 300
    assert max(size.shape[1] for size in sizes) > max(texts.lengths)
    again = lm_texts.plan(texts, config, 1)
    assert all(np.array_equal(a, b) for a, b in zip(plan.batches, again.batches, strict=True))
    assert not np.array_equal(plan.order, lm_texts.plan(texts, config, 2).order)


def errors(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert train_lm.main(command) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_what_does_not_fit_is_said_in_one_line(
    texts: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    alone = ["--vocab", str(model), "--out", str(run)]
    assert "give --manifest FOLDER or --text FILE" in errors(alone, capsys)
    assert "in which language?" in errors([*alone, "--text", str(texts)], capsys)
    assert "--splits: is for --manifest" in errors([*arguments(texts, model, run), "--splits", "train"], capsys)
    assert "no such file" in errors(arguments(tmp_path / "none.txt", model, run), capsys)
    assert "did you mean epochs?" in errors(arguments(texts, model, run, "epoch=3"), capsys)
    assert "batch_tokens is 10; it must be max_tokens (500) or more" in errors(
        arguments(texts, model, run, "batch_tokens=10"), capsys
    )
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"the cat\nthe caf\xe9\n")
    assert f"{latin}, line 2: not UTF-8 (byte 0xe9)" in errors(arguments(latin, model, run), capsys)
    few = tmp_path / "few.txt"
    few.write_text("the cat\n")
    assert "of 1 text none is left to measure on" in errors(arguments(few, model, run, "dev_share=0"), capsys)
    assert "not a sentencepiece model" in errors(arguments(texts, texts, run), capsys)
    assert not run.exists()


def test_a_folder_with_something_else_in_it_is_left_alone(
    texts: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "letter.txt").write_text("dear")
    assert "is not empty and holds no run" in errors(arguments(texts, model, run), capsys)
    assert train_lm.main(arguments(texts, model, run, "--force", "epochs=1")) == 0
    assert "holds a run; say --resume" in errors(arguments(texts, model, run, "epochs=1"), capsys)
    said = errors(arguments(texts, model, run, "epochs=2", "--resume"), capsys)
    assert "was trained otherwise: epochs 1 then, 2 now" in said
    data = (run / "training.safetensors").read_bytes()
    for damaged in (data[:-10], data[:-10] + bytes(byte ^ 1 for byte in data[-10:])):
        (run / "training.safetensors").write_bytes(damaged)
        said = errors(arguments(texts, model, run, "epochs=1", "--resume"), capsys)
        assert "training.safetensors: is damaged" in said
    assert train_lm.main(arguments(texts, model, run, "--force", "epochs=1")) == 0
    assert (run / "training.safetensors").read_bytes() == data
    (run / "best" / "lm.json").unlink()  # what it would name at its end
    assert "best: is not a language model" in errors(arguments(texts, model, run, "epochs=1", "--resume"), capsys)
    assert (run / "letter.txt").read_text() == "dear"


def test_a_kill_between_two_renames_loses_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    folders.replace(str(folder), {"a": b"old"})
    os.rename(folder, f"{folder}.previous")
    folders.settle(str(folder))
    assert (folder / "a").read_bytes() == b"old"
    shutil.copytree(folder, f"{folder}.previous")
    folders.replace(str(folder), {"b": b"new"})
    assert [path.name for path in tmp_path.rglob("*")] == ["best", "b"]
