"""evaluate-asr --streaming: what it recognises is what whole files give, from every source that has samples."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toys import TEXTS, Toy, flac, write_toys

from asr import checkpoint, evaluate
from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engines.torch_engine import listener_of
from asr.evaluation import emission, scoring, streamed
from asr.evaluation.scoring import Scored
from asr.evaluation.spoken import Speech, Spoken, of_files, of_manifest, of_shards
from asr.evaluation.streamed import Timing, measure, quiet, quiet_behind
from asr.evaluation.trace import listen
from asr.frontend import logmel
from asr.transducer import Transducer
from manifests.schema import Utterance

MakeModel = Callable[..., Transducer]


def no_say(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def sounds(hum: np.ndarray) -> list[np.ndarray]:
    return [hum[at : at + length] for at, length in ((0, 32000), (7000, 20011), (3000, 25480))]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory, sounds: list[np.ndarray]) -> Path:
    """A list of three files, of one without a text, of one that is no audio, and of one whose text nobody can say."""
    folder = tmp_path_factory.mktemp("listed")
    for number, samples in enumerate(sounds):
        soundfile.write(folder / f"{number}.flac", samples, 16000, subtype="PCM_16")
    (folder / "bad.wav").write_bytes(b"not audio at all")
    rows = [f"{number}.flac\t{TEXTS[number].upper()}!\ts{number}" for number in range(len(sounds))]
    rows += ["0.flac\t\ts0", "bad.wav\ta cat\ts1", "1.flac\ta @ cat\ts1"]
    (folder / "list.tsv").write_text("\n".join(["path\ttext\tspeaker", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> str:
    folder = str(tmp_path_factory.mktemp("saved") / "bundle")
    checkpoint.save(folder, bundle)
    return folder


@pytest.mark.parametrize("chunk_ms", [20, 320])
def test_streamed_and_whole_are_the_same_words(bundle: Bundle, listed: Path, chunk_ms: int) -> None:
    listener = listener_of(bundle)
    found = measure(listener, of_files(f"{listed}/list.tsv"), chunk_ms, Timing("", "none"), (), no_say)
    assert found.difference.value == found.difference.changed == 0
    assert found.report.total.wer == found.offline.total.wer and found.costs.words > 12
    assert found.report.total.utterances == 3


def test_what_is_left_out_has_a_reason(bundle: Bundle, listed: Path) -> None:
    found = measure(listener_of(bundle), of_files(f"{listed}/list.tsv"), 320, Timing("", "none"), (), no_say)
    assert [name for name, _ in found.left_out] == ["0.flac", "1.flac", "bad.wav"]
    reasons = " | ".join(reason for _, reason in found.left_out)
    assert re.search(r"no transcript \| .*@.* \| .*bad\.wav", reasons)


def test_delays_are_those_of_the_alignment_and_of_what_was_shown(bundle: Bundle, saved: str, sounds: list[np.ndarray],
                                                                 tmp_path: Path) -> None:  # fmt: skip
    """References are some of the words that the model says, so they are right; its frames have no room for them all."""
    listener = listener_of(bundle, endpoints=EndpointRules(pause_s=0.6, silence_s=0.8, preroll_s=0.3))
    known = set("".join(TEXTS))
    spoken, by_hand = [], emission.Delays()
    for number, samples in enumerate(sounds):
        soundfile.write(tmp_path / f"{number}.wav", samples, 16000, subtype="FLOAT")
        heard = listen(listener, samples, 1600)
        text = " ".join([word for word in heard.trace.final if len(word) < 5 and set(word) <= known][::3])
        spoken.append(Spoken(str(number), "", "", "", text, str(tmp_path / f"{number}.wav")))
        times = emission.word_times(bundle, samples, text)
        by_hand.add(times, heard.trace.final, quiet_behind(listener, heard, samples, 1600))
    found = measure(listener, Speech("toys", spoken, []), 100, Timing(saved), (), no_say)
    assert found.timing.delays == by_hand
    assert len(by_hand.shown_s) > 5 and len(by_hand.first_word_s) == found.timing.aligned == len(sounds)


def test_where_nothing_can_be_written_is_said_before_the_work(
    saved: str, listed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands where the folder should be made."""
    argv = ["--bundle", saved, "--streaming", "--files", f"{listed}/list.tsv", "--out", f"{listed}/list.tsv/out"]
    assert evaluate.main(argv) == 1
    output = capsys.readouterr()
    assert output.err.count("\n") == 1 and "list.tsv" in output.err and output.out == ""


def test_utterances_that_cannot_be_aligned_are_counted(bundle: Bundle, saved: str, listed: Path) -> None:
    spoken = of_files(f"{listed}/list.tsv").utterances[:2]
    crowded = Spoken("c", "", "", "", " ".join(["the cat sat on the mat"] * 8), spoken[0].audio)
    timing = Timing(saved)
    measure(listener_of(bundle), Speech("x", [*spoken, crowded], []), 320, timing, (), no_say)
    assert timing.aligned == 2 and timing.not_aligned == Counter({"fewer encoder frames than its tokens need": 1})


def test_the_command_writes_figures_and_a_page_that_loads_nothing(
    saved: str, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--bundle", saved, "--files", f"{listed}/list.tsv", "--streaming", "--chunk-ms", "200", "--out",
               str(tmp_path)]  # fmt: skip
    assert evaluate.main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "wer.json").read_text()) == printed
    online = printed["streaming"]
    assert online["alignment"]["aligned"] == 3 and online["delay"]["first_word"]["count"] == 3
    assert online["cost"]["audio_s"] == pytest.approx((32000 + 20011 + 25480) / 16000) and online["cost"]["cpu_s"] > 0
    assert online["stability"]["changed_words"] <= online["stability"]["partial_words"]
    assert len(online["left_out"]) == 3
    page = (tmp_path / "wer.html").read_text()
    assert "As it streams" in page and "no transcript" in page
    assert not re.search(r"<script|src=|href=|url\(|@import", page)
    assert evaluate.main(command) == 0
    assert re.search(r"streamed minus whole: .* points .*\n(.*\n)*delay of words, shown: ", capsys.readouterr().out)


def test_a_manifest_is_read_as_shards_are_written(tmp_path: Path, corpus: Callable[..., list[Utterance]]) -> None:
    rows = corpus(tmp_path, 4)
    found = of_manifest(str(tmp_path), ["train"])
    assert [u.id for u in found.utterances] == sorted(row.id for row in rows)
    louder = Spoken("a", "", "", "", "a", rows[0].audio, 0.1, 0.2, dc_offset=0.25, gain_db=6.0)
    plain = Spoken("a", "", "", "", "a", rows[0].audio, 0.1, 0.2)
    np.testing.assert_allclose(louder.samples(16000), (plain.samples(16000) - 0.25) * 10**0.3, rtol=1e-5, atol=1e-6)
    assert len(plain.samples(16000)) == 3200


@pytest.mark.parametrize("content", ["audio", "logmel+audio"])
def test_shards_with_audio_stream_and_others_say_what_to_give(
    bundle: Bundle,
    saved: str,
    sounds: list[np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
) -> None:
    toys = [Toy(f"u{i}", TEXTS[i], logmel(samples, bundle.spec), flac(samples)) for i, samples in enumerate(sounds)]
    write_toys(tmp_path / "with", toys, bundle.spec, content, per_shard=2)
    speech = of_shards(str(tmp_path / "with"))
    assert [u.text for u in speech.utterances] == TEXTS[:3]
    for spoken, samples in zip(speech.utterances, sounds, strict=True):
        np.testing.assert_allclose(spoken.samples(16000), samples, atol=1 / 32000)
    write_toys(tmp_path / "without", toys, bundle.spec, "logmel", per_shard=2)
    assert evaluate.main(["--bundle", saved, "--shards", f"{tmp_path}/without", "--streaming"]) == 1
    error = capsys.readouterr().err.strip()
    assert "--manifest FOLDER" in error and "--content audio" in error and "\n" not in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shards", "s", "--beam", "4"], "--beam: is only for --streaming; say that too, or leave out --beam"),
        (["--shards", "s", "--hotword", "a"], "--hotword: is only for --streaming; say that too"),
        (["--shards", "s", "--splits", "a"], "--splits: goes with --manifest and --streaming"),
        (
            ["--manifest", "m"],
            "--manifest: its audio is recognised as it streams; say --streaming too",
        ),
        (["--files", "l"], "--files: its audio is recognised as it streams"),
        (["--files", "{list}", "--streaming", "--chunk-ms", "0"], "--chunk-ms 0: must be 1 or more"),
        (["--files", "{list}", "--streaming", "--splits", "dev"], "--splits: goes with --manifest"),
        (["--files", "{bad}", "--streaming"], "no column path and no column text"),
        (["--files", "{list}", "--streaming", "--aligner", "{headless}"], "no CTC head"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    saved: str, listed: Path, tmp_path: Path, bundle: Bundle, make_model: MakeModel,
    capsys: pytest.CaptureFixture[str], options: list[str], said: str,
) -> None:  # fmt: skip
    (tmp_path / "bad.tsv").write_text("0.flac\tthe cat\n")
    headless = make_headless(bundle, str(tmp_path / "headless"))
    names = {"list": f"{listed}/list.tsv", "bad": f"{tmp_path}/bad.tsv", "headless": headless}
    assert evaluate.main(["--bundle", saved, *(option.format(**names) for option in options)]) == 1
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


def make_headless(bundle: Bundle, folder: str) -> str:
    """The bundle as a transducer that was trained without a CTC head beside it."""
    config = {**vars(bundle.model.config), "ctc": False}
    model = Transducer(type(bundle.model.config)(**config), bundle.spec.mels, bundle.tokenizer.size)
    state = {name: value for name, value in bundle.model.state_dict().items() if not name.startswith("ctc.")}
    model.load_state_dict(state)
    checkpoint.save(folder, Bundle(model.eval(), bundle.tokenizer, bundle.spec, {}))
    return folder


def test_a_model_without_a_head_has_a_word_error_rate_and_no_delays(
    bundle: Bundle, saved: str, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headless = make_headless(bundle, str(tmp_path / "headless"))
    command = ["--bundle", headless, "--files", f"{listed}/list.tsv", "--streaming", "--out", str(tmp_path / "out")]
    assert evaluate.main(command) == 0
    assert (
        "delays: none: the model has no CTC head; name a bundle that has one with --aligner" in capsys.readouterr().out
    )
    assert evaluate.main([*command, "--aligner", saved, "--force"]) == 0
    assert "aligned: 3 utterances" in capsys.readouterr().out


def test_nothing_readable_is_an_error(bundle: Bundle, listed: Path) -> None:
    nothing = Speech("x", [Spoken("b", "", "", "", "a cat", f"{listed}/bad.wav")], [])
    with pytest.raises(ValueError, match=r"nothing could be read; the first: .*bad\.wav"):
        measure(listener_of(bundle), nothing, 320, Timing("", "none"), (), no_say)


def test_quiet_is_as_quiet_as_the_recording_and_quieter_than_speech(hum: np.ndarray) -> None:
    def level(samples: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))

    speech = hum[4000:7000]
    loudest = max(level(part) for part in np.split(speech[:2880], 9))
    assert level(quiet(speech, 320, 16000)) == pytest.approx(loudest / 100, rel=0.1), "tightly cut"
    with_pause = np.concatenate([speech, hum[:500] * 1e-4])
    assert level(quiet(with_pause, 320, 16000)) < loudest / 500
    assert not quiet(np.zeros(5, np.float32), 320, 10).any() and len(quiet(hum[:1], 320, 7)) == 7


def test_a_difference_is_that_of_pairs() -> None:
    """Twelve speakers from easy to hard; the second recogniser makes one error more on each."""
    before, after = [], []
    for number in range(12):
        reference = " ".join(["a"] * 20)
        for errors, side in ((number, before), (number + 1, after)):
            heard = " ".join(["b"] * errors + ["a"] * (20 - errors))
            side.append(Scored(f"u{number}", "c", "test", f"s{number}", 1.0, reference, heard))
    found = scoring.difference(before, after)
    assert found.value == pytest.approx(1 / 20) and found.changed == 12
    assert found.low == pytest.approx(1 / 20) and found.high == pytest.approx(1 / 20)
    apart = [scoring.score(side).total.wer for side in (before, after)]
    assert apart[1].low < apart[0].high, "each rate by itself says nothing"
    same = scoring.difference(before, before)
    assert (same.value, same.low, same.high, same.changed) == (0, 0, 0, 0)


def test_exported_bundles_have_no_head_of_their_own(tmp_path: Path, saved: str) -> None:
    (tmp_path / "export.json").write_text("{}")
    assert "--aligner" in streamed.choose_aligner(str(tmp_path), None).reason
    assert streamed.choose_aligner(str(tmp_path), saved).aligner == saved
