"""export-asr: a bundle as graphs for ONNX Runtime or OpenVINO, compared with PyTorch before they are written."""

import argparse
import hashlib
import json
import math
import tempfile
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import torch
from torch import nn

from asr import audio, checkpoint, folders
from asr.bundle import VOCAB
from asr.checkpoint import Bundle
from asr.endpoint import EndpointRules
from asr.engine import Engine, Floats
from asr.engines import exported
from asr.engines.exported import FACTS, Precision, Runtime
from asr.engines.graph_engine import Graph
from asr.engines.torch_engine import TorchEngine
from asr.exporting.cells import are_faster
from asr.exporting.graphs import Graphs, make_graphs
from asr.exporting.parity import WORDS, Parity, compare
from asr.exporting.precision import check, files_of
from asr.exporting.speed import Speed, measure
from asr.recogniser import Encoder, chunk_of
from asr.stream import Listener
from configs import cli
from configs.wording import counted
from manifests import storage

LONGEST_MS = 10_000
LEAST_AUDIO_S = 1.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="export-asr", description=__doc__)
    parser.add_argument("--bundle", required=True, metavar="FOLDER", help="runs/<name>/best or …/last, or a URL")
    parser.add_argument("--to", required=True, choices=get_args(Runtime), help="the runtime")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32",
                        help="fp16: half the size; int8: a quarter, and fastest (onnx only); default fp32")  # fmt: skip
    parser.add_argument("--chunk-ms", type=int, default=320,
                        help="audio in one step, rounded up to whole encoder frames (default 320)")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the exported bundle")
    parser.add_argument("--audio", nargs="+", default=[], metavar="FILE",
                        help="speech on which words are compared with PyTorch's; a minute of it is plenty (default: "
                        "a synthetic signal)")  # fmt: skip
    parser.add_argument("--max-word-difference", type=float, metavar="SHARE",
                        help="of the words in --audio that may differ from PyTorch's (default: "
                        + ", ".join(f"{key} {value:g}" for key, value in WORDS.items()) + ")")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an exported bundle that is there")
    cli.add_json(parser)
    return cli.run(export, parser, argv)


@dataclass(frozen=True)
class Steps:
    """How an encoder is stepped."""

    frames: int  # feature frames in a step
    chunk: int  # encoder frames that come out together
    ms: float


def export(args: argparse.Namespace) -> None:
    """Raises ValueError for options that cannot be, a damaged bundle, and graphs that differ too much from it."""
    allowed = WORDS[args.precision] if args.max_word_difference is None else args.max_word_difference
    if not 0 <= allowed <= 1:
        raise ValueError(f"--max-word-difference {allowed:g}: must be from 0 to 1")
    check(args.to, args.precision)
    out = _writable(args.out, args.force)
    torch.set_num_threads(1)  # a step of one stream is too small to share
    bundle = checkpoint.load(args.bundle)
    spec = bundle.spec
    steps = fit(bundle.model.encoder, spec.frame_s, args.chunk_ms)
    recordings = [audio.read(uri, spec.sample_rate) for uri in args.audio]
    _check_audio(recordings, steps, spec.sample_rate)
    cli.say(args, _plan(args, bundle, steps))
    if chunk_of(bundle.model.encoder) != steps.chunk:
        bundle.model.encoder.chunk = steps.chunk  # type: ignore[attr-defined]
    graphs = make_graphs(bundle.model, spec, steps.frames, args.precision)
    files = files_of(graphs, args.to, args.precision) | {VOCAB: bundle.tokenizer.model_bytes}
    ours = TorchEngine(bundle.model)
    facts = facts_of(ours, bundle, graphs, files, args.to, args.precision, steps)
    facts["source"] = {"weights_sha256": checkpoint.weights_sha256(args.bundle)}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            storage.write_bytes(storage.join(folder, name), data)
        theirs, graph = exported.open_engine(folder, facts), open_frontend(folder, facts)
    names = {part: [entry[0] for entry in facts[f"{part}_state"]] for part in ("encoder", "predictor")}
    # as people use it: segments end in the same frames, as both have the same chunk
    reference = Listener(ours, bundle.tokenizer, spec, endpoints=EndpointRules())
    parity = compare(reference, replace(reference, engine=theirs), graph, names, recordings)
    cli.say(args, _shown(parity))
    parity.check(args.precision, allowed)
    facts["parity"] = parity.to_json()
    folders.settle(out)
    folders.replace(out, files | {FACTS: (json.dumps(facts, indent=1) + "\n").encode()})
    _finish(args, out, files, facts, ours, theirs, spec.frame_s)


def _writable(uri: str, force: bool) -> str:
    out = storage.absolute(uri)
    if not storage.is_local(out):
        raise ValueError(f"--out {uri}: an export is written to a folder of this machine; copy it from there")
    if next(iter(storage.list_files(out)), None) is not None and not (
        force and storage.exists(storage.join(out, FACTS))
    ):
        raise ValueError(f"--out {uri}: is not empty; choose another, or say --force to replace an exported bundle")
    for folder in (out, storage.parent(out)):  # where it is written, and then moved to
        storage.check_writable(folder)
    return out


def fit(encoder: Encoder, frame_s: float, chunk_ms: int) -> Steps:
    """Steps of `chunk_ms` or a little more.

    An encoder that was trained with chunks of several sizes gets the one that a step is, where it is among them: small
    steps then wait for nothing, and long ones see all of themselves. Else the chunk stays, and a step is several.
    """
    if not 1 <= chunk_ms <= LONGEST_MS:
        raise ValueError(f"--chunk-ms {chunk_ms}: must be from 1 to {LONGEST_MS:,}")
    frame_ms = 1000 * encoder.reduction * frame_s
    wanted = math.ceil(chunk_ms / frame_ms - 1e-6)
    chunk = chunk_of(encoder)
    if wanted in getattr(getattr(encoder, "config", None), "chunks", ()):
        chunk = wanted
    frames = -(-wanted // chunk) * chunk
    return Steps(frames * encoder.reduction, chunk, frames * frame_ms)


def _check_audio(recordings: list[Floats], steps: Steps, sample_rate: int) -> None:
    heard_s, least_s = sum(map(len, recordings)) / sample_rate, max(LEAST_AUDIO_S, 2 * steps.ms / 1000)
    if recordings and heard_s < least_s:
        raise ValueError(f"--audio: is {heard_s:.2f} s long together; give {least_s:g} s or more")


def _plan(args: argparse.Namespace, bundle: Bundle, steps: Steps) -> str:
    encoder = bundle.model.encoder
    parameters = sum(p.numel() for p in bundle.model.parameters())
    text = f"{args.bundle}: {parameters:,} parameters to {args.to} {args.precision}, {steps.ms:g} ms in a step"
    if steps.chunk != chunk_of(encoder):
        text += f", in chunks of {steps.chunk} encoder frames (the bundle says {chunk_of(encoder)}, trained for both)"
    elif steps.chunk > 1:
        text += f", in chunks of {steps.chunk} encoder frames"
    has_gru = any(isinstance(module, nn.GRU) for module in bundle.model.modules())
    if args.precision == "int8" and has_gru and not are_faster(bundle.model, steps.frames):
        text += "\nIts GRU layers stay in float32: ONNX Runtime knows none in eight bits"
    return text


def facts_of(
    engine: TorchEngine, bundle: Bundle, graphs: Graphs, files: dict[str, bytes], runtime: Runtime,
    precision: Precision, steps: Steps,
) -> dict[str, Any]:  # fmt: skip
    """export.json, but for its parity and source."""
    return {
        "version": exported.VERSION,
        "runtime": runtime,
        "precision": precision,
        "chunk_ms": steps.ms,
        "traits": asdict(replace(engine.traits, step_frames=steps.frames)),
        "frontend": bundle.spec.values(),
        "vocab": {"size": bundle.tokenizer.size, "fingerprint": bundle.tokenizer.fingerprint},
        "mean_f": engine.mean_f.tolist(),
        "encoder_state": graphs.encoder_state,
        "predictor_state": graphs.predictor_state,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }


def open_frontend(folder: str, facts: dict[str, Any]) -> Graph:
    if facts["runtime"] == "onnx":
        from asr.engines import onnx_engine

        return onnx_engine.open_graph(folder, facts, "frontend")
    from asr.engines import openvino_engine

    return openvino_engine.open_graph(folder, facts, "frontend")


def _shown(parity: Parity) -> str:
    heard = counted(parity.files, "recording") if parity.files else "a synthetic signal, as there is no --audio"
    states = [f"{key} {value:.1e}" for key, value in parity.encoder.items()]
    lines = [
        f"features differ by at most {parity.features:.1e}",
        f"encoder after {parity.steps:,} steps, differences in parts of the largest number: {', '.join(states)}",
    ]
    if parity.predictor:
        states = [f"{key} {value:.1e}" for key, value in parity.predictor.items()]
        lines.append(f"predictor after {parity.steps:,} tokens: {', '.join(states)}")
    lines.append(f"words that differ from PyTorch's: {parity.words_differing} of {parity.words}, in {heard}")
    return "\n".join(lines)


def _finish(
    args: argparse.Namespace, out: str, files: dict[str, bytes], facts: dict[str, Any], ours: Engine, theirs: Engine,
    frame_s: float,
) -> None:  # fmt: skip
    step_frames = facts["traits"]["step_frames"]
    before, after = (measure(engine, step_frames, frame_s) for engine in (ours, theirs))
    sizes = {name: len(data) for name, data in files.items()}
    values = {
        "bundle": out, "runtime": args.to, "precision": args.precision, "chunk_ms": facts["chunk_ms"], "bytes": sizes,
        "parity": facts["parity"], "torch": before.to_json(), args.to: after.to_json(),
    }  # fmt: skip
    header = ["", "encoder ms", "predictor ms", "joiner ms", "audio s / s"]
    table = cli.table(header, [_row("torch", before), _row(f"{args.to} {args.precision}", after)])
    listed = ", ".join(f"{name} {size / 1e6:,.2f} MB" for name, size in sizes.items())
    cli.summary(args, values, f"{table}\n{out}: {sum(sizes.values()) / 1e6:,.1f} MB ({listed})")


def _row(name: str, speed: Speed) -> list[str]:
    times = (speed.encoder_ms, speed.predictor_ms, speed.joiner_ms)
    return [name, *(f"{value:.3f}" for value in times), f"{speed.audio_s_per_s:.1f}"]
