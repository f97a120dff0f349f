"""serve-asr as a process: it starts, says where, counts, and ends with everybody's last words."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from served import START, Served, hear, pcm16, recognised
from websockets.exceptions import InvalidStatus

import asr.serving
from asr import checkpoint
from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engines.torch_engine import TorchEngine
from asr.serve import main
from asr.serving import server
from asr.stream import Listener

COMMAND = [sys.executable, "-c", "from asr import commands; commands.serve_asr()"]


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "best"
    checkpoint.save(str(folder), bundle)
    return folder


@pytest.fixture
def process(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([*COMMAND, "--bundle", str(folder), "--port", "0", "--max-streams", "2"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def test_sigterm_gives_streams_their_last_words(
    process: "subprocess.Popen[str]", bundle: Bundle, hum: np.ndarray
) -> None:
    assert process.stdout is not None
    ready = process.stdout.readline()
    port = re.fullmatch(r"serve-asr: http://127\.0\.0\.1:(\d+)/ is ready for 2 streams\n", ready)
    assert port, process.stderr and process.stderr.read()
    served = Served(None, int(port[1]))  # type: ignore[arg-type]
    assert served.get("/ready") == "ready\n" and served.get("/health") == "ok\n"
    exact = np.frombuffer(pcm16(hum), "<i2").astype(np.float32) / 32768
    listener = Listener(TorchEngine(bundle.model), bundle.tokenizer, bundle.spec, endpoints=EndpointRules())
    expected = recognised(listener, exact)
    check_metrics(served.get("/metrics").splitlines())

    async def cut_short() -> None:
        with pytest.raises(InvalidStatus):
            await served.socket(additional_headers={"Origin": "http://evil.example"})
        async with served.socket() as client, served.socket() as idle:
            await client.send(json.dumps(START))
            await client.send(pcm16(hum))
            first = [json.loads(await client.recv()) for _ in range(2)]
            await asyncio.to_thread(served.until, "speechmill_queued_audio_seconds 0.0")
            process.send_signal(signal.SIGTERM)
            heard, also = await asyncio.gather(hear(client), hear(idle))
            assert (heard.code, heard.error) == (also.code, also.error) == (1001, "the server is stopping")
            heard.messages = first + heard.messages
            assert heard.final == expected != []

    asyncio.run(cut_short())
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and err == ""
    assert out == "serve-asr: stopped after 1 stream with 2.0 s of audio\n"


def check_metrics(lines: list[str]) -> None:
    """They are Prometheus text."""
    kinds = dict(line.split(" ")[2:4] for line in lines if line.startswith("# TYPE "))
    for line in lines:
        if line.startswith("# "):
            continue
        found = re.fullmatch(r'([a-z_]+?)(_bucket|_sum|_count)?(\{[a-z]+="[^"]*"\})? [0-9.]+', line)
        assert found, line
        assert kinds[found[1]] == "histogram" if found[2] else found[1] in kinds
    buckets = [int(line.split(" ")[1]) for line in lines if "_bucket" in line]
    assert buckets == sorted(buckets)


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with server.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["--bundle", "nowhere", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"serve-asr: error: 127.0.0.1 port {port}: Address already in use\n"


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (["--max-streams", "0"], "--max-streams 0: must be 1 or more"),
        (["--idle-s", "nan"], "--idle-s nan: must be above 0"),
        (["--allow-origin", "*"], "--allow-origin *: must be a scheme and a host, as in https://example.org:8443"),
        (["--allow-origin", "https://a.org/"], "--allow-origin https://a.org/: must be a scheme and a host"),
        (["--hotword", ""], "hotword"),
    ],
)
def test_options_that_cannot_be(
    folder: Path, option: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(folder), "--port", "0", *option]) == 1
    err = capsys.readouterr().err
    assert complaint in err and err.count("\n") == 1


def test_without_its_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "asr.serving.server")
    monkeypatch.delattr(asr.serving, "server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["--bundle", "x"]) == 1
    said = "uvicorn is not installed; say pip install 'speechmill[serve]'"
    assert capsys.readouterr().err == f"serve-asr: error: {said}\n"


def test_serving_loads_no_torch() -> None:
    code = """
import sys

class Blocked:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio", "ray"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
import asr.serve, asr.serving.server
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
