"""Files whose headers state another length than they hold: read to their true end, or refused with both lengths."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from asr import audio
from asr.formats import mp3

RATE = 44100
NOISE = np.random.default_rng(0)


def sound(seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.1 * NOISE.standard_normal(round(seconds * rate))).astype(np.float32)


def encode_mp3(path: Path, samples: np.ndarray, rate: int = RATE, *, xing: bool = True, kbits: int = 64) -> bytes:
    with av.open(str(path), "w", options={"write_xing": str(int(xing)), "id3v2_version": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout, stream.bit_rate = "mono", 1000 * kbits
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in [frame, None]:
            container.mux(stream.encode(part))
    return path.read_bytes()


def refused(path: Path, data: bytes, message: str, *functions: Callable[[str], object]) -> None:
    """By probe and by read, unless fewer functions are given."""
    path.write_bytes(data)
    for function in functions or (audio.probe, audio.read):
        with pytest.raises(audio.AudioError, match=message) as caught:
            function(str(path))
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def streamed(uri: str) -> np.ndarray:
    return np.concatenate(list(audio.stream(uri)))


# WAV and AIFF


@pytest.mark.parametrize(
    ("subtype", "riff_too"), [("PCM_16", False), ("PCM_16", True), ("FLOAT", False), ("PCM_24", False)]
)
def test_wav_whose_data_go_on(tmp_path: Path, subtype: str, riff_too: bool) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, sound(3.0), RATE, subtype=subtype)
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    size = struct.unpack_from("<I", data, at + 4)[0]
    struct.pack_into("<I", data, at + 4, size // 3)
    if riff_too:
        struct.pack_into("<I", data, 4, at + size // 3)
    refused(path, data, rf"its header is wrong: it promises 1\.00 s, then {size - size // 3} bytes follow")


def test_wav_whose_writer_was_killed(tmp_path: Path) -> None:
    """Its sizes are still 0."""
    path = tmp_path / "a.wav"
    sf.write(path, sound(3.0), RATE)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = bytes(4)
    refused(path, data, r"promises 0\.00 s, then 264600 bytes follow")


def test_aiff_whose_data_go_on(tmp_path: Path) -> None:
    path = tmp_path / "a.aiff"
    sf.write(path, sound(3.0), RATE)
    data = bytearray(path.read_bytes())
    at = data.index(b"SSND")
    struct.pack_into(">I", data, at + 4, (struct.unpack_from(">I", data, at + 4)[0]) // 3)
    refused(path, data, r"its header is wrong: it promises 1\.00 s, then \d+ bytes follow")


@pytest.mark.parametrize(
    "trailer",
    [
        b"LIST" + struct.pack("<I", 20) + b"INFOISFT" + struct.pack("<I", 8) + b"program\0",
        b"id3 " + struct.pack("<I", 50_000) + bytes(50_000),
        bytes(50_000),
        b"junk",
    ],
)
def test_wav_with_other_things_after_its_data(tmp_path: Path, trailer: bytes) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, sound(1.0), RATE)
    path.write_bytes(path.read_bytes() + trailer)
    assert audio.probe(str(path)).duration_s == 1.0 and len(audio.read(str(path))) == 16000


# FLAC


def flac_stating(path: Path, share: float) -> bytearray:
    """Three seconds, whose header states a share of that (STREAMINFO: 36 bits of sample count, from byte 21 on)."""
    sf.write(path, sound(3.0), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = struct.pack(">I", round(3 * RATE * share))
    return data


def test_flac_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    message = r"its header is wrong: it promises 1\.50 s, then \d+ bytes follow"
    refused(path, flac_stating(path, 0.5), message, audio.read, audio.read_channels, streamed)
    assert len(audio.read(str(path), duration_s=1.2)) == round(1.2 * 16000)  # before its stated end nothing is wrong


def test_flac_with_a_tag_at_its_end_and_what_lies_beyond(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(flac_stating(path, 1.0) + b"TAG" + bytes(125))
    assert len(audio.read(str(path))) == 48000
    assert len(audio.read(str(path), offset_s=2.5)) == 8000
    with pytest.raises(audio.AudioError, match=r"has no samples from 3\.5 s on"):
        audio.read(str(path), offset_s=3.5)


def test_flac_that_promises_more(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    refused(path, flac_stating(path, 1.5), r"decoding stops at 3\.00 s, before 4\.50 s", audio.read, streamed)


def test_flac_that_states_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(flac_stating(path, 0.0))
    assert audio.probe(str(path)).duration_s == pytest.approx(3.0)
    assert len(audio.read(str(path))) == 48000


# MP3


@pytest.mark.parametrize(("factor", "fault"), [(0.5, "its header is wrong"), (2.0, "truncated")])
def test_mp3_whose_xing_header_is_wrong(tmp_path: Path, factor: float, fault: str) -> None:
    path = tmp_path / "a.mp3"
    data = bytearray(encode_mp3(path, sound(3.0)))
    at = data.index(b"Info") + 8
    frames = struct.unpack_from(">I", data, at)[0]
    struct.pack_into(">I", data, at, round(frames * factor))
    seconds = round(frames * factor) * 1152 / RATE
    refused(path, data, rf"{fault}.* promises {seconds:.2f} s, the file holds {frames * 1152 / RATE:.2f} s")


def test_two_mp3_files_in_one(tmp_path: Path) -> None:
    """libsndfile ends with what the first one's header states."""
    one, two = encode_mp3(tmp_path / "1.mp3", sound(3.0)), encode_mp3(tmp_path / "2.mp3", sound(2.0))
    refused(tmp_path / "a.mp3", one + two, r"promises 3\.\d+ s, the file holds 5\.\d+ s")


@pytest.mark.parametrize("rate", [48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000])
def test_mp3_that_states_nothing(tmp_path: Path, rate: int) -> None:
    """As Common Voice's. Every rate of MPEG 1, 2 and 2.5; the length is exact, not libsndfile's guess."""
    path = tmp_path / "a.mp3"
    data = encode_mp3(path, sound(2.0, rate), rate, xing=False, kbits=32)
    found = mp3.scan(data)
    assert found is not None and found.stated_s is None and found.lost_s == 0
    assert audio.probe(str(path)) == audio.AudioInfo(found.held_s, rate, 1)
    assert len(audio.read_channels(str(path))) == found.held_samples
    with av.open(str(path)) as container:
        assert found.held_samples == sum(frame.samples for frame in container.decode(audio=0))


@pytest.mark.parametrize("xing", [True, False])
@pytest.mark.parametrize("kilobytes", [0, 1500, 5000], ids=["small", "not read at once", "not scanned"])
def test_tags_around_an_mp3_are_no_sound(tmp_path: Path, xing: bool, kilobytes: int) -> None:
    path = tmp_path / "a.mp3"
    data = encode_mp3(path, sound(2.0), xing=xing)
    bare = audio.read_channels(str(path))
    size = 1000 * kilobytes + 300
    id3 = b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + NOISE.bytes(size)
    ape = b"APETAGEX" + struct.pack("<III", 2000, 1000, 0) + bytes(6000)
    path.write_bytes(id3 + data + b"TAG" + bytes(125) + ape)
    assert audio.probe(str(path)).duration_s == len(bare) / RATE
    assert np.array_equal(audio.read_channels(str(path)), bare)


@pytest.mark.parametrize("xing", [True, False])
def test_damage_in_an_mp3(tmp_path: Path, xing: bool) -> None:
    data = encode_mp3(tmp_path / "a.mp3", sound(3.0), xing=xing)
    middle = len(data) // 2
    refused(
        tmp_path / "a.mp3",
        data[:middle] + bytes(3000) + data[middle + 3000 :],
        r"damaged: about 0\.\d\d s of it are no",
    )
    refused(tmp_path / "a.mp3", data + NOISE.bytes(5000), r"damaged: about 0\.\d\d s of it are no MP3 frames")


def test_hardly_an_mp3(tmp_path: Path) -> None:
    data = encode_mp3(tmp_path / "a.mp3", sound(1.0))
    assert mp3.scan(b"") is None and mp3.scan(data[:3]) is None and mp3.scan(NOISE.bytes(10_000)) is None
    for end in range(0, 3000, 7):
        mp3.scan(data[:end])


def test_real_clips_are_whole(speech_data: Path) -> None:
    paths = sorted(speech_data.glob("CommonVoice/**/*.mp3"))[::7]
    assert len(paths) > 50
    for path in paths:
        found = mp3.scan(path.read_bytes())
        assert found is not None and found.lost_s == 0 and found.stated_s is None, path
        assert len(audio.read_channels(str(path))) == found.held_samples, path
