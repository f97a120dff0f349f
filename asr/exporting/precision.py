"""ONNX graphs in float32 to the files of a runtime in some precision.

fp16: weights are stored in half precision. ONNX Runtime turns them back to float32 when it loads them, as its operators
for CPUs have no half: the files are half as large and the speed is that of fp32. OpenVINO computes in bfloat16 where
the processor has it.

int8: matrices are multiplied in eight bits, weights rounded beforehand for each output, inputs as they come. Weights
use seven of the bits: processors without VNNI add products of two full bytes in 16 bits, which overflows unseen. Of a
trained model 2 words in 729 then differed from PyTorch's, none with all eight, and 30 were wrong in place of 29. For
OpenVINO there is no int8: see `REFUSED`. Wide recurrent layers in short steps are multiplied otherwise: see cells.py.
"""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from asr.engines.exported import Precision, Runtime, graph_files
from asr.exporting.eight_bits import SMALL, in_eight_bits
from asr.exporting.graphs import Graphs
from manifests import storage

MULTIPLIED = ["MatMul", "Gemm", "LSTM"]  # what int8 is for; ONNX Runtime has no GRU in eight bits
REFUSED = (
    "--to openvino --precision int8: OpenVINO reads ONNX's eight-bit graphs but multiplies in float32, E6D2's in the "
    "time of fp32 and a Conformer's in twice that; say --precision fp16, or --to onnx --precision int8"
)


def check(runtime: Runtime, precision: Precision) -> None:
    """Raises ValueError for a precision that the runtime has no use for."""
    if (runtime, precision) == ("openvino", "int8"):
        raise ValueError(REFUSED)


def files_of(graphs: Graphs, runtime: Runtime, precision: Precision) -> dict[str, bytes]:
    """File names and contents of all graphs. The frontend stays in float32: rounded tables would change the features.

    `check` lets the two pass.
    """
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in graphs.onnx.items():
            kind = "fp32" if name == "frontend" else precision
            if runtime == "openvino":
                files |= _openvino(name, data, kind, folder)
            else:
                files[graph_files(name, runtime)[0]] = _onnx(data, kind, graphs.products, folder)
    return files


def _onnx(data: bytes, precision: str, products: bool, folder: str) -> bytes:
    if precision == "fp32":
        return data
    if precision == "fp16":
        return _halved(data)
    if products:
        return in_eight_bits(data)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = Path(folder) / "int8.onnx"
    logging.disable(logging.WARNING)  # it advises a step of preparation that changes nothing here
    try:
        quantize_dynamic(
            onnx.load_from_string(data), out, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
            op_types_to_quantize=MULTIPLIED,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return storage.read_bytes(str(out))


def _halved(data: bytes) -> bytes:
    """Large weights in float16, each with a cast back to float32, which ONNX Runtime does once, when it loads."""
    model = onnx.load_from_string(data)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise ValueError(f"--precision fp16: a weight of {np.abs(values).max():g} is too large; say fp32")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def _openvino(name: str, data: bytes, precision: str, folder: str) -> dict[str, bytes]:
    import openvino

    source = os.path.join(folder, f"{name}.onnx")
    storage.write_bytes(source, data)
    names = graph_files(name, "openvino")
    try:
        model = openvino.Core().read_model(source)
    except RuntimeError as err:
        reason = str(err).strip().splitlines()[-1].strip(" -")
        raise ValueError(f"--to openvino: OpenVINO cannot read the {name} ({reason}); say --to onnx") from None
    openvino.save_model(model, os.path.join(folder, names[0]), compress_to_fp16=precision == "fp16")
    return {file: storage.read_bytes(os.path.join(folder, file)) for file in names}
