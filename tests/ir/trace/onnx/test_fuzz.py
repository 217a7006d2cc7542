"""Mutated files: an error of one line or a program, never a traceback, crash or hang."""

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx_models import INT64, linear_model, model, node, value

from effc.ir.errors import EffcError
from effc.ir.export.onnx import onnx_model
from effc.ir.program import Program
from effc.ir.trace import open_model

LIMIT_SECONDS = 60
SETTINGS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def convolution_model():
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "shape": np.array([0, -1]),
        "scale": np.array(0.1, np.float32),
        "zero": np.array(128, np.uint8),
    }
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
        node("QuantizeLinear", ["p", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        node("Reshape", ["d", "shape"], ["r"]),
        node("Softmax", ["r"], ["y"], axis=-1),
    ]
    return model(nodes, [value("x", ["n", 3, 8, 8])], [value("y", ["n", 16])], weights)


def loop_model():
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "step"], ["row"]),
            helper.make_node("Add", ["state", "row"], ["next"]),
            helper.make_node("Identity", ["keeps"], ["still"]),
        ],
        "body",
        [value("step", [], INT64), value("keeps", [], 9), value("state", [2])],
        [value("still", [], 9), value("next", [2])],
    )
    loop = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)
    weights = {"times": np.array(3), "table": np.ones((3, 2), np.float32)}
    return model([loop], [value("x", [2])], [value("y", [2])], weights)


FILES = [proto.SerializeToString() for proto in (linear_model(), convolution_model(), loop_model())]


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """End a mutant that does not."""

    def stop(*details: object) -> None:
        raise TimeoutError("the import hangs")

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def try_to_open(tmp_path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    signal.alarm(LIMIT_SECONDS)
    result: Program | EffcError
    try:
        result = open_model(path)
    except EffcError as error:
        result = error
    finally:
        signal.alarm(0)
    if isinstance(result, EffcError):
        assert result.exit_code in (2, 3)
        assert "\n" not in str(result)
    else:
        assert result.signature.outputs
        written_again(result)


def written_again(program: Program) -> None:
    """What was read is written as a valid model, or refused in one line."""
    signal.alarm(LIMIT_SECONDS)
    result: Any
    try:
        result = onnx_model(program)
    except EffcError as error:
        result = error
    finally:
        signal.alarm(0)
    if isinstance(result, EffcError):
        assert result.exit_code in (2, 3)
        assert "\n" not in str(result)
    else:
        names = [spec.name for spec in program.signature.outputs]
        assert [value.name for value in result.graph.output] == names


@SETTINGS
@given(st.integers(0, len(FILES) - 1), st.floats(0, 1))
@example(1, 0.999)
def test_cut_files(tmp_path, which, share):
    content = FILES[which]
    try_to_open(tmp_path, content[: int(share * len(content))])


@SETTINGS
@given(
    st.integers(0, len(FILES) - 1),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
    ),
)
def test_flipped_bytes(tmp_path, which, flips):
    content = bytearray(FILES[which])
    for share, mask in flips:
        content[int(share * len(content))] ^= mask
    try_to_open(tmp_path, bytes(content))


@SETTINGS
@given(st.integers(0, len(FILES) - 1), st.data())
def test_changed_messages(tmp_path, which, data):
    """Valid protobuf, nonsense in it: names, operators, attributes, shapes, dropped parts."""
    import onnx

    proto = onnx.load_from_string(FILES[which])
    graph = proto.graph
    chosen = data.draw(st.sampled_from(list(graph.node)))
    names = [name for one in graph.node for name in (*one.input, *one.output)]
    match data.draw(st.integers(0, 6)):
        case 0:
            chosen.op_type = data.draw(st.sampled_from(["Gather", "Loop", "Concat", "If", "Slice"]))
        case 1:
            chosen.input[:] = data.draw(st.lists(st.sampled_from(names), max_size=4))
        case 2:
            chosen.output[:] = data.draw(st.lists(st.sampled_from(names), max_size=2))
        case 3:
            del chosen.attribute[:]
        case 4 if graph.initializer:
            tensor = data.draw(st.sampled_from(list(graph.initializer)))
            tensor.dims[:] = data.draw(st.lists(st.integers(-2, 1 << 40), max_size=4))
        case 5 if graph.initializer:
            del graph.initializer[data.draw(st.integers(0, len(graph.initializer) - 1))]
        case _:
            size = data.draw(st.integers(-4, 1 << 34))
            graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    try_to_open(tmp_path, proto.SerializeToString())
