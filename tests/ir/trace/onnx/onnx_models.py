"""Small ONNX models for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
INT64, UINT8 = TensorProto.INT64, TensorProto.UINT8


def value(name: str, shape: Sequence[Any] | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 21,
    functions: Sequence[Any] = (),
) -> Any:
    initializers = [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    imports += [helper.make_opsetid("local", 1)] if functions else []
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), name=f"the_{op.lower()}", **attributes)


def linear_model() -> Any:
    """`y = relu(x @ w + b)` with a symbolic batch."""
    rng = np.random.default_rng(0)
    weights = {
        "layer.w": rng.standard_normal((4, 3)).astype(np.float32),
        "layer.b": rng.standard_normal(3).astype(np.float32),
    }
    nodes = [
        node("MatMul", ["x", "layer.w"], ["m"]),
        node("Add", ["m", "layer.b"], ["s"]),
        node("Relu", ["s"], ["y"]),
    ]
    return model(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 3])], weights)


def save(proto: Any, path: Any, **options: Any) -> Any:
    onnx.save(proto, path, **options)
    return path
