"""The ONNX export of whole programs: quantized, symbolic, 4-bit, real; and what it refuses."""

import numpy as np
import onnx
import pytest
import torch
from export_checks import FLOAT_DB, QUANTIZED_DB, check_export, in_runtime
from torch import Tensor, nn

from effc.ir.edit import Editor
from effc.ir.errors import UnsupportedError, UsageError
from effc.ir.export.onnx import onnx_model, save_onnx, unsupported
from effc.ir.export.onnx.graph import FIRST_OPSET
from effc.ir.program import Program
from effc.ir.testing import random_inputs, traced
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager
from effc.passes.report import PipelineReport


class Block(nn.Module):
    """A convolution, a linear layer of rows, an attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.rows = nn.Linear(16, 64)
        self.last = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(x)).relu()
        rows = self.rows(maps.flatten(2).transpose(1, 2)).reshape(x.shape[0], -1, 4, 16)
        rows = rows.transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(rows, rows, rows, is_causal=True)
        return self.last(mixed.transpose(1, 2).flatten(2))


class Special(nn.Module):
    """Two operators ONNX lacks, one of them twice."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(torch.special.bessel_j0(x)) + torch.special.i0e(x)


def passed(program: Program, passes: str, calibration: object = None) -> PipelineReport:
    context = PassContext(calibration=calibration)
    return PassManager.parse(f"{CLEAN},{passes}" if passes else CLEAN).run(program, context)


@pytest.fixture(scope="module")
def block() -> Program:
    example = torch.randn(2, 3, 8, 8)
    program = traced(Block().eval(), example, dynamic={"x.0": "batch"})
    return passed(program, "").program


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def batches(program: Program) -> list[dict[str, np.ndarray]]:
    return [
        {name: value.numpy() for name, value in random_inputs(program, seed=seed).items()}
        for seed in range(4)
    ]


def test_float(block, tmp_path):
    model = check_export(block, tmp_path, FLOAT_DB)
    assert model.opset_import[0].version == FIRST_OPSET
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 8, 8]
    assert {tensor.name for tensor in model.graph.initializer} >= {"rows.bias", "last.weight"}


def test_other_sizes_than_the_example(block, tmp_path):
    inputs = random_inputs(block, {"batch": 5})
    assert check_export(block, tmp_path, FLOAT_DB, inputs).graph.node


@pytest.mark.parametrize("bits", [8, 3])
def test_static_codes(block, tmp_path, bits):
    pipeline = f"quantize{{activations=static bits={bits}}}"
    program = passed(block, pipeline, batches(block)).program
    model = check_export(program, tmp_path, QUANTIZED_DB)
    assert {"QuantizeLinear", "DequantizeLinear", "Conv", "MatMul"} <= kinds(model)
    weights = [
        t for t in model.graph.initializer if t.name.startswith("conv.") and len(t.dims) == 4
    ]
    assert [t.data_type for t in weights] == [onnx.TensorProto.INT8]
    assert model.opset_import[0].version == FIRST_OPSET


def test_dynamic_codes_are_multiplied_as_integers(block, tmp_path):
    program = passed(block, "quantize{activations=dynamic}").program
    model = check_export(program, tmp_path, QUANTIZED_DB)
    assert "MatMulInteger" in kinds(model)


@pytest.mark.parametrize(("bits", "opset"), [(2, 25), (3, 21), (4, 21), (5, 21), (8, 21)])
@pytest.mark.parametrize("options", ["", "symmetric=false "])
def test_grouped_weights(block, tmp_path, bits, opset, options):
    pipeline = f"quantize-weights{{{options}bits={bits} group=32}}"
    program = passed(block, pipeline).program
    model = check_export(program, tmp_path, QUANTIZED_DB)
    assert model.opset_import[0].version == opset
    types = {t.data_type for t in model.graph.initializer}
    names = {2: "INT2", 3: "UINT4", 4: "INT4", 5: "UINT8", 8: "INT8"}
    name = names[bits] if not options else names[bits].replace("UINT", "INT").replace("INT", "UINT")
    assert getattr(onnx.TensorProto, name) in types


@pytest.mark.parametrize(
    ("scheme", "opset"), [("nf4", 21), ("e4m3", 13), ("nvfp4", 21), ("mxfp8", 13)]
)
def test_weights_by_a_table(block, tmp_path, scheme, opset):
    program = passed(block, f"quantize-weights{{scheme={scheme}}}").program
    model = check_export(program, tmp_path, QUANTIZED_DB)
    assert model.opset_import[0].version == opset
    assert "Gather" in kinds(model)


def test_ternary_planes_add_up(block, tmp_path):
    program = passed(block, "quantize-weights{scheme=ternary group=32}").program
    assert check_export(program, tmp_path, QUANTIZED_DB).opset_import[0].version == 25


def test_blocks_that_do_not_divide_a_row(tmp_path):
    torch.manual_seed(0)
    program = traced(nn.Linear(48, 8).eval(), torch.randn(4, 48))
    program = passed(program, "quantize-weights{bits=4 group=32}").program
    model = check_export(program, tmp_path, QUANTIZED_DB)
    blocks = [a.i for n in model.graph.node for a in n.attribute if a.name == "block_size"]
    assert blocks == [16]


def test_a_layer_norm_needs_its_opset(tmp_path):
    program = traced(nn.LayerNorm(8).eval(), torch.randn(2, 8))
    assert check_export(program, tmp_path).opset_import[0].version == 17


def test_everything_without_a_form_is_named_at_once():
    program = traced(Special(), torch.randn(3))
    with pytest.raises(UnsupportedError) as caught:
        onnx_model(program)
    named = {entry.op: entry.count for entry in caught.value.operators}
    assert named == {"aten.special_bessel_j0.default": 2, "aten.special_i0e.default": 1}
    assert [entry.op for entry in unsupported(program)] == list(named)


def test_the_file_appears_whole_or_not_at_all(block, tmp_path):
    path = tmp_path / "model.onnx"
    model = save_onnx(block, path)
    assert path.read_bytes() == model.SerializeToString()
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(UsageError, match="cannot write"):
        save_onnx(block, tmp_path / "missing" / "model.onnx")


def test_the_same_program_gives_the_same_bytes(block):
    first, second = (onnx_model(block.clone()).SerializeToString() for _ in range(2))
    assert first == second


def test_outputs_that_are_inputs_or_repeated():
    class Echo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("offset", torch.arange(3.0))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = x + self.offset
            return {"first": y, "second": y.clone(), "third": x.clone()}

    program = traced(Echo(), torch.randn(2, 3))
    inputs = random_inputs(program)
    found = in_runtime(onnx_model(program), inputs)
    assert torch.equal(found["third"], inputs["x"])
    assert torch.equal(found["first"], found["second"])


def test_weights_in_a_file_beside(block, tmp_path, monkeypatch):
    from effc.ir.export.onnx import writer

    monkeypatch.setattr(writer, "LARGEST_NBYTES", 16)
    save_onnx(block, tmp_path / "model.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    whole = onnx.load(tmp_path / "model.onnx")
    inputs = random_inputs(block)
    found = in_runtime(whole, inputs)
    expected = block.run(inputs)
    assert all(torch.allclose(expected[name], found[name], atol=1e-5) for name in expected)


def test_bfloat16_weights_keep_their_bits():
    from effc.ir.export.onnx.graph import array_of

    tensor = torch.randn(5).to(torch.bfloat16)
    proto = array_of(tensor)
    found = np.frombuffer(proto.raw_data, np.int16)
    assert np.array_equal(found, tensor.view(torch.int16).numpy())


def test_dead_values_are_not_written(block):
    program = block.clone()
    editor = Editor(program, rule="test")
    node = next(n for n in program.forward.graph.nodes if n.op == "placeholder")
    editor.call(node, torch.ops.aten.neg.default, node)
    editor.finish()
    assert "Neg" not in kinds(onnx_model(program))
