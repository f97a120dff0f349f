"""Fingerprints of real speech: copies are known again through codecs, rates, gains and cuts, and nothing else is."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr import audio
from asr.frontend import Floats
from manifests import parquet
from pipelines.fingerprint import SAMPLE_RATE, SCHEMA, Fingerprint, fingerprint, from_table, is_fine, to_table
from pipelines.matching import Pairs, find_duplicates

RNG = np.random.default_rng(7)


def read(files: list[Path]) -> list[Floats]:
    return [audio.read(str(file)) for file in files]


def match(*groups: list[Floats]) -> Pairs:
    """Pairs among all recordings of the groups, numbered one after another."""
    prints = [fingerprint(samples) for group in groups for samples in group]
    return find_duplicates(to_table((str(i), p) for i, p in enumerate(prints)))


def found(originals: list[Floats], copies: list[Floats]) -> float:
    """The share of recordings that are paired with their copy; with another's, none must be."""
    pairs = match(originals, copies)
    same = pairs.second - pairs.first == len(originals)
    assert same.all(), "unrelated recordings were taken for copies"
    assert (pairs.share[same] > 0.5).mean() > 0.95
    return float(same.sum() / len(originals))


def encode(samples: Floats, codec: str, container: str, rate: int, bit_rate: int) -> Floats:
    """Through a lossy file in memory and back to 16 kHz."""
    data = io.BytesIO()
    with av.open(data, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(soxr.resample(samples, SAMPLE_RATE, rate)[None], "fltp", "mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", rate, stream.codec_context.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            out.mux(stream.encode(piece))
    data.seek(0)
    with av.open(data) as file:
        pieces = []
        for piece in file.decode(file.streams.audio[0]):
            values = piece.to_ndarray().astype(np.float32)
            pieces.append(values[0] / (32768 if piece.format.name.startswith("s16") else 1))
        return soxr.resample(np.concatenate(pieces), piece.sample_rate, SAMPLE_RATE)


def at_8_khz(samples: Floats) -> Floats:
    return soxr.resample(soxr.resample(samples, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE)


def cut(samples: Floats) -> Floats:
    """0.3 s shorter at both ends, not in whole frames, at a fifth of the level."""
    return samples[4871:-4790] * np.float32(0.2)


COPIES: dict[str, Callable[[Floats], Floats]] = {
    "mp3 at 24 kbit/s": lambda x: encode(x, "libmp3lame", "mp3", 16000, 24000),
    "opus at 22 kbit/s in webm": lambda x: encode(x, "libopus", "webm", 48000, 22000),
    "aac at 32 kbit/s": lambda x: encode(x, "aac", "adts", 44100, 32000),
    "8 kHz": at_8_khz,
    "cut and quiet": cut,
    "cut, opus, 8 kHz": lambda x: at_8_khz(cut(encode(x, "libopus", "ogg", 16000, 22000))),
}


@pytest.fixture(scope="module")
def utterances(speech_data: Path) -> list[Floats]:
    """2 to 7 s by different readers: LibriSpeech, and CommonVoice in several languages."""
    files = sorted(speech_data.glob("LibriSpeech/test-other/*/*/*[36].flac"))
    files += sorted(speech_data.glob("CommonVoice/cv-corpus-6.1-2020-12-11/*/clips/*[05].mp3"))
    return [samples for samples in read(files) if 2 < len(samples) / SAMPLE_RATE < 7]


@pytest.fixture(scope="module")
def digits(speech_data: Path) -> list[Floats]:
    """One speaker says each digit fifty times: the hardest case for two recordings to be told apart."""
    return read(sorted(speech_data.glob("digits/fsdd/nicolas/*.flac")))


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_nothing_else(utterances: list[Floats], kind: str) -> None:
    some = utterances[::4]
    assert len(some) >= 12
    assert found(some, [COPIES[kind](samples) for samples in some]) > 0.9


def test_short_utterances_are_found_where_they_are_cut_alike(digits: list[Floats]) -> None:
    some = digits[::20]
    assert np.mean([len(samples) for samples in some]) < 0.5 * SAMPLE_RATE
    assert found(some, some) == 1
    assert found(some, [at_8_khz(samples) for samples in some]) == 1
    assert found(some, [encode(samples, "libmp3lame", "mp3", 44100, 64000) for samples in some]) == 1


def test_the_same_words_said_again_are_not_the_same_recording(speech_data: Path, digits: list[Floats]) -> None:
    assert len(digits) == 500
    assert len(match(digits).first) == 0
    yes_and_no = read(sorted(speech_data.glob("other/yesno/*.flac")))
    same_sentences = read(sorted(speech_data.glob("other/sentences/*.*")))
    assert len(yes_and_no) > 40 and len(same_sentences) > 5
    assert len(match(yes_and_no, same_sentences).first) == 0


@pytest.mark.slow
def test_in_all_recordings_only_the_known_copies_are_found(speech_data: Path) -> None:
    """Five hours; the README of the data names the three places where audio occurs twice."""
    files = [
        f
        for kind in ("flac", "mp3", "opus", "sph", "wav", "m4a", "webm")
        for f in sorted(speech_data.rglob(f"*.{kind}"))
    ]
    prints = []
    for file in files:
        try:
            prints.append((str(file.relative_to(speech_data)), fingerprint(audio.read(str(file)))))
        except audio.AudioError:
            assert "broken" in file.parts or "sphere" in file.parts
    pairs = find_duplicates(to_table(prints))
    known = (
        "LibriSpeech/test-other.*other/long|TEDLIUM.*AcousticCorpus.*wRdT1m3d|TEDLIUM.*ColdCorpus.*cold_corpus"
        "|(SonnetOne|Sh4k3sp3are|p001).*(SonnetOne|Sh4k3sp3are|p001)"
        "|(audio-|english_44k1).*(audio-|english_44k1)|LDC93S1.*LDC93S1"
    )
    once = re.compile(known)
    names = [" ".join(sorted((prints[i][0], prints[j][0]))) for i, j in zip(pairs.first, pairs.second, strict=True)]
    assert len(prints) > 6000 and len(names) > 80
    assert [name for name in names if not once.search(name)] == []


def test_utterances_are_found_in_the_long_file_that_holds_them(speech_data: Path) -> None:
    with (speech_data / "other/long/test-other_joined.tsv").open(newline="") as lines:
        starts_s = {row["utt"]: float(row["start"]) for row in csv.DictReader(lines, delimiter="\t")}
    files = sorted(speech_data.glob("LibriSpeech/test-other/*/*/*.flac"))
    long = audio.read(str(speech_data / "other/long/test-other_joined.opus"))
    pairs = match([long], read(files))
    assert (pairs.first == 0).all() and (pairs.share > 0.5).all()
    assert len(pairs.second) >= 77 and len(files) == 80
    true_s = [starts_s[files[i - 1].stem] for i in pairs.second]
    assert np.abs(-pairs.offset_s - true_s).max() < 0.03


@pytest.mark.parametrize(
    ("talk", "segments", "video", "captions"),
    [
        ("TEDLIUM_release1/test/sph/AcousticCorpus_2015.sph", "TEDLIUM_release1/test/stm/AcousticCorpus_2015.stm",
         "youtube/wRdT1m3d_01/wRdT1m3d_01.webm", "youtube/wRdT1m3d_01/wRdT1m3d_01.en.vtt"),
        ("TEDLIUM_release-3/data/sph/SonnetOne_1609.sph", "TEDLIUM_release-3/data/stm/SonnetOne_1609.stm",
         "youtube/Sh4k3sp3are/Sh4k3sp3are.mp3", "youtube/Sh4k3sp3are/Sh4k3sp3are.en.vtt"),
    ],
    ids=["AcousticCorpus", "SonnetOne"],
)  # fmt: skip
def test_segments_and_captions_of_one_recording(
    speech_data: Path, talk: str, segments: str, video: str, captions: str
) -> None:
    """Cut by one list of times and by another: found where at least two seconds are the same, and only there."""
    lines = [line.split() for line in (speech_data / segments).read_text().splitlines() if "inter_segment" not in line]
    ours = [(float(line[3]), float(line[4])) for line in lines]
    text = (speech_data / captions).read_text()
    theirs = [(_clock(a), _clock(b)) for a, b in re.findall(r"(\S+) --> (\S+)", text)]
    theirs = [(start, end) for start, end in theirs if end - start > 0.2]  # the captions roll
    common_s = {
        (i, len(ours) + j): min(ours[i][1], theirs[j][1]) - max(ours[i][0], theirs[j][0])
        for i in range(len(ours))
        for j in range(len(theirs))
    }
    pairs = match(_cut_out(speech_data / talk, ours), _cut_out(speech_data / video, theirs))
    got = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert {pair for pair, overlap_s in common_s.items() if overlap_s > 2} <= got
    assert all(common_s[pair] > 0 for pair in got)


def _clock(time: str) -> float:
    hours, minutes, seconds = time.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _cut_out(file: Path, spans_s: list[tuple[float, float]]) -> list[Floats]:
    samples = audio.read(str(file))
    return [samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] for start, end in spans_s]


def test_the_overlap_is_told(speech_data: Path) -> None:
    """Stretches of 7 s from an utterance and from a lossy copy of it, which begin at different places."""
    long = [
        samples
        for samples in read(sorted(speech_data.glob("LibriSpeech/test-other/*/*/*.flac")))
        if len(samples) > 15 * SAMPLE_RATE
    ]
    assert len(long) >= 6
    copies = [encode(samples, "libopus", "ogg", 16000, 22000) for samples in long]
    for common_s in (4, 5, 6):
        later = (7 - common_s) * SAMPLE_RATE + 137
        first = [samples[: 7 * SAMPLE_RATE] for samples in long]
        pairs = match(first, [copy[later : later + 7 * SAMPLE_RATE] for copy in copies])
        assert (pairs.second - pairs.first == len(long)).all() and len(pairs.first) >= 0.75 * len(long)
        assert abs(float(np.median(pairs.overlap_s)) - common_s) < 0.4
        np.testing.assert_allclose(pairs.offset_s, -later / SAMPLE_RATE, atol=0.02)


def _hum(times_s: Floats) -> Floats:
    return 0.3 * np.sin(2 * np.pi * 100 * times_s) + 0.2 * np.sin(2 * np.pi * 600 * times_s)


def test_silence_and_steady_sounds_have_no_words() -> None:
    times_s = np.arange(5 * SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE
    noise = RNG.standard_normal(len(times_s)).astype(np.float32)
    last_bit = np.round(noise * 0.5) / 32768
    for samples in (0 * times_s, _hum(times_s), 0.1 * noise, last_bit, _hum(times_s) + 0.001 * noise):
        assert len(fingerprint(samples.astype(np.float32)).words) == 0
        assert len(fingerprint(samples[:8000].astype(np.float32)).words) == 0
    assert len(fingerprint(np.zeros(400, np.float32)).words) == 0
    assert len(fingerprint(np.zeros(0, np.float32)).words) == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.integers(0, 150), which=st.integers(0, 11))
def test_a_word_does_not_depend_on_where_the_recording_was_cut(
    utterances: list[Floats], frames: int, which: int
) -> None:
    """Cut by whole frames, so that nothing but rounding can differ."""
    samples = sorted(utterances, key=len)[-1 - which]
    whole, part = fingerprint(samples), fingerprint(samples[320 * frames :])
    expected, actual = _coarse(whole, 4 * frames), _coarse(part, 0)
    first = min((step for _, step in actual), default=10**9)
    expected = {(word, step) for word, step in expected if step > first}
    assert len(expected & actual) >= 0.95 * len(expected)


def _coarse(print_: Fingerprint, later_steps: int) -> set[tuple[int, int]]:
    coarse = ~is_fine(print_.words)
    steps = print_.steps[coarse].astype(np.int64) - later_steps
    return set(zip(print_.words[coarse].tolist(), steps.tolist(), strict=True))


def test_few_bytes_and_the_table_gives_back_what_it_got(tmp_path: Path, utterances: list[Floats]) -> None:
    prints = {f"utt-{i}": fingerprint(samples) for i, samples in enumerate(utterances)}
    prints["silent"] = Fingerprint(np.empty(0, np.uint32), np.empty(0, np.uint32), 3.0)
    path = tmp_path / "fingerprints.parquet"
    parquet.write(str(path), to_table(prints.items()))
    table = parquet.read(str(path))
    assert table.schema.equals(SCHEMA, check_metadata=True)
    again = from_table(table)
    assert list(again) == list(prints)
    for id_, print_ in prints.items():
        np.testing.assert_array_equal(again[id_].words, print_.words)
        np.testing.assert_array_equal(again[id_].steps, print_.steps)
        assert again[id_].duration_s == pytest.approx(print_.duration_s)
        assert (np.diff(print_.steps.astype(np.int64)) >= 0).all()
    assert path.stat().st_size < 65 * sum(map(len, utterances)) / SAMPLE_RATE


@pytest.mark.parametrize("samples", [np.zeros(16000, np.int16), np.zeros((16000, 2), np.float32), np.zeros(16000)])
def test_other_arrays_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected 1-D float32 at 16 kHz, received"):
        fingerprint(samples)
