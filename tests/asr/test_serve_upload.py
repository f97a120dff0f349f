"""Files that cannot be, or stop coming: /transcribe says what is wrong, and nothing of them stays."""

import asyncio
import io
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from served import START, Served, request, serve, talk

from asr.serving.limits import Limits
from asr.stream import Listener

LIMITS = Limits(minutes=0.1, upload_mb=0.25, idle_s=0.4)


@pytest.fixture(scope="module")
def served(listener: Listener) -> Iterator[Served]:
    with serve(listener, LIMITS) as served:
        yield served


def wav(seconds: float) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(1).normal(0, 0.1, round(seconds * 8000))
    soundfile.write(out, noise, 8000, format="WAV")
    return out.getvalue()


@pytest.mark.parametrize(
    ("query", "body", "status", "complaint"),
    [
        ("", b"", 422, "the body is empty"),
        ("", b"hello", 422, "cannot be read as audio"),
        ("", wav(2)[:9000], 422, "truncated"),
        ("", b"\0" * 300_000, 413, "0.25 MB"),
        ("", iter([b"\0" * 100_000] * 3), 413, "0.25 MB"),
        ("", wav(6.5), 413, "0.1 minutes"),
        ("?format=doc", wav(1), 422, "format doc is not known"),
        ("?hotwords=a", wav(1), 422, "hotwords is not known"),
        ("?hotword=" + "a" * 201, wav(1), 422, "at most 200 hotwords"),
        ("?hotword=%C3%98", wav(1), 422, "the vocabulary has no"),
    ],
)
def test_uploads_that_cannot_be(served: Served, query: str, body: Any, status: int, complaint: str) -> None:
    found, text = request(served, "POST", f"/transcribe{query}", body)
    assert found == status and complaint in json.loads(text)["error"] and "/dev/fd" not in text
    assert text.endswith("}\n")


def test_a_form_is_refused_with_what_to_do(served: Served) -> None:
    status, text = request(served, "POST", "/transcribe", b"--x", {"Content-Type": "multipart/form-data; boundary=x"})
    assert status == 415 and "--data-binary @FILE" in text


def test_an_upload_that_stops_coming(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(b"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nRIFF")
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
    served.until("speechmill_streams 0")
    assert asyncio.run(talk(served, [json.dumps(START), '{"type": "end"}'])).code == 1000


def test_nothing_of_an_upload_stays(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(b"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nRIFF" + b"\0" * 5000)
        served.until("speechmill_streams 1")
        assert list(tmp_path.iterdir()) == []  # it never has a name
    served.until("speechmill_streams 0")


def test_an_upload_makes_the_server_open_nothing_else(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg takes such texts for a list of files, relative to where it runs, and for a call that it is to answer."""
    monkeypatch.chdir(tmp_path)
    Path("secret.wav").write_bytes(wav(1))
    for text in ("ffconcat version 1.0\nfile secret.wav\n", "v=0\nc=IN IP4 127.0.0.1\nm=audio 40000 RTP/AVP 0\n"):
        status, answer = request(served, "POST", "/transcribe", text.encode())
        assert status == 422 and "cannot be read as audio" in answer
