"""Names, symbols, constants, functions and control flow of imported models."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx_models import FLOAT16, INT64, UINT8, linear_model, model, node, save, value

from effc.ir.errors import EffcError, ModelError, UnsupportedError, UsageError
from effc.ir.program import Program
from effc.ir.text import program_text
from effc.ir.trace import open_model
from effc.ir.verify import verify


def opened(proto, tmp_path, **options) -> Program:
    program = open_model(save(proto, tmp_path / "model.onnx"), **options)
    verify(program)
    return program


def check(proto, tmp_path, inputs, **options) -> Program:
    """The program computes what onnx's own evaluator computes."""
    program = opened(proto, tmp_path, **options)
    expected = ReferenceEvaluator(proto).run(None, inputs)
    found = program.run({name: torch.from_numpy(array) for name, array in inputs.items()})
    for spec, wanted in zip(program.signature.outputs, expected, strict=True):
        assert found[spec.name].shape == wanted.shape
        np.testing.assert_allclose(found[spec.name].numpy(), wanted, rtol=1e-5, atol=1e-6)
    return program


def test_names_and_symbols(tmp_path):
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    program = check(linear_model(), tmp_path, {"x": x})
    assert program.name == "model"
    assert str(program.signature) == "(x: f32[batch, 4]) -> (y: f32[batch, 3])"
    assert sorted(program.weights()) == ["layer.b", "layer.w"]
    assert "aten.relu.default(%3) : f32[batch, 3]  @the_relu" in program_text(program)


def test_the_users_inputs_win(tmp_path):
    program = opened(linear_model(), tmp_path, inputs=["x:f32[n=1..6,4]"])
    assert str(program.signature.inputs[0]) == "x: f32[n, 4]"
    assert program.symbols["n"].maximum == 6
    with pytest.raises(UsageError, match="it takes f32"):
        opened(linear_model(), tmp_path, inputs=["x:i64[2,4]"])
    with pytest.raises(UsageError, match="--input names z"):
        opened(linear_model(), tmp_path, inputs=["z:f32[2,4]"])


def test_shape_arithmetic_stays_symbolic(tmp_path):
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "axes"], ["row"]),
        node("Concat", ["row", "rest"], ["wanted"], axis=0),
        node("Reshape", ["x", "wanted"], ["y"]),
    ]
    weights = {
        "zero": np.array(0), "axes": np.array([0]), "rest": np.array([2, -1]),
    }  # fmt: skip
    proto = model(nodes, [value("x", ["n", 6])], [value("y", ["n", 2, 3])], weights)
    x = np.arange(18, dtype=np.float32).reshape(3, 6)
    program = check(proto, tmp_path, {"x": x})
    assert str(program.signature.outputs[0]) == "y: f32[n, 2, 3]"
    assert program.weights() == {}


def test_constants_are_folded(tmp_path):
    nodes = [
        node("Mul", ["a", "a"], ["square"]),
        node("Add", ["x", "square"], ["y"]),
    ]
    weights = {"a": np.array([1.0, 2.0], np.float32)}
    proto = model(nodes, [value("x", [2])], [value("y", [2])], weights)
    program = check(proto, tmp_path, {"x": np.zeros(2, np.float32)})
    assert program.weights()["square"].tolist() == [1.0, 4.0]


def test_functions_are_inlined(tmp_path):
    body = [
        helper.make_node("Elu", ["a"], ["e"]),
        helper.make_node("Add", ["e", "b"], ["c"]),
    ]
    body[0].attribute.append(
        onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    )
    function = helper.make_function(
        "local", "Biased", ["a", "b"], ["c"], body, [helper.make_opsetid("", 21)], ["slope"]
    )
    call = helper.make_node("Biased", ["x", "x"], ["y"], domain="local", slope=0.5)
    proto = model([call], [value("x", [3])], [value("y", [3])], functions=[function])
    x = torch.tensor([-1.0, 0.0, 2.0])
    found = opened(proto, tmp_path).run({"x": x})["y"]
    torch.testing.assert_close(found, torch.tensor([0.5 * (np.exp(-1) - 1) - 1, 0.0, 4.0]).float())


def test_loops_are_unrolled(tmp_path):
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "x"], ["next"]),
            helper.make_node("Identity", ["keeps"], ["still"]),
            helper.make_node("Identity", ["next"], ["row"]),
        ],
        "body",
        [value("step", [], INT64), value("keeps", [], 9), value("state", [2])],
        [value("still", [], 9), value("next", [2]), value("row", [2])],
    )
    loop = helper.make_node("Loop", ["times", "", "x"], ["last", "rows"], body=body)
    outputs = [value("last", [2]), value("rows", [3, 2])]
    proto = model([loop], [value("x", [2])], outputs, {"times": np.array(3)})
    program = opened(proto, tmp_path)
    found = program.run({"x": torch.tensor([1.0, 2.0])})
    assert found["last"].tolist() == [4.0, 8.0]
    assert found["rows"].tolist() == [[2.0, 4.0], [3.0, 6.0], [4.0, 8.0]]
    assert program_text(program).count("aten.add.Tensor") == 3


def test_a_shape_computed_when_it_runs_is_refused(tmp_path):
    nodes = [node("Reshape", ["x", "shape"], ["y"])]
    inputs = [value("x", [4]), value("shape", [2], INT64)]
    with pytest.raises(UnsupportedError) as caught:
        opened(model(nodes, inputs, [value("y", [2, 2])]), tmp_path)
    assert str(caught.value) == (
        "node the_reshape (Reshape) needs a shape: it must be known in advance, but is computed "
        "from shape"
    )


def test_unknown_operators_are_listed_at_once(tmp_path):
    nodes = [
        node("Nonsense", ["x"], ["a"]),
        helper.make_node("Odd", ["a"], ["b"], name="odd", domain="some.where"),
        node("Relu", ["b"], ["y"]),
    ]
    with pytest.raises(UnsupportedError) as caught:
        opened(model(nodes, [value("x", [2])], [value("y", [2])]), tmp_path)
    assert [(u.op, u.source) for u in caught.value.operators] == [
        ("Nonsense", "the_nonsense"),
        ("some.where.Odd", "odd"),
    ]
    assert caught.value.exit_code == 3


def test_a_failing_node_is_named(tmp_path):
    proto = model([node("Add", ["x", "w"], ["y"])], [value("x", [2])], [value("y", None)],
                  {"w": np.zeros(3, np.float32)})  # fmt: skip
    with pytest.raises(ModelError, match=r"^node the_add \(Add\): "):
        opened(proto, tmp_path)


def test_quantized_form(tmp_path):
    """A QDQ pair around a product keeps effc's quantization visible."""
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        node("DequantizeLinear", ["w", "steps"], ["wd"], axis=1),
        node("MatMul", ["d", "wd"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "scale": np.array(0.5, np.float32),
        "zero": np.array(3, np.uint8),
        "w": rng.integers(-127, 128, (4, 3), dtype=np.int8),
        "steps": np.array([0.5, 0.25, 1.0], np.float32),
    }
    proto = model(nodes, [value("x", [2, 4])], [value("y", [2, 3])], weights)
    program = check(proto, tmp_path, {"x": rng.standard_normal((2, 4)).astype(np.float32)})
    text = program_text(program)
    assert text.count("effc.quantize.default") == 1
    assert text.count("effc.dequantize.default") == 2


def test_four_bit_blocks(tmp_path):
    packed = helper.make_tensor("w", onnx.TensorProto.INT4, [4, 2], list(range(-4, 4)))
    nodes = [node("DequantizeLinear", ["w", "steps"], ["y"], axis=0, block_size=2),
             node("Add", ["x", "y"], ["z"])]  # fmt: skip
    steps = np.array([[1.0, 2.0], [0.5, 4.0]], np.float32)
    proto = model(nodes, [value("x", [4, 2])], [value("z", [4, 2])], {"steps": steps})
    proto.graph.initializer.append(packed)
    program = opened(proto, tmp_path)
    expected = np.arange(-4, 4).reshape(4, 2) * steps.repeat(2, 0)
    found = program.run({"x": torch.zeros(4, 2)})["z"]
    np.testing.assert_array_equal(found.numpy(), expected)


def test_weights_of_four_bits_in_a_product(tmp_path):
    """com.microsoft MatMulNBits: codes unpacked by an independent numpy loop."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (3, 2, 16), dtype=np.uint8)
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    scales = rng.random(6).astype(np.float32)
    call = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=32, N=3, bits=4, block_size=16,
    )  # fmt: skip
    proto = model([call], [value("x", [2, 32])], [value("y", [2, 3])], {"w": packed, "s": scales})
    program = opened(proto, tmp_path)
    x = rng.standard_normal((2, 32)).astype(np.float32)
    weight = ((codes.astype(np.float32) - 8) * scales.reshape(3, 2, 1)).reshape(3, 32)
    found = program.run({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(found, x @ weight.T, rtol=1e-5)


def test_unsigned_codes_of_a_lookup(tmp_path):
    nodes = [node("Gather", ["table", "x"], ["y"])]
    weights = {"table": np.arange(8, dtype=np.float32).reshape(4, 2)}
    proto = model(nodes, [value("x", [3], INT64)], [value("y", [3, 2])], weights)
    program = check(proto, tmp_path, {"x": np.array([0, -1, 2])})
    assert "aten.embedding.default" in program_text(program)


def test_outputs_that_are_inputs_or_constants(tmp_path):
    outputs = [value("x", [2]), value("w", [3], UINT8)]
    proto = model([], [value("x", [2])], outputs, {"w": np.array([1, 2, 3], np.uint8)})
    program = opened(proto, tmp_path)
    found = program.run({"x": torch.tensor([1.0, 2.0])})
    assert found["x"].tolist() == [1.0, 2.0]
    assert found["w"].tolist() == [1, 2, 3]


def test_zeros_of_a_spectrum_are_zeros(tmp_path):
    """The suite expects the 2e-7 that numpy's transform in float32 gives in place of 0."""
    proto = model(
        [node("DFT", ["x", "", "axis"], ["y"], inverse=1)],
        [value("x", [1, 10, 10, 2])], [value("y", [1, 10, 10, 2])], {"axis": np.array(1)},
    )  # fmt: skip
    x = np.zeros((1, 10, 10, 2), np.float32)
    x[..., 0] = np.arange(100).reshape(10, 10)
    found = opened(proto, tmp_path).run({"x": torch.from_numpy(x)})["y"].numpy()
    exact = np.fft.ifft(x[..., 0].astype(np.complex128), axis=1)
    np.testing.assert_allclose(found[..., 0], exact.real, rtol=1e-6)
    np.testing.assert_allclose(found[..., 1], exact.imag, rtol=1e-6, atol=1e-13)
    assert abs(np.fft.ifft(x[..., 0].astype(np.complex64), axis=1).imag[0, 5]).max() > 1e-7


def test_softmax_of_16_bits_rounds_every_step(tmp_path):
    proto = model(
        [node("Softmax", ["x"], ["y"])], [value("x", [4, 33], FLOAT16)],
        [value("y", [4, 33], FLOAT16)],
    )  # fmt: skip
    x = np.random.default_rng(2).standard_normal((4, 33)).astype(np.float16)
    found = opened(proto, tmp_path).run({"x": torch.from_numpy(x)})["y"].numpy()
    powers = np.exp(x - x.max(-1, keepdims=True))
    np.testing.assert_array_equal(found, powers / powers.sum(-1, keepdims=True))


def test_a_table_of_positions_limits_a_length(tmp_path):
    nodes = [
        node("Shape", ["x"], ["length"]),
        node("Slice", ["table", "zero", "length", "zero"], ["positions"]),
        node("Add", ["x", "positions"], ["y"]),
    ]
    weights = {"zero": np.array([0]), "table": np.arange(6, dtype=np.float32)}
    proto = model(nodes, [value("x", ["n"])], [value("y", ["n"])], weights)
    notes: list[str] = []
    program = check(proto, tmp_path, {"x": np.ones(4, np.float32)}, notes=notes)
    assert (program.symbols["n"].minimum, program.symbols["n"].maximum) == (1, 6)
    assert notes == ["the dimension n may be 1 to 6 only"]
    with pytest.raises(EffcError, match=r"may only be 1\.\.6 in this model"):
        opened(proto, tmp_path, inputs=["x:f32[n=1..9]"])
