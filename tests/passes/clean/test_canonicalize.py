"""Canonicalize: one form per meaning, with the same outputs; and what it declines."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.testing import (
    EXACT,
    ROUNDING,
    Function,
    assert_same_outputs,
    operators,
    recorded,
    traced,
)
from effc.passes.manager import PassManager
from effc.passes.report import PassRow

aten = torch.ops.aten
WEIGHT = torch.arange(12.0).reshape(4, 3) / 10
BIAS = torch.arange(3.0)
KERNEL = torch.arange(2 * 2 * 3 * 3.0).reshape(2, 2, 3, 3) / 10
ROW_KERNEL = torch.arange(2 * 2 * 3.0).reshape(2, 2, 3)

FORMS = {
    "clone": (lambda x: x.clone().relu(), (2, 4), {"relu"}),
    "detach": (lambda x: x.detach().relu(), (2, 4), {"relu"}),
    "same dtype": (lambda x: x.to(torch.float32).relu(), (2, 4), {"relu"}),
    "dropout": (lambda x: aten.dropout(x, 0.5, False).relu(), (2, 4), {"relu"}),
    "native dropout": (lambda x: aten.native_dropout(x, 0.5, False)[0].relu(), (2, 4), {"relu"}),
    "other dtype": (lambda x: x.to(torch.float64), (2, 4), {"_to_copy"}),
    "type_as": (lambda x: aten.type_as(x, BIAS.double()), (2, 4), {"_to_copy"}),
    "reshape that moves nothing": (lambda x: x.reshape(8), (2, 4), {"view"}),
    "reshape that moves": (lambda x: x.t().reshape(8), (2, 4), {"permute", "reshape"}),
    "copy that is viewed": (lambda x: x.t().clone().reshape(8), (2, 4), {"permute", "reshape"}),
    "transpose": (lambda x: x.transpose(0, 1), (2, 4), {"permute"}),
    "t": (lambda x: x.t(), (2, 4), {"permute"}),
    "addmm": (lambda x: torch.addmm(BIAS, x, WEIGHT), (2, 4), {"linear", "permute"}),
    "mm": (lambda x: torch.mm(x, WEIGHT), (2, 4), {"linear", "permute"}),
    "matmul": (lambda x: x @ WEIGHT.t().t(), (2, 5, 4), {"linear", "permute"}),
    "products of inputs": (lambda x: torch.mm(x, x.t()), (2, 4), {"mm", "permute"}),
    "and": (lambda x: (x > 0) & (x < 1), (2, 4), {"gt", "lt", "bitwise_and"}),
    "relu6": (lambda x: functional.relu6(x), (2, 4), {"hardtanh"}),
    "clamp": (lambda x: x.clamp(-1, 1), (2, 4), {"hardtanh"}),
    "clamp below": (lambda x: x.clamp(min=0.5), (2, 4), {"clamp"}),
    "rsub tensor": (lambda x: aten.rsub(x, x.relu()), (2, 4), {"relu", "sub"}),
    "rsub scalar": (lambda x: 1 - x, (2, 4), {"rsub"}),
    "_softmax": (lambda x: aten._softmax(x, -1, False), (2, 4), {"softmax"}),
    "_log_softmax": (lambda x: aten._log_softmax(x, 1, False), (2, 4), {"log_softmax"}),
    "ones": (lambda x: x + torch.ones_like(x), (2, 4), {"full", "add"}),
    "zeros": (lambda x: x + x.new_zeros(4), (2, 4), {"full", "add"}),
    "pool": (lambda x: aten.max_pool2d_with_indices(x, 2)[0], (1, 2, 4, 4), {"max_pool2d"}),
    "layer norm": (
        lambda x: aten.native_layer_norm(x, [3], BIAS, BIAS, 1e-5)[0],
        (2, 3),
        {"layer_norm"},
    ),
    "group norm": (
        lambda x: aten.native_group_norm(x, None, None, 2, 4, 9, 2, 1e-5)[0],
        (2, 4, 3, 3),
        {"group_norm"},
    ),
    "fused rms norm": (
        lambda x: aten._fused_rms_norm(x, [3], BIAS, 1e-5)[0],
        (2, 3),
        {"rms_norm"},
    ),
    "convolution": (
        lambda x: aten.convolution(x, KERNEL, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        (1, 2, 5, 5),
        {"conv2d"},
    ),
    "transposed convolution": (
        lambda x: aten.convolution(x, KERNEL, None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1),
        (1, 2, 5, 5),
        {"conv_transpose2d"},
    ),
    "1-d convolution": (
        lambda x: aten.convolution(x, ROW_KERNEL, None, [1], [0], [1], False, [0], 1),
        (1, 2, 5),
        {"conv1d"},
    ),
    "valid padding": (
        lambda x: functional.conv2d(x, KERNEL, padding="valid"),
        (1, 2, 5, 5),
        {"conv2d"},
    ),
    "zero padding": (
        lambda x: functional.conv2d(functional.pad(x, (1, 1, 2, 2)), KERNEL, padding=1),
        (1, 2, 5, 5),
        {"conv2d"},
    ),
    "silu": (lambda x: torch.sigmoid(x) * x, (2, 4), {"silu"}),
    "no silu": (lambda x: torch.sigmoid(x) * x.relu(), (2, 4), {"sigmoid", "relu", "mul"}),
    "mean of squares": (
        lambda x: x * torch.reciprocal(torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)),
        (2, 4),
        {"rms_norm"},
    ),
    "inverse root as power": (
        lambda x: (x.square().mean(-1, keepdim=True) + 1e-6) ** -0.5 * x,
        (2, 4),
        {"rms_norm"},
    ),
    "norm of another dimension": (
        lambda x: x * torch.rsqrt(x.pow(2).mean(0, keepdim=True) + 1e-6),
        (2, 4),
        {"pow", "mean", "add", "rsqrt", "mul"},
    ),
    "norm without mean": (
        lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6),
        (2, 4),
        {"pow", "sum", "add", "rsqrt", "mul"},
    ),
}
ROUNDED = {"silu", "addmm", "mm", "matmul", "convolution", "zero padding"}
ROUNDED |= {"mean of squares", "inverse root as power", "layer norm", "transposed convolution"}


def canonical(program: Program) -> tuple[Program, PassRow]:
    report = PassManager.parse("canonicalize").run(program)
    return report.program, report.rows[0]


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    function, shape, expected = FORMS[name]
    before = recorded(function, x=torch.randn(shape))
    after, _ = canonical(before)
    assert {op.split(".")[1] for op in operators(after)} == expected
    tolerance = ROUNDING[torch.float32] if name in ROUNDED else EXACT
    assert_same_outputs(before, after, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_in_half_precision(dtype: torch.dtype) -> None:
    weight = torch.rand(8).to(dtype)

    def norm(x: Tensor) -> Tensor:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(dtype)

    before = recorded(norm, x=torch.randn(3, 8).to(dtype))
    after, _ = canonical(before)
    assert operators(after) == {"aten.rms_norm.default": 1}
    assert_same_outputs(before, after, tolerance=ROUNDING[dtype])


def test_dimensions_and_positions_count_from_the_start() -> None:
    def picks(x: Tensor) -> Tensor:
        parts = [x[..., -1], x[:, -3:-1].sum(-2), x.unsqueeze(-1).squeeze(-1).mean(-2)]
        return torch.stack(parts, -1)

    before = recorded(picks, x=torch.randn(2, 5, 5))
    after, _ = canonical(before)
    texts = [node.format_node() for node in after.forward.graph.nodes if node.op == "call_function"]
    assert not any("-" in text.split("args = ")[1].split(", kwargs")[0] for text in texts)
    assert_same_outputs(before, after)


def test_symbolic_positions_stay_counted_from_the_end() -> None:
    before = traced(Function(lambda x: x[:, -1]), torch.randn(2, 5), dynamic={"x.1": "steps"})
    after, row = canonical(before)
    select = next(n for n in after.forward.graph.nodes if op_name(n) == "aten.select.int")
    assert select.args[1:] == (1, -1)
    assert not row.changed


REFUSALS = {
    "padding 'same' of an even filter is not the same on both sides": lambda x: functional.conv2d(
        x, KERNEL[..., :2, :2], padding="same"
    ),
    "the padding is not the same on both sides": lambda x: functional.conv2d(
        functional.pad(x, (0, 1, 0, 1)), KERNEL
    ),
    "the padded input has other users": lambda x: (
        functional.conv2d(p := functional.pad(x, (1, 1, 1, 1)), KERNEL).sum() + p
    ),
    "the padding reaches beyond the spatial dimensions": lambda x: functional.conv2d(
        functional.pad(x[:, :1], (1, 1, 1, 1, 0, 1)), KERNEL
    ),
    "the padding is negative or not a number": lambda x: functional.conv2d(
        functional.pad(x, (-1, -1, 0, 0)), KERNEL
    ),
    "alpha or beta is not 1": lambda x: torch.addmm(BIAS, x[0, 0, :, :4], WEIGHT, alpha=2),
    "the bias is not one number per output": lambda x: torch.addmm(
        x[0, 0, :, :1], x[0, 0, :, :4], WEIGHT
    ),
    "the norm without its weight has other users": lambda x: (
        (n := x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)) * torch.ones(5) + n
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_refusals(reason: str) -> None:
    before = recorded(REFUSALS[reason], x=torch.randn(1, 2, 5, 5))
    after, row = canonical(before)
    assert [refusal["reason"] for refusal in row.refusals] == [reason]
    assert_same_outputs(before, after, tolerance=ROUNDING[torch.float32])


def test_provenance_names_the_rules() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Function(functional.relu6))
    after, row = canonical(traced(module, torch.randn(2, 4)))
    node = next(n for n in after.forward.graph.nodes if op_name(n) == "aten.hardtanh.default")
    assert node.meta["custom"] == {"source": "1", "touched": ["clamp-to-hardtanh"]}
    assert row.notes == {"rewrites": {"clamp-to-hardtanh": 1}}
