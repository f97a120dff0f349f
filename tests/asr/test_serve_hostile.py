"""Raw connections of clients that mean harm: none holds the server up or fills its memory."""

import asyncio
import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Iterator

import av
import pytest
from served import START, Heard, Served, hear, serve, talk
from websockets.exceptions import ConnectionClosed

from asr.serving import server
from asr.serving.limits import Limits
from asr.stream import Listener

UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
START_OPUS = '{"type": "start", "format": "opus"}'


@pytest.fixture(scope="module")
def served(listener: Listener) -> Iterator[Served]:
    with serve(listener, Limits(idle_s=20)) as served:
        yield served


def to(served: Served, said: bytes = b"", receives: int = 1 << 17) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    client.settimeout(20)
    client.connect(("127.0.0.1", served.port))
    client.sendall(said)
    return client


def to_its_end(client: socket.socket) -> bytes:
    answer = b""
    with client:
        try:
            while data := client.recv(1 << 16):
                answer += data
        except ConnectionResetError:
            pass
    return answer


def frame(opcode: int, data: bytes) -> bytes:
    """A client's frame of less than 126 bytes, with a mask of zeros (RFC 6455, section 5.2)."""
    return bytes([0x80 | opcode, 0x80 | len(data)]) + bytes(4) + data


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-"])
def test_a_request_that_is_never_whole(served: Served, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.3)
    assert to_its_end(to(served, said)) == b""


def test_a_body_that_nobody_waits_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.3)
    with to(served, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n") as client:
        answer = b""
        while not answer.endswith(b"Not Found"):
            answer += client.recv(1000)
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(b"x")
        assert to_its_end(client) == b""


@pytest.mark.parametrize("begins", [b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: "])
def test_a_head_without_end_is_not_kept(served: Served, begins: bytes) -> None:
    with to(served, begins) as client, pytest.raises(OSError):
        for _ in range(200):
            client.sendall(b"a" * 100_000)


def test_more_connections_than_there_may_be(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    ask = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    held = [to(served) for _ in range(3)]
    assert to_its_end(to(served)) == b""
    for client in held:
        client.sendall(ask)
        assert to_its_end(client).startswith(b"HTTP/1.1 200 ")


def test_answers_that_nobody_reads(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNREAD_S", 0.3)
    with to(served, b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n" * 1500, receives=2048) as client:
        select.select([client], [], [])
        held = set(served.connections)
        while held & served.connections:
            served.get("/health")


@pytest.mark.parametrize(
    "said",
    [
        UPGRADE + b"\r\n" + frame(1, json.dumps(START).encode()),  # RFC 6455, 4.1: a client waits for the answer
        UPGRADE.replace(b"GET", b"POST") + b"\r\n",
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n",
    ],
)
def test_a_handshake_that_cannot_be(served: Served, said: bytes) -> None:
    answer = to_its_end(to(served, said))
    assert answer.startswith(b"HTTP/1.1 400 ") and b"waits for the answer" in answer


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", True),
        ("localhost:9000", "http://localhost:9000", True),  # through a tunnel
        ("[::1]", "http://[::1]", True),
        ("evil.example", "http://evil.example", False),  # its name leads to 127.0.0.1 now
        ("localhost.evil.example", "http://localhost.evil.example", False),
        ("localhost", "http://[", False),
        ("localhost", "localhost", False),
    ],
)
def test_a_page_whose_name_was_led_here(served: Served, host: str, origin: str, allowed: bool) -> None:
    head = f"POST /transcribe HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n"
    answer = to_its_end(to(served, head.format(port=served.port).encode()))
    assert answer.startswith(b"HTTP/1.1 422 " if allowed else b"HTTP/1.1 403 ")


def test_nobody_is_led_elsewhere(served: Served) -> None:
    ask = b"GET /page.css/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert to_its_end(to(served, ask)).startswith(b"HTTP/1.1 404 ")


def test_answers_to_pings_do_not_pile_up(served: Served) -> None:
    sent = 0
    with to(served, UPGRADE + b"\r\n", receives=2048) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        while sent < 12_000_000:
            client.sendall(pings := frame(9, b"x" * 125) * 500)
            sent += len(pings)
        client.sendall(frame(1, b"{"))
        client.sendall(frame(8, struct.pack(">H", 1000)))
        assert len(to_its_end(client)) < 2_000_000


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "\ud800"},
        {"\ud800": 1},
        {"sample_rate": 16000, "hotwords": ["\ud800"]},
        {f"field{i}": 1 for i in range(50_000)},
        {"sample_rate": float("nan")},
        {"sample_rate": 10**4000},
    ],
)
def test_json_that_is_no_text(served: Served, fields: dict[str, object]) -> None:
    heard = asyncio.run(talk(served, [json.dumps({"type": "start"} | fields)]))
    assert heard.code == 1007 and 0 < len(heard.error) < 200


def test_a_client_that_trickles(listener: Listener) -> None:
    async def trickle(served: Served) -> Heard:
        async with served.socket() as client:
            telling = asyncio.create_task(hear(client))
            with contextlib.suppress(ConnectionClosed):
                await client.send(json.dumps(START))
                while not telling.done():
                    await client.send(b"\0\0")
                    await asyncio.wait([telling], timeout=0.05)
            return await telling

    with serve(listener, Limits(minutes=0.004)) as served:
        heard = asyncio.run(trickle(served))
        assert heard.code == 1008 and heard.error == "a stream may take 0.008 minutes; start another"
        with to(served, b"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n") as client:
            with contextlib.suppress(OSError):
                while not select.select([client], [], [], 0.05)[0]:
                    client.sendall(b"x")
            served.until('speechmill_refusals_total{reason="too long"} 2')


def test_results_do_not_wait_for_each_other() -> None:
    """The second of two small packets would wait for the client's ACK, 40 ms (RFC 896, RFC 1122)."""
    with server.bind("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_opus_that_is_never_heard(served: Served) -> None:
    """Matroska's Void elements, a megabyte each."""
    head = b"\x1aE\xdf\xa3\x80\x18S\x80g\x01" + b"\xff" * 7
    void = b"\xec" + struct.pack(">Q", 1 << 56 | 1_000_000) + bytes(1_000_000)
    heard = asyncio.run(talk(served, [START_OPUS, head, *[void] * 6]))
    assert heard.code == 1007 and ("4 MB without a sound" in heard.error or "cannot be decoded" in heard.error)


def test_a_decoder_that_fails_as_none_should(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream ends at once, and does not wait for a thread that is gone."""

    def fail(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(av, "open", fail)
    heard = asyncio.run(talk(served, [START_OPUS, b"OggS" + os.urandom(1000), '{"type": "end"}']))
    assert heard.code == 1011 and heard.error == "recognition has failed; the server's log says why"
