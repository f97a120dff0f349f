"""An exported bundle in OpenVINO, on CPU; no torch.

What was exported as fp16 is computed in bfloat16 where the processor has it, which takes a bit more than half the
time for E6D2; elsewhere in float32. What was exported as fp32 is computed in float32 everywhere: left to itself
OpenVINO would take bfloat16.
"""

import threading
from typing import Any

import numpy as np
import openvino
from openvino import properties
from openvino.properties import hint

from asr.engines.exported import graph_files, read_file
from asr.engines.graph_engine import Feed, Graph, GraphEngine, graphs_of


class OpenvinoEngine(GraphEngine):
    def __init__(self, folder: str, facts: dict[str, Any], threads: int = 1) -> None:
        """Raises ValueError for a file that is not the one that was exported."""
        names = graphs_of(facts["traits"]["kind"])
        super().__init__(folder, facts, {name: open_graph(folder, facts, name, threads) for name in names})


def open_graph(folder: str, facts: dict[str, Any], name: str, threads: int = 1) -> Graph:
    core = openvino.Core()
    half = facts["precision"] == "fp16" and name != "frontend" and "BF16" in core.get_property(
        "CPU", properties.device.capabilities
    )  # fmt: skip
    description, weights = (read_file(folder, facts, file) for file in graph_files(name, "openvino"))
    options = {
        properties.inference_num_threads: threads,
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        hint.enable_cpu_pinning: False,  # several processes would be pinned to the same cores
        hint.inference_precision: openvino.Type.bf16 if half else openvino.Type.f32,
    }
    tensor = openvino.Tensor(np.frombuffer(weights, np.uint8))
    compiled = core.compile_model(core.read_model(description, tensor), "CPU", options)
    request, lock = compiled.create_infer_request(), threading.Lock()
    outputs = range(len(compiled.outputs))

    def run(feed: Feed) -> list[np.ndarray]:
        with lock:  # a request takes one caller at a time
            # without copies of its own, which take a third of the time of a small graph
            result = request.infer(dict(feed), share_inputs=True, share_outputs=True)
            return [result[i].copy() for i in outputs]

    return run
