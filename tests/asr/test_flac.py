"""FLAC without libsndfile: the header, and the samples, in order and damaged, are what libsndfile makes of them."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import asr.formats.flac
from asr import audio
from asr.formats.flac import parse_head, stream_info
from manifests import storage


def flac(samples: int, rate: int = 16000, channels: int = 1, subtype: str = "PCM_16") -> bytes:
    data = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (samples, channels))
    soundfile.write(data, noise, rate, format="FLAC", subtype=subtype)
    return data.getvalue()


@given(st.integers(1, 9000), st.integers(1, 655350), st.integers(1, 8), st.sampled_from(["PCM_S8", "PCM_16", "PCM_24"]))
def test_it_says_what_libsndfile_says(
    tmp_path_factory: pytest.TempPathFactory, samples: int, rate: int, channels: int, subtype: str
) -> None:
    uri = str(tmp_path_factory.getbasetemp() / "some.flac")
    try:
        data = flac(samples, rate, channels, subtype)
    except soundfile.LibsndfileError:  # rates above 65535 that are no multiple of 10
        return
    storage.write_bytes(uri, data)
    info = soundfile.info(uri)
    assert stream_info(uri) == (info.frames, info.samplerate, info.channels) == (samples, rate, channels)
    bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}[subtype]
    assert parse_head(data) == (samples, rate, channels, bits) and parse_head(data[:41]) is None


def test_real_files_and_members_of_a_tar(speech_data: Path, tmp_path: Path) -> None:
    for path in sorted((speech_data / "LibriSpeech").rglob("*.flac"))[::20]:
        data = path.read_bytes()
        (tmp_path / "x.tar").write_bytes(b"\0" * 512 + data)
        info = soundfile.info(path)
        for uri in (str(path), storage.member_uri(f"{tmp_path}/x.tar", 512, len(data), path.name)):
            assert stream_info(uri) == (info.frames, 16000, 1)


def test_what_is_out_of_the_ordinary_is_left_to_a_library(tmp_path: Path) -> None:
    whole = flac(1000)
    unknown_length = bytearray(whole)
    unknown_length[21] &= 0xF0
    unknown_length[22:26] = bytes(4)
    ogg = io.BytesIO()
    soundfile.write(ogg, np.zeros(1000), 16000, format="OGG")
    cases = {
        "ID3 tag first": b"ID3\x04\x00\x00\x00\x00\x00\x00" + whole,
        "unknown length": bytes(unknown_length),
        "cut inside the header": whole[:41],
        "empty": b"",
        "Ogg by its real name": ogg.getvalue(),
        "another block first": whole[:4] + b"\x04" + whole[5:],
    }
    for what, data in cases.items():
        (tmp_path / "x.flac").write_bytes(data)
        assert stream_info(str(tmp_path / "x.flac")) is None, what
    assert stream_info(str(tmp_path / "none.flac")) is None


def test_a_file_that_is_cut_off_is_still_found_by_who_decodes_it(tmp_path: Path) -> None:
    uri = str(tmp_path / "cut.flac")
    data = flac(32000)
    storage.write_bytes(uri, data[: len(data) // 2])
    assert stream_info(uri) == (32000, 16000, 1)
    with pytest.raises(audio.AudioError, match="truncated or damaged"):
        audio.read(uri)


def outcome(data: bytes, **stretch: float) -> np.ndarray | str:
    """The samples, or the error."""
    try:
        return audio.read("x.flac", 16000, data=data, **stretch)  # type: ignore[arg-type]
    except audio.AudioError as err:
        return str(err)


def by_libsndfile(data: bytes, **stretch: float) -> np.ndarray | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asr.formats.flac, "dr_flac", None)
        return outcome(data, **stretch)


def same(one: np.ndarray | str, other: np.ndarray | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    return np.array_equal(one, other)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_fast_decoder_gives_the_samples_of_libsndfile(channels: int, subtype: str) -> None:
    pytest.importorskip("miniaudio")
    data = flac(30_000, channels=channels, subtype=subtype)
    for stretch in ({}, {"offset_s": 0.1, "duration_s": 1.7}, {"offset_s": 1.5, "duration_s": 0.2}):
        fast, slow = outcome(data, **stretch), by_libsndfile(data, **stretch)
        assert isinstance(fast, np.ndarray) and fast.dtype == np.float32
        np.testing.assert_array_equal(fast, slow)


def test_real_speech_through_both_decoders(speech_data: Path) -> None:
    pytest.importorskip("miniaudio")
    for path in sorted((speech_data / "LibriSpeech").rglob("*.flac"))[::10]:
        np.testing.assert_array_equal(outcome(path.read_bytes()), by_libsndfile(path.read_bytes()))


DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("flip early"), st.floats(0, 0.05), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("leave out"), st.floats(0, 1), st.integers(1, 3000)),
    st.tuples(st.just("go on"), st.floats(0, 1), st.just(0)),
)


def damaged(data: bytes, what: str, where: float, much: int) -> bytes:
    at = min(len(data) - 1, int(where * len(data)))
    if what.startswith("flip"):
        return data[:at] + bytes([data[at] ^ 1 << much]) + data[at + 1 :]
    if what == "cut":
        return data[:at]
    return data[:at] + data[at + much :] if what == "leave out" else data + data[at:]


@settings(deadline=None, max_examples=200)
@given(DAMAGE, st.sampled_from([1, 2]))
def test_damage_has_libsndfiles_verdict_or_has_not_touched_the_sound(
    damage: tuple[str, float, int], channels: int
) -> None:
    """Every frame has a checksum. What lies between and behind the frames, dr_flac minds less than libsndfile."""
    pytest.importorskip("miniaudio")
    data = flac(20_000, channels=channels)
    fast, slow = outcome(damaged(data, *damage)), by_libsndfile(damaged(data, *damage))
    assert same(fast, slow) or same(fast, outcome(data))
