"""What export-asr leaves: a folder that another runtime recognises with, read without torch.

It holds `export.json` (what the graphs take and give, and the hash of every file), `vocab.model` and the graphs
frontend, encoder, predictor and joiner, as <name>.onnx or <name>.xml with <name>.bin. A CTC model has the first two.
The batch is free in every graph, and their states have it as first axis. At the start of a stream they are zeros.
"""

import hashlib
import json
from typing import Any, Literal

from asr.bundle import VOCAB
from asr.engine import Engine, Traits
from configs.load import build
from manifests import storage

FACTS = "export.json"
VERSION = 1
KEYS = ("runtime", "precision", "chunk_ms", "traits", "frontend", "vocab", "mean_f", "encoder_state", "predictor_state",
        "files", "source")  # fmt: skip
Runtime = Literal["onnx", "openvino"]
Precision = Literal["fp32", "fp16", "int8"]


def graph_files(graph: str, runtime: str) -> list[str]:
    """The names of a graph's files; its description comes first."""
    return [f"{graph}.onnx"] if runtime == "onnx" else [f"{graph}.xml", f"{graph}.bin"]


def read_facts(folder: str) -> dict[str, Any]:
    """export.json. Raises ValueError when the folder is no export, lacks a file, or is for a newer program.

    The hashes are compared by `read_file`, when a file is used.
    """
    again = "export the bundle again"
    if not storage.exists(storage.join(folder, FACTS)):
        raise ValueError(f"{folder}: is not an exported bundle (no {FACTS}); export-asr --out makes them")
    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, FACTS)))
        if not isinstance(facts, dict) or "version" not in facts:
            raise ValueError("it says no version")
    except ValueError as err:
        raise ValueError(f"{folder}/{FACTS}: is damaged ({err}); {again}") from None
    if facts["version"] != VERSION:
        raise ValueError(f"{folder}: is an export of version {facts['version']}, this program reads {VERSION}; {again}")
    if lacking := [key for key in KEYS if key not in facts]:
        raise ValueError(f"{folder}/{FACTS}: is damaged (it says no {', no '.join(lacking)}); {again}")
    for name in [*facts["files"], VOCAB]:
        if not storage.exists(storage.join(folder, name)):
            raise ValueError(f"{folder}: lacks {name}; {again}")
    return facts


def read_file(folder: str, facts: dict[str, Any], name: str) -> bytes:
    """Raises ValueError for a file that is not the one that was exported."""
    data = storage.read_bytes(storage.join(folder, name))
    if hashlib.sha256(data).hexdigest() != facts["files"].get(name):
        raise ValueError(f"{folder}/{name}: was cut short or altered since it was exported; export the bundle again")
    return data


def read_traits(folder: str, facts: dict[str, Any]) -> Traits:
    return build(Traits, facts["traits"], f"{folder}/{FACTS}: traits")


def open_engine(folder: str, facts: dict[str, Any], threads: int = 1) -> Engine:
    """The engine of the runtime that the folder was exported for. Raises ValueError for a file that was altered, or a
    runtime that is not installed."""
    try:
        if facts["runtime"] == "onnx":
            from asr.onnx_engine import OnnxEngine

            return OnnxEngine(folder, facts, threads)
        from asr.openvino_engine import OpenvinoEngine

        return OpenvinoEngine(folder, facts, threads)
    except ModuleNotFoundError as err:
        hint = "pip install 'speechmill[export]'"
        raise ValueError(f"{folder}: needs {err.name}, which is not installed; say: {hint}") from err
