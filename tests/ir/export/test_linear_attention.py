"""Linear attention becomes the operator of opset 27, whatever its rule, and comes back."""

from collections.abc import Collection

import pytest
import torch
from export_checks import check_export
from torch import Tensor, nn

import effc.ir.ops  # noqa: F401  (registers effc's operators)
from effc.ir.errors import UnsupportedError
from effc.ir.export.onnx import onnx_model
from effc.ir.testing import operators, traced
from effc.ir.trace import open_model

QUERY, KEY, VALUE = (2, 4, 3, 8), (2, 2, 3, 8), (2, 2, 3, 6)
GATES: dict[str, dict[str, tuple[int, ...]]] = {
    "linear": {},
    "gated": {"decay": (2, 2, 3, 8)},
    "delta": {"beta": (2, 2, 3, 1)},
    "gated_delta": {"decay": (2, 2, 3, 1), "beta": (2, 1, 3, 1)},
}


class Attention(nn.Module):
    """Reads some of its inputs."""

    def __init__(self, names: Collection[str] = (), scale: float = 0.3) -> None:
        super().__init__()
        self.names, self.scale = names, scale

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, past: Tensor, decay: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = {"past": past, "decay": decay, "beta": beta}
        read = [given[name] if name in self.names else None for name in given]
        return torch.ops.effc.linear_attention(q, k, v, *read, self.scale)


def inputs(shapes: dict[str, tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(shape, generator=generator) for shape in (QUERY, KEY, VALUE)]
    rest = (shapes.get(name, (1,)) for name in ("past", "decay", "beta"))
    return [*found, *(-torch.rand(shape, generator=generator) for shape in rest)]


@pytest.mark.parametrize("has_past", [False, True])
@pytest.mark.parametrize("rule", GATES)
def test_every_rule(rule, has_past, tmp_path):
    shapes = ({"past": (2, 2, 8, 6)} if has_past else {}) | GATES[rule]
    given = inputs(shapes)
    program = traced(Attention(shapes), *given)
    named = {s.name: x for s, x in zip(program.signature.inputs, given, strict=True)}
    model = check_export(program, tmp_path, inputs=named)
    assert [node.op_type for node in model.graph.node].count("LinearAttention") == 1
    found = next(node for node in model.graph.node if node.op_type == "LinearAttention")
    attributes = {one.name: one for one in found.attribute}
    assert attributes["update_rule"].s.decode() == rule
    assert (model.opset_import[0].version, model.ir_version) == (27, 13)
    assert {one.key: one.value for one in model.metadata_props} == {
        "onnxruntime.environment": "ALLOW_RELEASED_ONNX_OPSET_ONLY=0"
    }
    back = operators(open_model(tmp_path / "exported.onnx"))
    assert back["effc.linear_attention.default"] == 1


def test_symbolic_sizes(tmp_path):
    given = inputs({})
    sizes = {f"{name}.0": "batch" for name in "qkv"} | {f"{name}.2": "steps" for name in "qkv"}
    program = traced(Attention(), *given, dynamic=sizes)
    named = {s.name: x for s, x in zip(program.signature.inputs, given, strict=True)}
    assert check_export(program, tmp_path, inputs=named).opset_import[0].version == 27


def test_a_scale_of_zero_is_refused():
    with pytest.raises(UnsupportedError, match="a scale of 0 stands for another one"):
        onnx_model(traced(Attention((), 0.0), *inputs({})))
