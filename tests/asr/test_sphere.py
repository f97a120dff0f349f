import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import audio
from asr.formats import sphere

TALK = np.random.default_rng(7).integers(-(2**15), 2**15, 16000 * 3).astype(np.int16)


def talk(path: Path, samples: np.ndarray = TALK, *, big_endian: bool = False, **fields: str) -> str:
    """A file as TED-LIUM's (or AN4's, whose bytes are swapped); `fields` replace those of the header, "" removes."""
    header = {
        "sample_count": f"-i {len(samples)}", "sample_n_bytes": "-i 2", "channel_count": "-i 1",
        "sample_byte_format": "-s2 10" if big_endian else "-s2 01", "sample_rate": "-i 16000",
        "sample_coding": "-s3 pcm",
    } | fields  # fmt: skip
    lines = ["NIST_1A", "   1024", *(f"{name} {value}" for name, value in header.items() if value), "end_head", ""]
    data = samples.astype(">i2" if big_endian else "<i2").tobytes()
    path.write_bytes("\n".join(lines).encode().ljust(1024) + data)
    return str(path)


def is_cut_without_libsndfile(uri: str) -> bool:
    with Path(uri).open("rb") as file:
        return sphere.open_sphere(uri, file) is not None


@pytest.fixture(scope="module", params=[False, True], ids=["little-endian", "big-endian"])
def three_seconds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = talk(tmp_path_factory.mktemp("sphere") / "talk.sph", big_endian=request.param)
    assert is_cut_without_libsndfile(uri)
    return uri


@settings(max_examples=60, deadline=None)
@given(offset_s=st.floats(0, 3.5), duration_s=st.floats(0.001, 3.5))
def test_segments_are_those_of_libsndfile_bit_for_bit(three_seconds: str, offset_s: float, duration_s: float) -> None:
    first, count = round(offset_s * 16000), round(duration_s * 16000)
    expected, _ = sf.read(three_seconds, dtype="float32", start=min(first, 48000), stop=min(first + count, 48000))
    try:
        samples = audio.read(three_seconds, 16000, offset_s, duration_s)
    except audio.AudioError:
        assert len(expected) == 0 or first + count > 48000 + 1600  # 0.1 s may be missing at the end, no more
    else:
        assert samples.dtype == np.float32 and np.array_equal(samples, expected)


def test_a_talk_longer_than_a_block_and_another_rate(tmp_path: Path) -> None:
    samples = np.tile(TALK, 25)  # more than 2**20
    uri = talk(tmp_path / "a.sph", samples)
    assert audio.probe(uri) == audio.AudioInfo(75.0, 16000, 1)
    assert np.array_equal(audio.read(uri), samples.astype(np.float32) / 32768)
    assert np.array_equal(np.concatenate(list(audio.stream(uri))), audio.read(uri))
    sf.write(tmp_path / "a.wav", samples, 16000, subtype="PCM_16")
    part = audio.read(uri, 8000, 66.6, 2.0)
    assert np.array_equal(part, audio.read(str(tmp_path / "a.wav"), 8000, 66.6, 2.0))


def test_a_segment_costs_its_own_bytes(tmp_path: Path) -> None:
    """Of a talk of 15 minutes only the header and the segment are read."""

    class Counting(io.FileIO):
        count = 0

        def readinto(self, buffer: memoryview) -> int:
            size = super().readinto(buffer)
            Counting.count += size
            return size

    uri = talk(tmp_path / "a.sph", np.tile(TALK, 300))
    with io.BufferedReader(Counting(uri)) as file:
        source = sphere.open_sphere(uri, file)
        assert source is not None
        (block,) = source.blocks(16000 * 500, 16000 * 508)
        assert len(block) == 16000 * 8
    assert Counting.count < 2 * len(block) + 32768


@pytest.mark.parametrize(
    "fields",
    [
        {"sample_coding": "-s4 ulaw", "sample_n_bytes": "-i 1", "sample_byte_format": "-s1 1"},
        {"channel_count": "-i 2"},
        {"sample_coding": ""},
        {"sample_byte_format": ""},
        {"sample_rate": ""},
    ],
)
def test_other_kinds_are_left_to_libsndfile(tmp_path: Path, fields: dict[str, str]) -> None:
    assert not is_cut_without_libsndfile(talk(tmp_path / "a.sph", **fields))


def test_stereo_and_ulaw(tmp_path: Path) -> None:
    left, right = TALK[::2], TALK[1::2]
    uri = talk(tmp_path / "a.sph", TALK, channel_count="-i 2", sample_count=f"-i {len(left)}")
    np.testing.assert_allclose(audio.read(uri), (left / 32768 + right / 32768) / 2, atol=1e-6)
    assert np.array_equal(audio.read(uri, channel=1), right.astype(np.float32) / 32768)


def test_a_header_that_promises_more(tmp_path: Path) -> None:
    uri = talk(tmp_path / "a.sph", sample_count="-i 96000")
    for function in (audio.probe, audio.read, lambda uri: audio.read(uri, 16000, 0.5, 0.5)):
        with pytest.raises(audio.AudioError, match=r"truncated: its header promises 6.00 s, the file holds 3.00 s"):
            function(uri)


def test_a_header_that_promises_less_is_read_to_the_end(tmp_path: Path) -> None:
    uri = talk(tmp_path / "a.sph", sample_count="-i 16000")
    assert audio.probe(uri).duration_s == 3.0 and len(audio.read(uri)) == 48000


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    uri = talk(tmp_path / "a.sph")
    with Path(uri).open("rb") as file:
        source = sphere.open_sphere(uri, file)
        assert source is not None
        os.truncate(uri, 1024 + 2 * 16000)
        with pytest.raises(audio.AudioError, match=r"decoding stops at 1\.00 s, before 3\.00 s"):
            list(source.blocks(0, None))


def test_damaged_headers_are_an_error_or_read_but_never_a_crash(tmp_path: Path) -> None:
    whole = Path(talk(tmp_path / "a.sph", TALK[:4000])).read_bytes()
    chance = random.Random(5)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(200)] = chance.randrange(256)
        (tmp_path / "b.sph").write_bytes(data)
        try:
            audio.read(str(tmp_path / "b.sph"))
            outcomes.add("read")
        except audio.AudioError as err:
            assert str(err).startswith(str(tmp_path / "b.sph")) and "\n" not in str(err)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_real_talks_and_words(speech_data: Path) -> None:
    paths = sorted(speech_data.glob("TEDLIUM*/**/*.sph")) + sorted(speech_data.glob("an4/**/*.sph"))[:20]
    assert len(paths) > 25
    for path in paths:
        assert is_cut_without_libsndfile(str(path)), path
        assert np.array_equal(audio.read(str(path)), sf.read(path, dtype="float32")[0]), path
