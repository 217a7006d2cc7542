"""Peers that quantize by themselves leave nothing behind."""

import onnx
from onnx import helper

from bench.tuned_peers import pre_processed


def test_what_symbolic_shapes_do_not_know_leaves_no_file(tmp_path, monkeypatch):
    here, made = tmp_path / "here", tmp_path / "made"
    here.mkdir()
    made.mkdir()
    monkeypatch.chdir(here)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("CDist", ["x", "x"], ["m"], domain="com.microsoft"),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, made / "model.onnx")
    pre_processed(made / "model.onnx", made / "ready.onnx")
    assert (made / "ready.onnx").is_file()
    assert (made / "sym_shape_infer_temp.onnx").is_file()
    assert list(here.iterdir()) == []
