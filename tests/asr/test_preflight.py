"""What a training says and refuses before its first step, on corpora with the faults that corpora have."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs import arguments
from toys import TEXTS, Toy, write_toys

from asr import audio, tokenizer, train
from asr.frontend import logmel
from asr.tokenizer import Tokenizer
from asr.training import preflight, session
from asr.training.session import Session
from shards.spec import FrontendSpec

SPEC = FrontendSpec(mels=8)
Start = Callable[..., Session]


def speech(frames: int, seed: int = 0) -> np.ndarray:
    """Float32 [frames, 8]: loud and soft."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 0.5, (frames, 8)) + 4 * np.sin(np.arange(frames) / 7)[:, None]).astype(np.float32)


def good(count: int, texts: list[str] = TEXTS) -> list[Toy]:
    """Utterances with as much text as their length lets expect."""
    toys = []
    for i in range(count):
        text = texts[i % len(texts)]
        toys.append(Toy(f"good-{i}", text, speech(16 * len(text) + i % 5, i)))
    return toys


@pytest.fixture
def start(tmp_path: Path, vocab: Tokenizer) -> Start:
    """A function that makes a shard set and prepares a training on it."""

    def make(toys: list[Toy], *settings: str, vocab: Tokenizer = vocab) -> Session:
        write_toys(tmp_path / "s", toys, SPEC, "logmel", per_shard=7)
        (tmp_path / "frontend.yaml").write_text("mels: 8\n")
        (tmp_path / "config.yaml").write_text(
            f"frontend: {tmp_path}/frontend.yaml\nepochs: 5\nshortest_first: 1\n"
            "model: {encoder_options: {layers: 1, hidden: 8, projection: 8, stack: 4, reduce_after: []}, embedding: 4, "
            "predictor_hidden: 8, predictor_projection: 8, joint: 8}\ndata: {batch_s: 20, max_s: 20}\n"
        )
        (tmp_path / "vocab.model").write_bytes(vocab.model_bytes)
        command = arguments(tmp_path, tmp_path / "run", *settings)
        return session.prepare(train.make_parser().parse_intermixed_args(command))

    return make


def found(ready: Session, about: str) -> str:
    """All lines from the one that has this in it to before the next that is no list."""
    lines = preflight.lines(ready)
    [first] = [i for i, line in enumerate(lines) if about in line]
    end = next((i for i in range(first + 1, len(lines)) if not lines[i].startswith("  ")), len(lines))
    return "\n".join(lines[first:end])


def test_a_sound_corpus_gets_two_lines_and_they_are_true(start: Start) -> None:
    spliced = ["data.splice=3", "data.splice_s=9", "data.batch_s=9.5"]
    ready = start(good(40), *spliced, "optim.accumulate=2", "optim.warmup_steps=1")
    plan, memory = preflight.lines(ready)
    assert ready.plan is not None
    hours = sum(len(toy.feats_tf) for toy in good(40)) / 100 / 3600
    first = -(-ready.plan.steps // 2)
    later = steps_later(ready)
    assert plan.startswith(f"an epoch: {hours:.2f} h in {first} steps of {40 / first:.1f} examples and ")
    assert plan.endswith(f"in all 5 epochs, about {first + 4 * -(-later // 2)} steps")
    assert later != ready.plan.steps
    numbers = sum(p.numel() for p in ready.bundle.model.parameters())
    assert f"{4 * 4 * numbers / 1e9:.2f} GB for weights, gradients and the optimiser" in memory


def test_a_warmup_that_outlasts_the_training_is_told(start: Start) -> None:
    said = found(start(good(40), "optim.warmup_steps=300"), "warm-up")
    assert "optim.warmup_steps=300 is as long as the training or longer" in said


def steps_later(ready: Session) -> int:
    ready.position.epoch = 1
    steps = session.epoch_plan(ready).steps
    ready.position.epoch = 0
    return steps


def test_wrong_transcripts_are_named_with_what_they_say(start: Start) -> None:
    wrong = [
        Toy("cut-short", "cat", speech(900)),
        Toy("too-much", "the cat sat on the mat and the dog saw the cat", speech(120)),
        Toy("nothing", "", speech(200)),
    ]
    ready = start(good(60) + wrong)
    said = found(ready, "tokens a second")
    assert re.match(r"tokens a second far from the median of 3\.\d: 2 of 62 utterances; see ", said)
    assert said.splitlines()[1].startswith("  too-much (") and said.splitlines()[2].startswith("  cut-short (")
    assert said.splitlines()[1].endswith("/s, 1.2 s): the cat sat on the mat and the dog saw the cat")
    assert found(ready, "no text") == "no text: 1 of 63 utterances"


def test_texts_too_long_for_the_encoder_are_named_with_a_mend(start: Start) -> None:
    ready = start([*good(20), Toy("crowded", "the cat sat on the mat and the dog saw", speech(30))])
    said = found(ready, "more tokens than encoder frames")
    assert said.startswith("more tokens than encoder frames: 1 of 21 utterances; where their texts are right, take a ")
    assert "larger vocabulary, or an encoder with frames shorter than 40 ms" in said
    assert said.splitlines()[1:] == ["  crowded (0.3 s): the cat sat on the mat and the dog saw"]


@pytest.mark.filterwarnings("ignore:invalid value")  # of the set's own moments
def test_silence_and_damaged_features_are_named(start: Start) -> None:
    rng = np.random.default_rng(0)
    infinite = speech(200)
    infinite[3, 3] = np.inf
    ready = start([
        *good(20), Toy("silence", TEXTS[0], np.full((170, 8), -15.9, np.float32)), Toy("infinite", TEXTS[0], infinite),
        Toy("steady", TEXTS[0], rng.normal(-10, 0.2, (170, 8)).astype(np.float32)),
    ])  # fmt: skip
    said = found(ready, "silence or one steady sound")
    assert said.endswith(("silence, steady", "steady, silence")) and "2 of a sample of 23 utt" in said
    assert found(ready, "not finite") == (
        "numbers that are not finite: 1 of a sample of 23 utterances, such as infinite"
    )


def test_real_speech_is_not_taken_for_silence_but_noise_is(speech_data: Path, start: Start) -> None:
    """Also of 8 mels, whose mean varies more than that of 80."""
    paths = (
        sorted((speech_data / "LibriSpeech").rglob("*.flac"))[::4] + sorted((speech_data / "an4").rglob("*.sph"))[::4]
    )
    assert len(paths) > 20
    rng = np.random.default_rng(0)
    noises = {"zeros": np.zeros(32000), "white": rng.normal(0, 0.1, 64000), "dither": rng.normal(0, 1e-4, 32000),
              "hum": np.sin(np.arange(48000) / 20) + rng.normal(0, 1e-3, 48000)}  # fmt: skip
    toys = [Toy(f"speech-{i}", TEXTS[0], logmel(audio.read(str(path), 16000), SPEC)) for i, path in enumerate(paths)]
    toys += [Toy(name, TEXTS[0], logmel(samples.astype(np.float32), SPEC)) for name, samples in noises.items()]
    said = found(start(toys), "steady")
    assert f" of a sample of {len(toys)} utterances" in said
    assert "speech-" not in said and ": 4 of a sample" in said


def test_characters_that_the_vocabulary_lacks(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*TEXTS, "the café naïve", "a dog's café"]
    encode, asked = Tokenizer.encode, Counter[str]()
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: asked.update([text]) or encode(self, text))
    said = found(start(good(30, texts)), "vocabulary:")
    assert set(asked.values()) == {1}, "the sample is looked at once"
    assert "% of the characters are unknown: 'f' " in said and "'é' 8 times" in said and "'ï' 4 times" in said
    assert "'c'" not in said


def test_a_vocabulary_with_bytes_spells_them(start: Start) -> None:
    size = tokenizer.smallest_size(TEXTS, byte_fallback=True)
    by_bytes = Tokenizer(tokenizer.train(TEXTS, "bpe", size, byte_fallback=True))
    ready = start(good(30, ["кот и пёс"]), vocab=by_bytes)
    assert "100.00% of the characters are spelled in bytes: " in found(ready, "vocabulary:")


@pytest.mark.parametrize(
    ("texts", "settings", "mend"),
    [
        (["кот и пёс", "a cat"], [], "--vocab: lacks 62% of the characters of these texts ('к' 14 times, "),
        (TEXTS, ["data.max_s=2"], "32 of 40 utterances are left out, 32 for 'too long': raise data.max_s (2), or "),
    ],
)
def test_a_senseless_training_is_refused_in_one_line(
    start: Start, capsys: pytest.CaptureFixture[str], tmp_path: Path, texts: list[str], settings: list[str], mend: str
) -> None:
    with pytest.raises(ValueError) as raised:
        start(good(30 if not settings else 40, texts), *settings)
    assert str(raised.value).startswith(mend)
    assert train.main(arguments(tmp_path, tmp_path / "run", *settings)) == 1
    assert capsys.readouterr().err == f"train-asr: error: {raised.value}\n"
    assert not (tmp_path / "run").exists()


def test_rows_are_found_in_any_part_of_any_index(start: Start, tmp_path: Path) -> None:
    ready = start(good(40))
    (tmp_path / "some.txt").write_text("s/train-00001.tar\ns/train-00003.tar\n")
    other = session.open_shards(str(tmp_path / "some.txt"))
    for shards in (ready.corpus.shards, other):
        ids, rows = shards.column("id"), [11, 3, 3, 13]
        assert [id_ for (id_,) in preflight._columns(shards, rows, ["id"])] == [ids[row] for row in rows]
