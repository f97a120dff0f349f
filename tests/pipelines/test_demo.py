"""The demo corpus: its plan, what lies on disk after it, and the synthesiser below."""

import argparse
import random
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import espeak
from pipelines.corpora import demo

PLAN = demo.plan_chapters(0.01, 0)
SHORT = replace(PLAN[0], sentences=PLAN[0].sentences[:3])


def by_split(chapters: list[demo.Chapter]) -> dict[str, list[demo.Chapter]]:
    found: dict[str, list[demo.Chapter]] = defaultdict(list)
    for chapter in chapters:
        found[chapter.split].append(chapter)
    return found


def sentences(chapters: list[demo.Chapter]) -> list[str]:
    return [sentence for chapter in chapters for sentence in chapter.sentences]


def words(chapters: list[demo.Chapter]) -> set[str]:
    return {word for sentence in sentences(chapters) for word in sentence.split()}


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@given(hours=st.floats(0.01, 1.0), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_splits_share_no_sentence_and_no_timbre_and_train_has_every_word(hours: float, seed: int) -> None:
    chapters = demo.plan_chapters(hours, seed)
    splits = by_split(chapters)
    assert list(splits) == ["train", "dev", "test"]
    assert len(set(sentences(chapters))) == len(sentences(chapters))
    assert words(splits["dev"]) | words(splits["test"]) <= words(splits["train"])
    timbres = [{chapter.voice.partition("+")[2] for chapter in splits[name]} for name in splits]
    assert not (timbres[0] & timbres[1] or timbres[0] & timbres[2] or timbres[1] & timbres[2])
    utterance_ids = [utterance_id for chapter in chapters for utterance_id in chapter.utterance_ids]
    assert len(set(utterance_ids)) == len(utterance_ids)
    assert all(len(sentences(splits[name])) >= 3 for name in splits)
    if hours >= 0.5:
        assert all(len(sentences(splits[name])) >= 60 for name in splits)


def test_plan_has_many_voices_and_the_planned_shares() -> None:
    splits = by_split(demo.plan_chapters(1.5, 0))
    voices = {name: {chapter.voice for chapter in splits[name]} for name in splits}
    assert len(voices["train"]) == 60 and len(voices["dev"]) == 4 and len(voices["test"]) == 14
    count = {name: len(sentences(splits[name])) for name in splits}
    assert count["dev"] == pytest.approx(0.04 * count["train"], rel=0.15)
    assert count["test"] == pytest.approx(0.08 * count["train"], rel=0.15)
    assert 200 <= len(words(splits["train"])) <= 260


def test_every_speaker_is_one_voice() -> None:
    voice_of = defaultdict(set)
    for chapter in demo.plan_chapters(10, 0):
        voice_of[chapter.speaker].add(chapter.voice)
    assert all(len(voices) == 1 for voices in voice_of.values())
    assert len({voice for (voice,) in voice_of.values()}) == len(voice_of)


def test_plan_follows_from_the_seed() -> None:
    assert demo.plan_chapters(0.05, 7) == demo.plan_chapters(0.05, 7)
    assert demo.plan_chapters(0.05, 7) != demo.plan_chapters(0.05, 8)


@pytest.mark.parametrize("hours", [0.0, -1.0, 0.009, 101.0, float("nan")])
def test_impossible_hours_are_refused(hours: float) -> None:
    with pytest.raises(ValueError, match=r"--hours .* 0.01 to 100 hours"):
        demo.plan_chapters(hours, 0)


@given(st.integers(0, 10**6))
def test_sentences_are_three_to_ten_plain_words(seed: int) -> None:
    sentence = demo.draw_sentence(random.Random(seed))
    assert 3 <= len(sentence.split()) <= 10
    assert set(sentence) <= set("abcdefghijklmnopqrstuvwxyz' ")


def test_every_slot_is_used_and_every_used_slot_is_there() -> None:
    holes = " ".join(demo.FORMS + [filler for fillers in demo.SLOTS.values() for filler in fillers])
    assert {hole.partition("}")[0] for hole in holes.split("{")[1:]} == set(demo.SLOTS)


def test_arguments_have_defaults() -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert vars(parser.parse_args([])) == {"root": None, "hours": 1.5, "seed": 0}


def test_corpus_lies_like_librispeech_and_sounds(tmp_path: Path) -> None:
    demo.write_speakers(str(tmp_path), PLAN)
    seconds = {chapter: demo.write_chapter(str(tmp_path), chapter) for chapter in PLAN}
    assert sum(s for chapter, s in seconds.items() if chapter.split == "train") == pytest.approx(36, rel=0.25)
    for chapter in PLAN:
        folder = tmp_path / "LibriSpeech" / chapter.split / str(chapter.speaker) / str(chapter.number)
        lines = (folder / f"{chapter.speaker}-{chapter.number}.trans.txt").read_text().splitlines()
        assert [line.partition(" ")[2].lower() for line in lines] == list(chapter.sentences)
        chapter_samples = 0
        for line in lines:
            info = soundfile.info(folder / f"{line.split()[0]}.flac")
            assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16000, 1)
            audio, _ = soundfile.read(info.name)
            assert 1.0 < info.duration < 6.0 and 0.05 < np.abs(audio).max() < 0.9
            assert audio[:800].any() and audio[:800].std() < audio.std() / 5  # the silence is quiet, but no zeros
            chapter_samples += len(audio)
        assert seconds[chapter] == chapter_samples / 16000
    speakers = (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in speakers if not line.startswith(";")]
    assert {(int(row[0]), row[2], row[4]) for row in rows} == {(c.speaker, c.split, c.voice) for c in PLAN}


def test_same_bytes_after_other_voices_and_in_other_processes_and_threads(tmp_path: Path) -> None:
    other = replace(SHORT, voice="en-us+f2", speaker=1)
    demo.write_chapter(str(tmp_path / "a"), SHORT)
    demo.write_chapter(str(tmp_path / "a"), other)
    demo.write_chapter(str(tmp_path / "b"), other)
    demo.write_chapter(str(tmp_path / "b"), SHORT)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert all(pool.map(demo.write_chapter, [str(tmp_path / "c")] * 2, [other, SHORT]))
    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(demo.write_chapter, [str(tmp_path / "d")] * 2, [other, SHORT]))
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c") == tree(tmp_path / "d")
    assert len(tree(tmp_path / "a")) == 8


def test_finished_chapter_is_left_alone(tmp_path: Path) -> None:
    seconds = demo.write_chapter(str(tmp_path), SHORT)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert demo.write_chapter(str(tmp_path), SHORT) == seconds
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == times


def test_chapter_without_its_transcript_is_made_again(tmp_path: Path) -> None:
    demo.write_chapter(str(tmp_path), SHORT)
    whole = tree(tmp_path)
    for path in [*tmp_path.rglob("*.trans.txt"), *tmp_path.rglob("*-0001.flac")]:
        path.unlink()
    demo.write_chapter(str(tmp_path), SHORT)
    assert tree(tmp_path) == whole


def test_root_of_another_plan_is_refused(tmp_path: Path) -> None:
    demo.write_speakers(str(tmp_path), PLAN)
    demo.write_speakers(str(tmp_path), PLAN)
    with pytest.raises(ValueError, match=r"SPEAKERS.TXT: made with another --hours or --seed"):
        demo.write_speakers(str(tmp_path), demo.plan_chapters(0.02, 0))
    demo.write_chapter(str(tmp_path), SHORT)
    with pytest.raises(ValueError, match=r"trans.txt: made with another --hours or --seed"):
        demo.write_chapter(str(tmp_path), replace(SHORT, sentences=("call anna at seven o'clock",)))


def test_every_voice_speaks_without_clipping() -> None:
    with espeak.engine() as say:
        for voice in {voice for split in demo.VARIANTS for voice in demo.voices(split)}:
            samples = say("please shut the big window", voice, 160, 50)
            assert 0.8 < len(samples) / espeak.SAMPLE_RATE < 3.0
            assert 0.05 < np.abs(samples).max() < 0.999


def period_samples(samples: espeak.Samples) -> int:
    """Of the voice's fundamental, between 60 and 300 Hz: the highest peak of the autocorrelation."""
    correlation = np.correlate(samples, samples, "full")[len(samples) :]
    shortest, longest = espeak.SAMPLE_RATE // 300, espeak.SAMPLE_RATE // 60
    return shortest + int(correlation[shortest:longest].argmax())


def test_speed_and_pitch_are_heard() -> None:
    with espeak.engine() as say:
        slow, fast = (len(say("we took the train to london", "en+m3", wpm, 50)) for wpm in (130, 210))
        low, high = (period_samples(say("all", "en+m3", 160, pitch)) for pitch in (20, 80))
    assert slow > 1.3 * fast
    assert low > 1.15 * high


def test_silence_of_the_synthesiser_is_cut() -> None:
    with espeak.engine() as say:
        samples = np.abs(say("one. two.", "en+m1", 160, 50))
    loud = np.flatnonzero(samples > 0.02 * samples.max())
    assert loud[0] < 0.05 * espeak.SAMPLE_RATE and len(samples) - loud[-1] < 0.05 * espeak.SAMPLE_RATE


def test_unknown_voice_and_soundless_text_are_named() -> None:
    with espeak.engine() as say:
        with pytest.raises(ValueError, match="no voice 'xx-klingon'"):
            say("hello", "xx-klingon", 160, 50)
        with pytest.raises(ValueError, match="no sound of ''"):
            say("", "en", 160, 50)
        assert say("hello", "en", 160, 50).size


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ValueError, match=r"pip install 'speechmill\[demo\]'"), espeak.engine():
        pass
