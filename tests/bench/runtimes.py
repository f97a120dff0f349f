"""What recognition costs in each runtime and precision, on one core, with random weights.

E6D2 in steps of 75 and 375 ms, beside a plain export of the architecture that it comes from (`Seed`), and conformer-s
in steps of 320 ms, one stream and eight. All of one table run in turn in one process, some steps at a time.

    taskset -c 0 python tests/bench/runtimes.py [--rounds 9] [--steps 20]
"""

import argparse
import ctypes
import hashlib
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from asr.engine import Engine
from asr.engines import exported
from asr.engines.exported import Precision, Runtime
from asr.engines.torch_engine import TorchEngine
from asr.exporting.graphs import make_graphs
from asr.exporting.precision import files_of
from asr.exporting.speed import Speed
from asr.models import Model, make_model
from asr.recipe import TrainConfig
from configs.load import load
from manifests import storage
from shards.spec import FrontendSpec

FORMS: list[tuple[Runtime, Precision]] = [
    ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "fp16")
]  # fmt: skip
TABLES = [("e6d2", 2048, 6, (1,)), ("e6d2", 2048, 30, (1,)), ("conformer-s", 1024, 32, (1, 8))]


@dataclass
class Parts:
    """The calls of one runtime."""

    encoder: Callable[[], object]
    predictor: Callable[[], object]
    joiner: Callable[[], object]


class Seed(nn.Module):
    """E6D2 of 2021 as its authors exported it: states as inputs and outputs, batch 1, a joiner that concatenates."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(240)
        self.lstms = nn.ModuleList(nn.LSTM(240 if i == 0 else 1024, 1024, batch_first=True) for i in range(6))
        self.norms = nn.ModuleList(nn.LayerNorm(1024) for _ in range(6))
        self.proj = nn.Linear(1024, 640)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, hs, cs = self.norm(x), [], []
        for i, lstm in enumerate(self.lstms):
            y, (h_i, c_i) = lstm(x, (h[i : i + 1], c[i : i + 1]))
            x = self.norms[i](x + y if i else y)
            if i == 1:
                x = x.unflatten(1, (-1, 2)).mean(2)
            hs.append(h_i)
            cs.append(c_i)
        return self.proj(x), torch.cat(hs), torch.cat(cs)


class SeedPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(2048, 64)
        self.lstm = nn.LSTM(64, 256, 2, batch_first=True)
        self.proj = nn.Linear(256, 256)

    def forward(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(self.embed(tokens), (h, c))
        return self.proj(y), h, c


class SeedJoiner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joint = nn.Sequential(nn.Linear(640 + 256, 640), nn.Tanh(), nn.Linear(640, 2048))

    def forward(self, enc: Tensor, pred: Tensor) -> Tensor:
        return self.joint(torch.cat([enc, pred], -1)).log_softmax(-1)


def seed_parts(stacked_frames: int) -> Parts:
    zeros = torch.zeros
    return Parts(
        plain(Seed(), zeros(1, stacked_frames, 240), zeros(6, 1, 1024), zeros(6, 1, 1024)),
        plain(SeedPredictor(), zeros(1, 1, dtype=torch.long), zeros(2, 1, 256), zeros(2, 1, 256)),
        plain(SeedJoiner(), zeros(1, 1, 640), zeros(1, 1, 256)),
    )


def plain(module: nn.Module, *inputs: Tensor) -> Callable[[], object]:
    """A call of torch.onnx.export's graph in ONNX Runtime."""
    file, names = io.BytesIO(), [f"in{i}" for i in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, file, dynamo=False, opset_version=17, input_names=names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0)
    feed = {name: noise.normal(size=x.shape).astype(x.numpy().dtype) for name, x in zip(names, inputs, strict=True)}
    return lambda: session.run(None, feed)


def parts_of(engine: Engine, step_frames: int, batch: int) -> Parts:
    mels = len(engine.mean_f)
    feats_btf = np.random.default_rng(0).normal(size=(batch, step_frames, mels)).astype(np.float32)
    state = engine.encoder_start(batch)
    for _ in range(3):
        enc_bnj, state = engine.encode(feats_btf, state)
    pred_bj, predictor = engine.predictor_start(batch)
    tokens_b, enc_bj = np.ones(batch, np.int64), np.ascontiguousarray(enc_bnj[:, 0])
    return Parts(
        lambda: engine.encode(feats_btf, state),
        lambda: engine.predict(tokens_b, predictor),
        lambda: engine.join(enc_bj, pred_bj),
    )


def engines(model: Model, spec: FrontendSpec, step_frames: int) -> dict[str, Engine]:
    ours = TorchEngine(model)
    found: dict[str, Engine] = {"torch": ours}
    for runtime, precision in FORMS:
        graphs = make_graphs(model, spec, step_frames, precision)
        files = files_of(graphs, runtime, precision)
        facts = {
            "runtime": runtime, "precision": precision, "mean_f": ours.mean_f.tolist(),
            "traits": asdict(replace(ours.traits, step_frames=step_frames)),
            "encoder_state": graphs.encoder_state, "predictor_state": graphs.predictor_state,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                storage.write_bytes(storage.join(folder, name), data)
            ctypes.CDLL(None).malloc_trim(0)  # as in a new process: no memory that was used before
            found[f"{runtime} {precision}"] = exported.open_engine(folder, facts)
    return found


Times = dict[str, list[tuple[float, float, float]]]  # for each round, milliseconds of encoder, predictor and joiner


def measured(parts: dict[str, Parts], rounds: int, steps: int) -> Times:
    times: Times = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            encoder, predictor, joiner = (block_ms(body, steps) for body in (part.encoder, part.predictor, part.joiner))
            times[name].append((encoder, predictor, joiner))
    return times


def block_ms(body: Callable[[], object], steps: int) -> float:
    """The median processor time of some calls."""
    body()  # whoever ran before has taken the caches
    used = []
    for _ in range(steps):
        start = time.process_time()
        body()
        used.append(1000 * (time.process_time() - start))
    return float(np.median(used))


def table(times: Times, step_s: float, frames: int, batch: int, baseline: str) -> None:
    """Medians over the rounds; the ratio is that of a round's two figures, with the least and the largest."""
    speeds = {
        name: [batch * Speed(step_s, *ms, frames).audio_s_per_s for ms in rounds] for name, rounds in times.items()
    }
    print(f"| runtime | encoder ms | predictor ms | joiner ms | audio s / s | times {baseline} |")
    print("|---|---|---|---|---|---|")
    for name, rounds in times.items():
        columns = " | ".join(f"{value:.3f}" for value in np.median(rounds, axis=0))
        ratios = np.divide(speeds[name], speeds[baseline])
        spread = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        print(f"| {name} | {columns} | {np.median(speeds[name]):.1f} | {spread} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, vocab, step_frames, batches in TABLES:
        recipe = load(TrainConfig, name, "train")
        spec = load(FrontendSpec, recipe.frontend, "frontend")
        model = make_model(recipe.model, spec.mels, vocab).eval()
        opened = engines(model, spec, step_frames)
        for batch in batches:
            parts = {key: parts_of(engine, step_frames, batch) for key, engine in opened.items()}
            baseline = "onnx fp32"
            if name == "e6d2":
                baseline = "seed, onnx fp32"
                parts = {baseline: seed_parts(step_frames // 3)} | parts
            print(f"\n{name}, {step_frames * spec.frame_s * 1000:g} ms in a step, {batch} streams\n")
            frames = step_frames // model.encoder.reduction
            table(measured(parts, args.rounds, args.steps), step_frames * spec.frame_s, frames, batch, baseline)


if __name__ == "__main__":
    main()
