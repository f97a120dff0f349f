"""What export-asr leaves: a folder that another runtime recognises with, read without torch.

It holds `export.json` (what the graphs take and give, and the hash of every file), `vocab.model` and the graphs
frontend, encoder, predictor and joiner, as <name>.onnx or <name>.xml with <name>.bin. A CTC model has the first two.
The batch is free in every graph, and their states have it as first axis. At the start of a stream they are zeros.
"""

import hashlib
import json
import math
from typing import Any, Literal, get_args

import numpy as np

from asr import bundle
from asr.bundle import VOCAB
from asr.engine import Engine, Traits
from asr.engines.huge_pages import huge_pages
from configs.load import build
from manifests import storage

FACTS = bundle.EXPORT
VERSION = 1
KEYS = ("runtime", "precision", "chunk_ms", "traits", "frontend", "vocab", "mean_f", "encoder_state", "predictor_state",
        "files", "source")  # fmt: skip
STATE_TYPES = ("float32", "int64", "bool")
Runtime = Literal["onnx", "openvino"]
Precision = Literal["fp32", "fp16", "int8"]


class Altered(ValueError):
    """A file that is not the one that was exported."""


def graph_files(graph: str, runtime: str) -> list[str]:
    """The names of a graph's files; its description comes first."""
    return [f"{graph}.onnx"] if runtime == "onnx" else [f"{graph}.xml", f"{graph}.bin"]


def read_facts(folder: str) -> dict[str, Any]:
    """export.json. Raises ValueError when the folder is no export, lacks a file, or is for a newer program, and for
    values that cannot be.

    The hashes are compared by `read_file`, when a file is used.
    """
    again = "export the bundle again"
    if not storage.exists(storage.join(folder, FACTS)):
        raise ValueError(f"{folder}: is not an exported bundle (no {FACTS}); export-asr --out makes them")
    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, FACTS)))
        if not isinstance(facts, dict) or "version" not in facts:
            raise ValueError("it says no version")
    except (ValueError, RecursionError) as err:
        raise ValueError(f"{folder}/{FACTS}: is damaged ({err}); {again}") from None
    if facts["version"] != VERSION:
        raise ValueError(f"{folder}: is an export of version {facts['version']}, this program reads {VERSION}; {again}")
    if lacking := [key for key in KEYS if key not in facts]:
        raise ValueError(f"{folder}/{FACTS}: is damaged (it says no {', no '.join(lacking)}); {again}")
    if senseless := _senseless(folder, facts):
        raise ValueError(f"{folder}/{FACTS}: is damaged (its {', its '.join(senseless)} cannot be); {again}")
    for name in [*facts["files"], VOCAB]:
        if not storage.exists(storage.join(folder, name)):
            raise ValueError(f"{folder}: lacks {name}; {again}")
    return facts


def _senseless(folder: str, facts: dict[str, Any]) -> list[str]:
    """The names of values that nothing can be done with. Raises ValueError for such a value in traits or frontend."""
    traits, spec = read_traits(folder, facts), bundle.read_spec(folder, facts)
    chunk_ms, files, source = facts["chunk_ms"], facts["files"], facts["source"]
    sensible = {
        "runtime": facts["runtime"] in get_args(Runtime),
        "precision": facts["precision"] in get_args(Precision),
        "chunk_ms": isinstance(chunk_ms, int | float) and 0 < chunk_ms < math.inf,
        "traits": traits.step_frames > 0,
        "vocab": bundle.is_vocab(facts["vocab"]) and facts["vocab"]["size"] == traits.vocab,
        "mean_f": _is_mean(facts["mean_f"], spec.mels),
        "encoder_state": _is_layout(facts["encoder_state"]),
        "predictor_state": _is_layout(facts["predictor_state"]),
        "files": isinstance(files, dict) and all(bundle.NAME.fullmatch(n) for n in files),
        "source": isinstance(source, dict) and "weights_sha256" in source,
    }
    return [name for name, is_sensible in sensible.items() if not is_sensible]


def _is_mean(values: Any, mels: int) -> bool:
    return isinstance(values, list) and len(values) == mels and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )  # fmt: skip


def _is_layout(entries: Any) -> bool:
    """Whether these are a name, a shape and a type for each part of a state."""
    return isinstance(entries, list) and all(
        isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str)
        and isinstance(entry[1], list) and all(isinstance(size, int) and 0 < size < 1 << 20 for size in entry[1])
        and math.prod(entry[1]) < 1 << 28 and entry[2] in STATE_TYPES
        for entry in entries
    )  # fmt: skip


def read_file(folder: str, facts: dict[str, Any], name: str) -> bytes:
    """Raises ValueError for a file that is not the one that was exported."""
    data = storage.read_bytes(storage.join(folder, name))
    if hashlib.sha256(data).hexdigest() != facts["files"].get(name):
        raise Altered(f"{folder}/{name}: was cut short or altered since it was exported; export the bundle again")
    return data


def read_traits(folder: str, facts: dict[str, Any]) -> Traits:
    try:
        return build(Traits, facts["traits"], "traits")
    except ValueError as err:
        raise ValueError(f"{folder}/{FACTS}: {err}; export the bundle again") from None


def open_engine(folder: str, facts: dict[str, Any], threads: int = 1) -> Engine:
    """The engine of the runtime that the folder was exported for, after a step to try it.

    Raises ValueError for a file that was altered, graphs that do not do what the facts say, and a runtime that is not
    installed.
    """
    try:
        with huge_pages():
            engine = _engine(folder, facts, threads)
            _try(engine)
    except ModuleNotFoundError as err:
        hint = "pip install 'speechmill[export]'"
        raise ValueError(f"{folder}: needs {err.name}, which is not installed; say: {hint}") from err
    except (Altered, OSError):
        raise
    except Exception as err:  # of the runtimes, which do not say what they may raise
        reason = " ".join(str(err).split())[:300]
        raise ValueError(f"{folder}: {facts['runtime']} cannot run it ({reason}); export the bundle again") from None
    return engine


def _engine(folder: str, facts: dict[str, Any], threads: int) -> Engine:
    if facts["runtime"] == "onnx":
        from asr.engines.onnx_engine import OnnxEngine

        return OnnxEngine(folder, facts, threads)
    from asr.engines.openvino_engine import OpenvinoEngine

    return OpenvinoEngine(folder, facts, threads)


def _try(engine: Engine) -> None:
    """Two steps of each graph, so that a state goes in that came out. Raises ValueError for outputs of a wrong shape,
    and what the runtime raises."""
    traits, state = engine.traits, engine.encoder_start(1)
    feats_btf = np.broadcast_to(engine.mean_f, (1, 2 * traits.step_frames, len(engine.mean_f)))
    enc_bnj, _ = engine.encode(feats_btf, state)
    if enc_bnj.shape[:2] != (1, 2 * traits.step_frames // traits.reduction):
        raise ValueError(f"its encoder gives {list(enc_bnj.shape)} for {2 * traits.step_frames} frames")
    pred_bj = None
    if traits.kind == "transducer":
        _, state = engine.predictor_start(1)
        pred_bj, _ = engine.predict(np.full(1, traits.start_token), state)
    logp_bv = engine.join(enc_bnj[:, 0], pred_bj)
    if logp_bv.shape != (1, traits.vocab) or np.isnan(logp_bv).any():
        raise ValueError(f"it gives {list(logp_bv.shape)} in place of a log-probability for each of {traits.vocab} ids")
