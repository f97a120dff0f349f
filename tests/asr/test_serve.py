"""Words over the network are those of the same samples at home."""

import asyncio
import http.client
import io
import json
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from served import Served, opus, pcm16, recognised, serve, spoken, talk

from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engines.torch_engine import TorchEngine
from asr.searching.hypotheses import SearchOptions
from asr.serving.limits import Limits
from asr.stream import Listener


@pytest.fixture(scope="module")
def listener(bundle: Bundle) -> Listener:
    return Listener(
        TorchEngine(bundle.model), bundle.tokenizer, bundle.spec, SearchOptions(hotword_boost=8.0), EndpointRules()
    )


@pytest.fixture(scope="module")
def served(listener: Listener) -> Iterator[Served]:
    with serve(listener, Limits()) as served:
        yield served


@pytest.fixture(scope="module")
def speech(hum: np.ndarray) -> np.ndarray:
    """Five seconds in 16 bits, with a pause that ends a segment."""
    pause = np.random.default_rng(3).normal(0, 0.0005, 16000).astype(np.float32)
    return np.frombuffer(pcm16(np.concatenate([hum, pause, hum])), "<i2").astype(np.float32) / 32768


@pytest.mark.parametrize("size_bytes", [640, 2 * 1234, 1 << 19])
def test_words_are_those_of_step(served: Served, listener: Listener, speech: np.ndarray, size_bytes: int) -> None:
    heard = asyncio.run(talk(served, spoken((speech * 32768).astype("<i2").tobytes(), size_bytes)))
    assert heard.code == 1000 and heard.error == ""
    assert heard.final == recognised(listener, speech) != []
    assert heard.messages[0] == {"type": "started", "sample_rate": 16000}
    assert [m["type"] for m in heard.messages[1:]] == ["update"] * (len(heard.messages) - 2) + ["last"]
    assert heard.messages[-1]["partial"] == [] and heard.messages[-1]["audio_s"] == 5.0


def test_streams_in_one_batch_do_not_mix(served: Served, listener: Listener, speech: np.ndarray) -> None:
    draw = random.Random(5)
    shifted = [speech[draw.randrange(16000) : 16000 * 3 + draw.randrange(16000)] for _ in range(6)]

    async def together() -> list[list]:
        said = [spoken((x * 32768).astype("<i2").tobytes(), 2 * draw.randrange(500, 5000)) for x in shifted]
        return [heard.final for heard in await asyncio.gather(*(talk(served, each) for each in said))]

    assert asyncio.run(together()) == [recognised(listener, x) for x in shifted]
    counted = dict(line.split(" ") for line in served.get("/metrics").splitlines() if line[0] != "#")
    assert float(counted["speechmill_pieces_total"]) > 1.5 * float(counted["speechmill_rounds_total"])


def test_another_rate_is_resampled(served: Served, listener: Listener, speech: np.ndarray) -> None:
    at_48 = np.frombuffer(pcm16(soxr.resample(speech, 16000, 48000)), "<i2")
    heard = asyncio.run(talk(served, spoken(at_48.tobytes(), 2 * 1920, sample_rate=48000)))
    resampler = soxr.ResampleStream(48000, 16000, 1)
    back = resampler.resample_chunk(at_48.astype(np.float32) / 32768, last=True)
    assert heard.final == recognised(listener, back) != []


@pytest.mark.parametrize(("container", "size_bytes"), [("ogg", 37), ("webm", 777)])
def test_opus_as_its_bytes_come(
    served: Served, listener: Listener, speech: np.ndarray, container: str, size_bytes: int
) -> None:
    data = opus(soxr.resample(speech, 16000, 48000), container)
    start = json.dumps({"type": "start", "format": "opus"})
    heard = asyncio.run(talk(served, [start, *spoken(data, size_bytes)[1:]]))
    assert heard.code == 1000
    with av.open(io.BytesIO(data)) as file:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    whole = soxr.ResampleStream(48000, 16000, 1).resample_chunk(decoded, last=True)
    assert heard.final == recognised(listener, whole) != []


def test_hotwords_belong_to_a_stream(served: Served, listener: Listener, speech: np.ndarray) -> None:
    words = ("the cat",)
    pcm = (speech * 32768).astype("<i2").tobytes()

    async def both() -> list[list]:
        heard = await asyncio.gather(talk(served, spoken(pcm, 3200, hotwords=words)), talk(served, spoken(pcm, 3200)))
        return [each.final for each in heard]

    with_words, without = asyncio.run(both())
    assert with_words == recognised(listener, speech, words)
    assert without == recognised(listener, speech) != with_words


def test_a_file_in_one_request(served: Served, listener: Listener, speech: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "said.flac"
    soundfile.write(file, speech, 16000)
    words = recognised(listener, speech)
    found = json.loads(post(served, file.read_bytes(), "").read())
    assert found == {"text": " ".join(w["word"] for w in words), "duration_s": 5.0, "words": words}
    with_words = json.loads(post(served, file.read_bytes(), "?hotword=the%20cat").read())
    assert with_words["words"] == recognised(listener, speech, ("the cat",))


@pytest.mark.parametrize(
    ("form", "kind", "begins"),
    [
        ("text", "text/plain", ""),
        ("srt", "application/x-subrip", "1\n00:00:"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:"),
        ("ctm", "text/plain", "- 1 0."),
    ],
)
def test_a_file_in_other_forms(
    served: Served, listener: Listener, hum: np.ndarray, tmp_path: Path, form: str, kind: str, begins: str
) -> None:
    soundfile.write(tmp_path / "said.wav", hum, 16000, subtype="FLOAT")
    answer = post(served, (tmp_path / "said.wav").read_bytes(), f"?format={form}")
    text = answer.read().decode()
    assert answer.headers["content-type"].startswith(kind) and text.startswith(begins)
    assert all("_".join(word["word"].split()) in text.replace(" ", "_") for word in recognised(listener, hum))


def post(served: Served, data: bytes, query: str) -> http.client.HTTPResponse:
    return urllib.request.urlopen(f"{served.url}/transcribe{query}", data=data, timeout=30)
