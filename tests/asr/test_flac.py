"""The header of a FLAC file against libsndfile, and everything that is no ordinary header."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr import audio
from asr.flac import stream_info
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
