"""Clients that err, vanish, hurry, dawdle or mean harm: each is told what is wrong, and nobody else notices."""

import asyncio
import contextlib
import io
import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from served import START, Heard, Served, hear, opus, pcm16, recognised, request, serve, spoken, talk
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engines.torch_engine import TorchEngine
from asr.serving.limits import QUEUE_S, Limits
from asr.stream import Listener

LIMITS = Limits(streams=3, minutes=0.1, upload_mb=0.25, idle_s=0.4, origins=("https://friend.example",))


@pytest.fixture(scope="module")
def served(listener: Listener) -> Iterator[Served]:
    with serve(listener, LIMITS) as served:
        yield served


@pytest.fixture
def free_again(served: Served) -> Iterator[None]:
    """After the fault there is room, and a stream is served well."""
    yield
    served.until("speechmill_streams 0")
    assert asyncio.run(talk(served, [json.dumps(START), '{"type": "end"}'])).code == 1000


def vorbis() -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.random.default_rng(1).normal(0, 0.1, 16000), 16000, format="OGG")
    return out.getvalue()


def start(**fields: Any) -> str:
    return json.dumps(START | fields)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (["hello"], "no JSON"),
        (["[" * 100_000], "no JSON"),
        (["[1, 2]"], 'no JSON object with a "type"'),
        (['{"type": 7}'], 'no JSON object with a "type"'),
        (['{"type": "end"}'], 'first message must be "start"'),
        ([b"\0\0"], 'audio before the message "start"'),
        ([start(format="mp3")], 'format "mp3" is not known; it can be pcm16 or opus'),
        ([start(format=["pcm16"])], "is not known"),
        ([start(sample_rate=0)], "sample_rate 0 must be a whole number from 8000 to 192000"),
        ([start(sample_rate="16000")], 'sample_rate "16000" must be'),
        ([start(sample_rate=True)], "sample_rate true must be"),
        ([start(sample_rate=None)], "sample_rate null must be"),
        ([start(format="opus")], "opus takes no sample_rate"),
        ([start(hotwords="Oslo")], "hotwords must be a list of texts"),
        ([start(hotwords=["a"] * 201)], "at most 200 hotwords"),
        ([start(hotwords=["a" * 61])], "at most 200 hotwords of 60 characters"),
        ([start(hotword=["Oslo"])], 'start has "hotword"'),
        ([start(hotwords=["Ω"])], "the vocabulary has no 'Ω'"),
        ([start(), b"\0\0\0"], "3 bytes; pcm16 has two bytes in each sample"),
        ([start(), start()], 'after "start" come binary messages'),
        ([start(), b"\0\0", "{"], "no JSON"),
    ],
)
def test_what_is_wrong_is_said(served: Served, said: list[bytes | str], complaint: str) -> None:
    heard = asyncio.run(talk(served, said))
    assert complaint in heard.error and "\n" not in heard.error
    assert heard.code == 1007 and complaint in heard.reason


def test_words_before_a_fault_are_still_told(served: Served, listener: Listener, hum: np.ndarray) -> None:
    said = [*spoken(pcm16(hum), 3200)[:-1], b"odd"]
    heard = asyncio.run(talk(served, said))
    exact = np.frombuffer(pcm16(hum), "<i2").astype(np.float32) / 32768
    assert heard.code == 1007 and heard.final == recognised(listener, exact) != []
    assert [m["type"] for m in heard.messages][-2:] == ["error", "last"]


@pytest.mark.usefixtures("free_again")
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("parts", [[b'{"type": "start\xff"}'], [b'{"type": "', b'\xc3("}']], ids=["whole", "fragments"])
def test_a_text_that_is_not_utf8_is_refused_and_not_logged(
    served: Served, caplog: pytest.LogCaptureFixture, begun: bool, parts: list[bytes]
) -> None:
    async def say() -> Heard:
        async with served.socket() as client:
            if begun:
                await client.send(start())
            await client.send(parts if len(parts) > 1 else parts[0], text=True)
            return await hear(client)

    heard = asyncio.run(say())
    assert heard.code == 1007 and "no JSON in UTF-8" in heard.error == heard.reason
    assert caplog.text == ""


@pytest.mark.usefixtures("free_again")
@pytest.mark.parametrize("message", [b"\0" * (2 << 20), "x" * (2 << 20)])
def test_an_oversized_message_is_not_taken_in(served: Served, message: bytes | str) -> None:
    heard = asyncio.run(talk(served, [start(), message]))
    assert heard.code == 1009


@pytest.mark.usefixtures("free_again")
def test_a_message_that_never_ends(served: Served) -> None:
    async def drip() -> int:
        async with served.socket() as client:
            await client.send(start())
            told = asyncio.create_task(hear(client))

            async def fragments() -> Any:
                while not told.done():
                    yield b"\0\0"
                    await asyncio.wait([told], timeout=0.02)

            with contextlib.suppress(ConnectionClosed):
                await client.send(fragments())
            heard = await told
            assert "nothing came for 0.4 s" in heard.error
            return heard.code

    assert asyncio.run(drip()) == 1008


@pytest.mark.parametrize("said", [[], [start()], [start(), b"\0\0" * 1600]])
def test_a_silent_client(served: Served, said: list[bytes | str]) -> None:
    heard = asyncio.run(talk(served, said))
    assert heard.code == 1008 and heard.error == "nothing came for 0.4 s"
    assert [m["type"] for m in heard.messages][-2:] == (["error", "last"] if said else ["error"])


def test_200_clients_at_once(listener: Listener) -> None:
    told: list[str] = []
    enough = asyncio.Event()

    async def one() -> None:
        async with served.socket(open_timeout=60) as client:
            with contextlib.suppress(ConnectionClosed):
                await client.send(start())
            first = json.loads(await client.recv())
            told.append(first.get("message", first["type"]))
            if len(told) == 200:
                enough.set()
            if first["type"] == "started":
                await enough.wait()
            if first["type"] == "error":
                heard = await hear(client)
                assert heard.code == 1013 and heard.reason == first["message"]

    async def crowd() -> None:
        await asyncio.gather(*(one() for _ in range(200)))

    with serve(listener, Limits(streams=3)) as served:
        asyncio.run(crowd())
        assert told.count("started") == 3
        assert told.count("no room: 3 of 3 streams are in use; try again later") == 197
        assert served.get("/health") == "ok\n"
        served.until("speechmill_streams 0")
        assert asyncio.run(talk(served, [start(), '{"type": "end"}'])).code == 1000


def test_no_room_is_told_over_http_too(served: Served) -> None:
    async def full() -> None:
        async with served.socket(), served.socket(), served.socket():
            for method, path in (("GET", "/ready"), ("POST", "/transcribe")):
                status, text = await asyncio.to_thread(request, served, method, path)
                assert status == 503 and "no room: 3 of 3 streams are in use" in text

    asyncio.run(full())


def test_a_client_that_vanishes_leaves_room(listener: Listener) -> None:
    async def vanish() -> None:
        async with served.socket() as client:
            await client.send(start())
            await client.recv()
            await client.send(b"\0\0" * 100_000)
            assert "speechmill_streams 1" in served.get("/metrics").splitlines()
            linger = struct.pack("ii", 1, 0)  # a reset in place of an orderly end
            client.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.transport.abort()

    with serve(listener, Limits()) as served:
        asyncio.run(vanish())
        served.until("speechmill_streams 0")
        assert served.hub._streams == []


def test_a_client_that_does_not_read(listener: Listener, hum: np.ndarray) -> None:
    """It is held back, then cut off, and costs only small buffers meanwhile."""
    with serve(listener, Limits(idle_s=0.4)) as served, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", served.port))
        client.sendall(
            b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        client.sendall(frame(1, start().encode()))
        talking = threading.Thread(target=talk_on, args=[client, frame(2, pcm16(hum))])
        talking.start()
        served.until('speechmill_refusals_total{reason="does not read"} 1')
        served.until("speechmill_streams 0")
        client.shutdown(socket.SHUT_RDWR)
        talking.join()


def talk_on(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            client.sendall(data)


def frame(opcode: int, data: bytes) -> bytes:
    """A client's frame, with a mask of zeros (RFC 6455, section 5.2)."""
    return struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, len(data)) + bytes(4) + data


def test_a_client_faster_than_the_model_is_held_back(bundle: Bundle, hum: np.ndarray) -> None:
    """What waits for the model is bounded: the rest stays with the client."""
    gate = threading.Event()

    class Slow(TorchEngine):
        def encode(self, feats_btf: np.ndarray, state: tuple) -> tuple:
            assert gate.wait(30)
            return super().encode(feats_btf, state)

    def fill(served: Served) -> None:
        while served.hub.queued_s() < QUEUE_S - 0.5:  # the model may have taken a piece of a full queue
            served.get("/health")

    async def hurry(served: Served) -> Heard:
        telling = asyncio.create_task(talk(served, spoken(pcm16(np.tile(hum, 4)), 3200)))
        await asyncio.to_thread(fill, served)
        assert served.hub.queued_s() <= QUEUE_S + 0.1
        assert served.hub._streams[0].taken < 5 * 16000
        gate.set()
        return await telling

    with serve(
        Listener(Slow(bundle.model), bundle.tokenizer, bundle.spec, endpoints=EndpointRules()), Limits()
    ) as served:
        heard = asyncio.run(hurry(served))
        assert heard.code == 1000 and heard.messages[-1]["audio_s"] == 8.0


def test_a_stream_may_not_last_for_ever(served: Served, listener: Listener, hum: np.ndarray) -> None:
    heard = asyncio.run(talk(served, spoken(pcm16(np.tile(hum, 4)), 2 * 16000)))
    assert heard.code == 1008 and heard.error == "a stream may have 0.1 minutes of audio; start another"
    exact = np.frombuffer(pcm16(np.tile(hum, 4)), "<i2").astype(np.float32)[: 6 * 16000] / 32768
    assert heard.final == recognised(listener, exact) != []


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "http://127.0.0.1:{port}"}, True),
        ({"Origin": "https://friend.example"}, True),
        ({"Origin": "https://friend.example.evil.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
    ],
)
def test_pages_of_other_sites_are_refused(served: Served, headers: dict[str, str], allowed: bool) -> None:
    headers = {name: value.format(port=served.port) for name, value in headers.items()}
    status, _ = request(served, "POST", "/transcribe", b"", headers)
    assert status == (422 if allowed else 403)

    async def knock() -> None:
        async with served.socket(additional_headers=headers):
            pass

    if allowed:
        asyncio.run(knock())
    else:
        with pytest.raises(InvalidStatus) as refused:
            asyncio.run(knock())
        assert refused.value.response.status_code == 403
        assert b"--allow-origin" in refused.value.response.body


@pytest.mark.parametrize("container", ["ogg", "webm"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_cut_opus(served: Served, hum: np.ndarray, container: str, share: float) -> None:
    """What had come is recognised."""
    data = opus(soxr.resample(hum, 16000, 48000), container)
    said = [json.dumps({"type": "start", "format": "opus"}), data[: round(len(data) * share)], '{"type": "end"}']
    heard = asyncio.run(talk(served, said))
    last = next(m for m in heard.messages if m["type"] == "last")
    assert 2.0 * share - 0.35 < last["audio_s"] < 2.0 * share + 0.2


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the stream ended after 0 bytes of Opus"),
        (b"Og", "the stream ended after 2 bytes of Opus"),
        (b"RIFF1234WAVE", "neither Ogg nor WebM"),
        (b"OggS" + b"\0" * 5000, "cannot be decoded"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 5000, "cannot be decoded"),
        (vorbis(), "has no Opus in it"),
    ],
)
def test_what_is_no_opus(served: Served, data: bytes, complaint: str) -> None:
    said = [json.dumps({"type": "start", "format": "opus"}), data, '{"type": "end"}']
    heard = asyncio.run(talk(served, said))
    assert heard.code == 1007 and complaint in heard.error


def test_a_stream_that_fails_does_so_alone(bundle: Bundle, hum: np.ndarray) -> None:
    class Fragile(TorchEngine):
        def encode(self, feats_btf: np.ndarray, state: tuple) -> tuple:
            if feats_btf.max() > 4:  # a full-scale square wave
                raise RuntimeError("out of memory")
            return super().encode(feats_btf, state)

    listener = Listener(Fragile(bundle.model), bundle.tokenizer, bundle.spec, endpoints=EndpointRules())
    loud = np.sign(np.sin(np.arange(16000) / 5)).astype(np.float32)

    async def together(served: Served) -> list[Heard]:
        return await asyncio.gather(*(talk(served, spoken(pcm16(x), 640)) for x in (hum, loud, hum)))

    with serve(listener, LIMITS) as served:
        well, failed, also_well = asyncio.run(together(served))
        assert failed.code == 1011 and failed.error == "recognition has failed; the server's log says why"
        assert well.code == also_well.code == 1000 and well.final == also_well.final != []
        assert "speechmill_errors_total 1" in served.get("/metrics").splitlines()
