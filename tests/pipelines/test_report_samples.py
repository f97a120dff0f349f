"""The utterances of a report: spread over the corpus, sounding and looking as features are made of them."""

import base64
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from asr import audio
from manifests.schema import UTTERANCE_SCHEMA, Utterance, to_table
from pipelines.reporting import samples
from pipelines.reporting.samples import Sample

ROW = Utterance("a", "toy", "train", "en", "s", "gone.wav", 0.0, 2.0, 16000, 1, "One!", "one", "CC0", "made")


def choose(rows: list[Utterance]) -> list[Sample]:
    return samples.choose(to_table(rows, UTTERANCE_SCHEMA))


def sound(sample: Sample) -> np.ndarray:
    mime, data = sample.sound.split(";base64,")
    assert mime == "data:audio/mpeg"
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")
    assert rate == 16000
    return heard


def pixels(sample: Sample) -> np.ndarray:
    with av.open(io.BytesIO(base64.b64decode(sample.picture.removeprefix("data:image/png;base64,")))) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_the_player_has_the_sound_that_features_are_made_of(tmp_path: Path) -> None:
    time_s = np.arange(3 * 16000) / 16000
    wanted, other = 0.1 * np.sin(2 * np.pi * 440 * time_s), 0.5 * np.sin(2 * np.pi * 1000 * time_s)
    uri = str(tmp_path / "a.wav")
    soundfile.write(uri, np.stack([other, wanted + 0.02], axis=1), 16000)
    (sample,) = choose([replace(ROW, audio=uri, offset_s=1.0, channels=2, channel=1, dc_offset=0.02, gain_db=6.0206)])
    heard = sound(sample)
    assert len(heard) == pytest.approx(2 * 16000, abs=1600)
    middle = slice(4000, 28000)  # MP3 smears the ends
    assert np.abs(heard[middle] - 2 * wanted[16000:][middle]).max() < 0.02


def test_real_speech_is_heard_as_it_was_spoken(speech_data: Path) -> None:
    uri = sorted((speech_data / "LibriSpeech").rglob("*.flac"))[0]
    spoken = audio.read(str(uri))
    (sample,) = choose([replace(ROW, audio=str(uri), duration_s=len(spoken) / 16000)])
    heard = sound(sample)[: len(spoken)]
    error = heard - spoken[: len(heard)]
    assert 10 * np.log10(np.square(spoken).mean() / np.square(error).mean()) > 10  # dB


def test_of_a_long_utterance_the_start_is_played(tmp_path: Path, corpus: Callable[..., list[Utterance]]) -> None:
    (sample,) = choose(corpus(tmp_path, 1, duration_s=31))
    assert sample.heard_s == 20 and len(sound(sample)) == pytest.approx(20 * 16000, abs=1600)


def test_an_utterance_shorter_than_a_frame_has_no_picture_but_a_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(300, 0.1), 16000)
    (sample,) = choose([replace(ROW, audio=str(tmp_path / "a.wav"), duration_s=300 / 16000)])
    assert sample.picture == "" and sample.fault == "" and len(sound(sample)) > 0


def test_a_picture_shows_a_tone_where_it_is(tmp_path: Path) -> None:
    time_s = np.arange(2 * 16000) / 16000
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 1000 * time_s) * (time_s > 1), 16000)
    (sample,) = choose([replace(ROW, audio=str(tmp_path / "a.wav"))])
    assert pixels(sample).shape == (80, 198, 3)
    light_yx = pixels(sample).astype(float).sum(axis=2)
    assert light_yx[:, :90].max() < light_yx.max() / 3  # nothing before the tone
    mel = 1127 * np.log1p(np.array([20, 1000, 8000]) / 700)
    up = (mel[1] - mel[0]) / (mel[2] - mel[0])
    assert light_yx[:, 150].argmax() == pytest.approx(80 * (1 - up), abs=2)


def test_a_dozen_come_from_all_splits_languages_and_corpora() -> None:
    rows = [
        replace(
            ROW,
            id=f"u{i:04d}",
            split="train" if i % 20 else ["dev", "test"][i // 20 % 2],
            language=["en", "ru", "zh-CN"][i % 3],
            corpus=["one", "two"][i // 3 % 2],
        )
        for i in range(600)
    ]
    chosen = [sample.utterance for sample in choose(rows)]
    assert len({row.id for row in chosen}) == 12
    assert Counter(row.split for row in chosen) == {"train": 4, "dev": 4, "test": 4}
    assert Counter(row.language for row in chosen) == {"en": 4, "ru": 4, "zh-CN": 4}
    assert Counter(row.corpus for row in chosen) == {"one": 6, "two": 6}
    again = [sample.utterance for sample in choose(rows)]
    assert again == chosen
    other = [sample.utterance for sample in choose([replace(row, id=f"v{row.id}") for row in rows])]
    assert [row.id for row in other] != [f"v{row.id}" for row in chosen]
