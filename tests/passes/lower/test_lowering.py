"""Lowering keeps what a program computes, pass by pass, and groups operators as stated."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program
from effc.ir.testing import (
    EXACT,
    IMAGE_LAYERS,
    ROUNDING,
    ROW_LAYERS,
    Function,
    assert_close,
    assert_same_outputs,
    operators,
    random_inputs,
    random_program,
    recorded,
    traced,
)
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.lower.pipeline import FUSE, SPELL_OUT
from effc.passes.manager import PassManager

F = nn.functional
FLOAT = ROUNDING[torch.float32]
STEPS = [*SPELL_OUT.split(","), FUSE]
LAYERS = {"images": IMAGE_LAYERS, "rows": ROW_LAYERS}
FEW = settings(
    max_examples=5,
    phases=[Phase.generate],  # shrinking traces hundreds of programs
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def run(pipeline: str, program: Program, data: list | None = None) -> Program:
    ctx = PassContext(calibration=data) if data else PassContext()
    return PassManager.parse(pipeline).run(program, ctx).program


def check_every_step(program: Program, inputs: list[dict[str, Tensor]]) -> Program:
    """Run the lowering pass by pass; each must keep the outputs of the one before."""
    for step in STEPS:
        after = run(step, program)
        for given_inputs in inputs:
            assert_same_outputs(program, after, given_inputs, FLOAT)
        program = after
    return program


@pytest.mark.parametrize("kind", ["images", "rows"])
@pytest.mark.parametrize("mode", ["float32", "dynamic", "static"])
def test_random_programs(kind: str, mode: str) -> None:
    names = st.lists(st.sampled_from(sorted(LAYERS[kind])), min_size=2, max_size=5)

    @FEW
    @given(names, st.integers(0, 99))
    def check(names: list[str], seed: int) -> None:
        program = random_program(kind, names, seed, is_dynamic=True)
        data = [random_inputs(program, {"batch": 4}, seed=at) for at in range(2)]
        quantize = "" if mode == "float32" else f",quantize{{activations={mode}}}"
        program = run(CLEAN + quantize, program, data)
        inputs = [random_inputs(program, {"batch": size}, seed) for size in (1, 3)]
        lowered = check_every_step(program, inputs)
        calls = [node for node in lowered.methods[FORWARD].graph.nodes if node.op == "call_module"]
        assert calls or not operators(program)

    check()


ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "softmax-of-first": lambda x: x.softmax(0),
    "log-softmax": lambda x: x.log_softmax(1),
    "layer-norm": lambda x: F.layer_norm(x, (6,)),
    "layer-norm-weight": lambda x: F.layer_norm(x, (6,), torch.arange(6.0), None, 1e-3),
    "layer-norm-bias": lambda x: F.layer_norm(x, (6,), torch.arange(6.0), torch.ones(6)),
    "rms-norm": lambda x: F.rms_norm(x, (6,)),
    "rms-norm-weight": lambda x: F.rms_norm(x, (6,), torch.arange(6.0), 1e-3),
    "group-norm": lambda x: F.group_norm(x, 2),
    "group-norm-weight": lambda x: F.group_norm(x, 4, torch.arange(4.0), torch.ones(4), 1e-3),
}
PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "split": lambda x: x.split(4, 2)[1] * 2,
    "split-sizes": lambda x: x.split([1, 3, 2], -1)[2] * 2,
    "chunk": lambda x: x.chunk(4, 2)[-1] * 2,
    "unbind": lambda x: x.unbind(-2)[3] * 2,
    "stack": lambda x: torch.stack([x, x * 2, x + 1], -1),
    "stack-first": lambda x: torch.stack([x, x * 2]),
}


def in_float64(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a function computes of wider numbers, with the tensors it makes as wide."""
    torch.set_default_dtype(torch.float64)
    try:
        return function(x.double()).float()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ROWS)
def test_rows_against_float64(name: str) -> None:
    """Large and shifted values; against PyTorch's own operator in float64."""
    program = run("decompose-rows", traced(Function(ROWS[name]), torch.ones(2, 4, 6)))
    assert not {"softmax", "norm"} & {part for op in operators(program) for part in op.split("_")}
    for scale, shift in ((1, 0), (50, 0), (1, 30)):
        x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)) * scale + shift
        found = program.run({program.signature.inputs[0].name: x})
        assert_close(name, in_float64(ROWS[name], x), found["output"], FLOAT)


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_exact(name: str) -> None:
    program = traced(Function(PARTS[name]), torch.ones(2, 4, 6), dynamic={"x.0": "batch"})
    after = run("decompose-rows,remove-dead", program)
    assert not {"aten.stack.default", "getitem"} & operators(after).keys()
    assert_same_outputs(program, after, random_inputs(program, {"batch": 3}), EXACT)


OPS = torch.ops.effc


@pytest.mark.parametrize("is_dynamic", [False, True], ids=["static", "run-time"])
@pytest.mark.parametrize("features", [8, 700])
def test_integer_products_bit_for_bit(features: int, is_dynamic: bool) -> None:
    """The sum in integers, then one rounding: against numpy."""
    made = np.random.default_rng(features)
    codes = made.integers(-127, 128, (5, features)).astype(np.int8)
    scales = made.uniform(1e-3, 1e-2, (5, 1)).astype(np.float32)
    bias = made.standard_normal(5).astype(np.float32)
    step, zero = torch.tensor(0.03), torch.tensor(97, dtype=torch.int32)
    tensors = [torch.from_numpy(value) for value in (codes, scales, bias)]

    def quantized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if is_dynamic:
            return OPS.quantize_dynamic(x, [-1], 0, 255, torch.uint8)
        return OPS.quantize(x, step, zero, 0, 255, torch.uint8), step, zero

    def layer(x: Tensor) -> Tensor:
        weight = OPS.dequantize(tensors[0], tensors[1], None)
        return F.linear(OPS.dequantize(*quantized(x)), weight, tensors[2])

    x = torch.from_numpy(made.standard_normal((3, features)).astype(np.float32))
    lowered = run("canonicalize,lower-integer,decompose-rows,remove-dead", recorded(layer, x=x))
    assert operators(lowered)["effc.linear_integer.default"] == 1
    assert operators(lowered)["aten.linear.default"] == 0
    found, scale, zero_point = (value.numpy() for value in quantized(x))
    sums = (found.astype(np.int64) - zero_point) @ codes.T.astype(np.int64)
    multiplier = (scale * scales.T).astype(np.float64)
    expected = (sums.astype(np.float32) * multiplier + bias.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(lowered.run({"x": x})["output"].numpy(), expected)


class Cycle(nn.Module):
    """The sum needs the running sum, which needs the product: three kernels, not two."""

    def forward(self, x: Tensor) -> Tensor:
        doubled = x * 2
        return doubled.cumsum(1) + doubled


class Extrema(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.amax((1, 2)) - x.amin((1, 2))


class Twice(nn.Module):
    """The second product reads the first, so they cannot share a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).tanh() + x


class Heads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).view(2, 4, 3, 2).transpose(1, 2).softmax(-1)


class Expansion(nn.Module):
    """What is larger than its operands is computed where it is read, not where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6, bias=False)
        self.row = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x.sum(-1, keepdim=True).sin() * self.row


GROUPS: list[tuple[nn.Module, list[list[str]]]] = [
    (Cycle(), [["mul"], ["cumsum"], ["add"]]),
    (Extrema(), [["amax", "amin", "sub"]]),
    (Twice(), [["linear", "add", "relu"], ["linear", "add", "tanh", "add"]]),
    (Expansion(), [["sum", "sin"], ["linear", "mul", "add"]]),
    (Heads(), [["mul"], ["amax", "sub", "exp", "sum", "reciprocal", "mul"]]),
    (nn.Sequential(nn.LayerNorm(6), nn.GELU()),
     [["mean", "sub", "mul", "mean", "add", "rsqrt", "mul", "mul", "add", "gelu"]]),
]  # fmt: skip


@pytest.mark.parametrize(("module", "expected"), GROUPS, ids=lambda value: type(value).__name__)
def test_groups(module: nn.Module, expected: list[list[str]]) -> None:
    torch.manual_seed(0)
    before = run(CLEAN, traced(module, torch.randn(2, 4, 6)))
    after = run(f"{SPELL_OUT},{FUSE}", before)
    assert_same_outputs(before, after, tolerance=FLOAT)
    lowered = after.methods[FORWARD]
    calls = lowered.graph.find_nodes(op="call_module")
    inner = [lowered.get_submodule(call.target).graph.nodes for call in calls]
    names = [[op_name(n) for n in nodes if n.op == "call_function"] for nodes in inner]
    assert [[name.split(".")[1] for name in group] for group in names] == expected
