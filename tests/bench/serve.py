"""How many people one core serves: real-time WebSocket clients against a server in a process of its own.

    OMP_NUM_THREADS=1 taskset -c 1 python -m tests.bench.serve --to onnx --precision int8 --streams 4 8 12

The server is on core 0, the clients on another. Each client sends 40 ms of PCM16 when so much has been "spoken",
begins at a time of its own, and notes when it sent which sample. A result names the seconds of audio that it rests on
(audio_s): its latency is the time from sending the last of these samples to its arrival. The model is conformer-s with
random weights, the blank so likely that it says about four tokens a second, as speech has.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from websockets.asyncio.client import connect

from asr import checkpoint, export, stream, tokenizer
from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engines.torch_engine import TorchEngine
from asr.recipe import TrainConfig
from asr.stream import Listener
from asr.tokenizer import BLANK, Tokenizer
from asr.transducer import Transducer
from configs import cli
from configs.load import load
from shards.spec import FrontendSpec

RATE = 16000
MESSAGE_S = 0.04
TOKENS_S = 4.0
WARM_S = 5.0  # not counted
SERVER = "import sys; from asr.serve import main; sys.exit(main(sys.argv[1:]))"


def signal(seconds: float) -> np.ndarray:
    """PCM16 of a voice-like hum that rises and falls, with pauses of 0.4 s."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    phase = np.cumsum(2 * np.pi * (130 + 50 * np.sin(2 * np.pi * 0.7 * time_s)) / RATE)
    voice = sum(np.sin(h * phase) / h for h in range(1, 20)) * np.abs(np.sin(2 * np.pi * 1.7 * time_s)) * 0.1
    voice *= time_s % 3 > 0.4
    noisy = voice + np.random.default_rng(1).normal(0, 0.003, len(time_s))
    return (noisy * 32767).astype("<i2")


def make_bundle(folder: str) -> float:
    """Random weights; gives the tokens a second that they say."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    letters = np.random.default_rng(2)
    words = ["".join(letters.choice(list("abcdefghijklmnopqrstuvwxyz"), letters.integers(2, 9))) for _ in range(4000)]
    texts = [" ".join(words[i : i + 8]) for i in range(0, len(words), 8)]
    vocab = Tokenizer(tokenizer.train(texts, "bpe", 1024, byte_fallback=False))
    config = load(TrainConfig, "conformer-s", "train")
    spec = load(FrontendSpec, config.frontend, "frontend")
    model = Transducer(config.model, spec.mels, vocab.size).eval()
    model.set_normalisation(torch.full((spec.mels,), -6.0), torch.full((spec.mels,), 3.0))
    with torch.no_grad():
        model.output.weight.mul_(20)
    samples_t = signal(20).astype(np.float32) / 32768
    low, high, said = 0.0, 40.0, 0.0
    for _ in range(14):  # the bias at which it says so many
        with torch.no_grad():
            model.output.bias[BLANK] = (low + high) / 2
        listener = Listener(TorchEngine(model), vocab, spec, endpoints=EndpointRules())
        update, state = stream.step(listener, samples_t, stream.start(listener))
        found = [*update.final, *stream.finish(listener, state).final]
        said = sum(len(vocab.encode(word.text)) for word in found) / 20
        low, high = ((low + high) / 2, high) if said > TOKENS_S else (low, (low + high) / 2)
    checkpoint.save(folder, Bundle(model, vocab, spec, {"step": 0, "config": {}}))
    return said


@dataclass
class Client:
    """A person who speaks for so many seconds. `late_s` has a latency for each result that was counted."""

    port: int
    pcm: np.ndarray
    speaks_s: float
    late_s: list[float] = field(default_factory=list)
    last_s: float = 0.0  # from "end" to the last words
    behind_s: float = 0.0  # at most, of the client's own clock: it is too slow itself
    words: int = 0

    async def run(self, begins_s: float) -> None:
        await asyncio.sleep(begins_s)
        async with connect(f"ws://127.0.0.1:{self.port}/stream", compression=None) as socket:
            await socket.send(json.dumps({"type": "start", "format": "pcm16", "sample_rate": RATE}))
            await socket.recv()
            sent: list[float] = []  # when each message was
            _, self.last_s = await asyncio.gather(self._speak(socket, sent), self._hear(socket, sent))

    async def _speak(self, socket, sent: list[float]) -> None:
        size = round(MESSAGE_S * RATE)
        begun = time.perf_counter()
        for number in range(round(self.speaks_s / MESSAGE_S)):
            due = begun + (number + 1) * MESSAGE_S
            await asyncio.sleep(due - time.perf_counter())
            self.behind_s = max(self.behind_s, time.perf_counter() - due)
            from_ = number * size % (len(self.pcm) - size)
            await socket.send(self.pcm[from_ : from_ + size].tobytes())
            sent.append(time.perf_counter())
        await socket.send('{"type": "end"}')
        sent.append(time.perf_counter())

    async def _hear(self, socket, sent: list[float]) -> float:
        while True:
            told = json.loads(await socket.recv())
            now = time.perf_counter()
            self.words += len(told["final"])
            if told["type"] == "last":
                return now - sent[-1]
            number = round(told["audio_s"] / MESSAGE_S) - 1
            if told["audio_s"] > WARM_S:
                self.late_s.append(now - sent[number])


async def crowd(port: int, count: int, seconds: float, pcm: np.ndarray) -> list[Client]:
    draw = random.Random(count)
    clients = [Client(port, np.roll(pcm, draw.randrange(len(pcm))), seconds) for _ in range(count)]
    await asyncio.gather(*(client.run(draw.random()) for client in clients))
    return clients


def cpu_s(pid: int) -> float:
    """User and system time, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(bundle: str, count: int, seconds: float, pcm: np.ndarray, core: int) -> list[str]:
    """A row of the table, from a server of its own."""
    command = ["taskset", "-c", str(core), sys.executable, "-c", SERVER, "--bundle", bundle, "--port", "0",
               "--max-streams", str(count)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[3].split("/")[0])
        before, began = cpu_s(process.pid), time.perf_counter()
        clients = asyncio.run(crowd(port, count, seconds, pcm))
        busy = (cpu_s(process.pid) - before) / (time.perf_counter() - began)
        memory_mb = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        process.terminate()
    late_ms = 1000 * np.sort(list(itertools.chain(*(client.late_s for client in clients))))
    p50, p95, p99 = (f"{np.quantile(late_ms, q):.0f}" for q in (0.5, 0.95, 0.99))
    last_ms = 1000 * np.quantile([client.last_s for client in clients], 0.95)
    behind_ms = 1000 * max(client.behind_s for client in clients)
    return [str(count), str(len(late_ms)), p50, p95, p99, f"{late_ms[-1]:.0f}", f"{last_ms:.0f}", f"{100 * busy:.0f} %",
            f"{memory_mb:.0f}", f"{behind_ms:.0f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 12, 16])
    parser.add_argument("--seconds", type=float, default=30.0, help="that each client speaks")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--to", choices=["torch", "onnx", "openvino"], default="onnx")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--chunk-ms", type=int, default=320)
    args = parser.parse_args()
    pcm = signal(30)
    with tempfile.TemporaryDirectory() as folder:
        bundle = f"{folder}/trained"
        print(f"{make_bundle(bundle):.1f} tokens a second")
        if args.to != "torch":
            asked = ["--to", args.to, "--precision", args.precision, "--chunk-ms", str(args.chunk_ms)]
            if export.main(["--bundle", bundle, *asked, "--out", f"{folder}/out", "--max-word-difference", "1"]):
                sys.exit(1)
            bundle = f"{folder}/out"
        rows = [measure(bundle, count, args.seconds, pcm, args.server_core) for count in args.streams]
    header = ["streams", "results", "p50 ms", "p95", "p99", "max", "last p95", "core", "MB", "client late ms"]
    print(cli.table(header, rows))


if __name__ == "__main__":
    main()
