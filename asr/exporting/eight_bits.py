"""ONNX graphs whose matrices are multiplied in eight bits, by ONNX Runtime's MatMulNBits.

Weights are rounded beforehand, `BLOCK` of an output's inputs with a scale of their own; inputs as they come, each row
and block likewise, so that what one stream gets does not depend on the others in its batch. Kernels for AVX2, AVX-512
and NEON are exact in the sums; where a processor has none, ONNX Runtime multiplies in float32.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

BLOCK = 128  # E6D2's encoder in steps of 75 ms: 2.3 ms with 256, 2.9 with 128, 3.1 with 64, 3.5 with 32
SMALL = 1024  # numbers in a tensor that is not worth rounding
DOMAIN, INT8_INPUTS = "com.microsoft", 4  # accuracy_level: the inputs may be rounded to eight bits too


def in_eight_bits(data: bytes) -> bytes:
    """The graph with each MatMul and Gemm by a constant matrix in eight bits."""
    model = onnx.load_from_string(data)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, rounded = [], {}
    for node in model.graph.node:
        weights = _weights(node, constants)
        if weights is None:
            nodes.append(node)
            continue
        name = f"{node.input[1]}_{'t' if _is_transposed(node) else 'n'}"
        if name not in rounded:
            rounded[name] = _rounded(weights)
        nodes += _product(node, name, weights.shape)
    for name, (whole_nbk, scales_nb) in rounded.items():
        model.graph.initializer.append(numpy_helper.from_array(whole_nbk, f"{name}_whole"))
        model.graph.initializer.append(numpy_helper.from_array(scales_nb, f"{name}_scales"))
    _replace(model.graph, nodes)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model.SerializeToString()


def _weights(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> np.ndarray | None:
    """The matrix [inputs, outputs] that the node multiplies by, if it is a constant and worth it."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants:
        return None
    matrix = numpy_helper.to_array(constants[node.input[1]])
    if matrix.ndim != 2 or matrix.size < SMALL:
        return None
    return matrix.T if _is_transposed(node) else matrix


def _is_transposed(node: onnx.NodeProto) -> bool:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes.get("alpha", 1) == attributes.get("beta", 1) == 1 and not attributes.get("transA")
    return bool(attributes.get("transB"))


def _rounded(weights_kn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers around 128 [n, blocks, k in a block] and scales [n, blocks]: symmetric, to the nearest."""
    inputs, outputs = weights_kn.shape
    filled_kn = np.pad(weights_kn, ((0, -inputs % BLOCK), (0, 0)))
    blocks_nbk = filled_kn.T.reshape(outputs, -1, BLOCK)
    largest_nb = np.abs(blocks_nbk).max(-1)
    scales_nb = np.where(largest_nb > 0, largest_nb / 127, 1).astype(np.float32)
    whole_nbk = np.rint(blocks_nbk / scales_nb[:, :, None]) + 128
    return whole_nbk.astype(np.uint8), scales_nb


def _product(node: onnx.NodeProto, name: str, shape: tuple[int, ...]) -> list[onnx.NodeProto]:
    bias = list(node.input[2:3])
    result = f"{node.output[0]}_product" if bias else node.output[0]
    product = helper.make_node(
        "MatMulNBits", [node.input[0], f"{name}_whole", f"{name}_scales"], [result], name=f"{node.name}_eight_bits",
        domain=DOMAIN, K=shape[0], N=shape[1], bits=8, block_size=BLOCK, accuracy_level=INT8_INPUTS,
    )  # fmt: skip
    return [product, *([helper.make_node("Add", [result, *bias], list(node.output))] if bias else [])]


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Other nodes, and of the initializers those that they use."""
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    for field, values in ((graph.node, nodes), (graph.initializer, kept)):
        del field[:]
        field.extend(values)
