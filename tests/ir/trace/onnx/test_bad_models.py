"""Damaged, contradictory and hostile ONNX files: one line, no traceback, nothing allocated."""

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_models import INT64, linear_model, model, node, save, value

from effc.ir.errors import EffcError, ModelError
from effc.ir.trace import open_model


def refused(proto, tmp_path) -> str:
    with pytest.raises(EffcError) as caught:
        open_model(save(proto, tmp_path / "model.onnx"))
    assert caught.value.exit_code in (2, 3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cycles(tmp_path):
    nodes = [node("Relu", ["b"], ["a"]), node("Exp", ["a"], ["b"]), node("Neg", ["x"], ["y"])]
    message = refused(model(nodes, [value("x", [2])], [value("y", [2])]), tmp_path)
    assert message == "node the_relu (Relu) is part of a cycle"


def test_nodes_in_any_order(tmp_path):
    nodes = [node("Exp", ["a"], ["y"]), node("Relu", ["x"], ["a"])]
    program = open_model(
        save(model(nodes, [value("x", [2])], [value("y", [2])]), tmp_path / "model.onnx")
    )
    assert program.run({"x": torch.tensor([-1.0, 0.0])})["y"].tolist() == [1.0, 1.0]


def test_missing_weights(tmp_path):
    proto = model([node("Add", ["x", "w"], ["y"])], [value("x", [2])], [value("y", [2])])
    assert refused(proto, tmp_path) == "nothing computes w"


def test_two_nodes_with_one_result(tmp_path):
    nodes = [node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["y"])]
    message = refused(model(nodes, [value("x", [2])], [value("y", [2])]), tmp_path)
    assert message == "node the_exp (Exp) computes y, which exists"


def test_weights_shorter_than_their_shape(tmp_path):
    proto = linear_model()
    proto.graph.initializer[0].dims[0] = 1 << 40
    message = refused(proto, tmp_path)
    assert "tensor layer.w of type float and shape [1099511627776, 3] needs" in message


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd"])
def test_external_data_outside_of_the_folder(tmp_path, location):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    path = save(
        linear_model(), tmp_path / "inner" / "model.onnx", save_as_external_data=True,
        size_threshold=0, location="weights.bin",
    )  # fmt: skip
    path.write_bytes(path.read_bytes())
    import onnx

    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="its data lie outside the model's folder"):
        open_model(path)


def test_external_data(tmp_path):
    path = save(
        linear_model(), tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0,
        location="weights.bin",
    )  # fmt: skip
    program = open_model(path)
    assert sorted(program.weights()) == ["layer.b", "layer.w"]
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    with pytest.raises(ModelError, match=r"needs 48 bytes; weights\.bin holds 8"):
        open_model(path)


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand"])
def test_huge_constants_are_refused_before_allocation(tmp_path, op):
    weights = {"shape": np.array([1 << 20, 1 << 20, 1 << 10]), "one": np.ones(1, np.float32)}
    inputs = ["shape"] if op == "ConstantOfShape" else ["one", "shape"]
    nodes = [node(op, inputs, ["big"]), node("Add", ["big", "one"], ["sum"]),
             node("ReduceSum", ["sum"], ["all"]), node("Add", ["x", "all"], ["y"])]  # fmt: skip
    message = refused(model(nodes, [value("x", [1])], [value("y", None)], weights), tmp_path)
    assert "more than half of this machine's memory" in message


def test_huge_inputs_are_refused(tmp_path):
    proto = model(
        [node("Relu", ["x"], ["y"])], [value("x", [1 << 30, 1 << 30])], [value("y", None)]
    )
    assert "more than half of this machine's memory" in refused(proto, tmp_path)


def test_endless_loops_are_refused(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["keeps"], ["still"]),
         helper.make_node("Add", ["state", "state"], ["next"])],
        "body",
        [value("step", [], INT64), value("keeps", [], 9), value("state", [2])],
        [value("still", [], 9), value("next", [2])],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["", "go", "x"], ["y"], name="loop", body=body)
    proto = model([loop], [value("x", [2])], [value("y", [2])], {"go": np.array(True)})
    assert "Loop at loop: it runs more than 1024 times" in refused(proto, tmp_path)


def test_functions_that_call_each_other(tmp_path):
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    body = [helper.make_node("Again", ["a"], ["b"], domain="local")]
    function = helper.make_function("local", "Again", ["a"], ["b"], body, imports)
    call = helper.make_node("Again", ["x"], ["y"], domain="local")
    proto = model([call], [value("x", [2])], [value("y", [2])], functions=[function])
    assert "functions call each other in a circle" in refused(proto, tmp_path)
