"""An exported bundle in ONNX Runtime, on CPU; no torch."""

from typing import Any

import onnxruntime

from asr.engines.exported import graph_files, read_file
from asr.engines.graph_engine import Feed, Graph, GraphEngine, graphs_of


class OnnxEngine(GraphEngine):
    def __init__(self, folder: str, facts: dict[str, Any], threads: int = 1) -> None:
        """Raises ValueError for a file that is not the one that was exported."""
        names = graphs_of(facts["traits"]["kind"])
        super().__init__(folder, facts, {name: open_graph(folder, facts, name, threads) for name in names})


def open_graph(folder: str, facts: dict[str, Any], name: str, threads: int = 1) -> Graph:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # nothing: errors come as exceptions, and warnings are of graphs that run
    data = read_file(folder, facts, graph_files(name, "onnx")[0])
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(feed: Feed) -> list:
        return session.run(None, feed)

    return run
