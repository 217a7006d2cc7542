"""What is spelled out computes what PyTorch computes, in PyTorch and in kernels."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.testing import EXACT, ROUNDING, assert_same_outputs, traced
from effc.passes.lower.rare import RULES
from effc.passes.manager import PassManager

F = nn.functional
FLOAT = ROUNDING[torch.float32]


class One(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


class Two(One):
    def forward(self, x: Tensor, y: Tensor) -> object:
        return self.function(x, y)


class Three(One):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> object:
        return self.function(x, y, z)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return values.to(dtype) if dtype.is_floating_point else (9 * values).to(dtype)


TIED = torch.tensor([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 5.0, -1.0]])
INDICES = torch.tensor([[0, 2, 1, 1, 0], [0, 1, 2, 2, 2]])


def reduced(kind: str) -> Callable[..., Tensor]:
    return lambda x, i, u: torch.scatter_reduce(x, 0, i, u, kind)


CASES = {
    "sort": (lambda x: torch.sort(x, 1, descending=True), (TIED,)),
    "stable sort": (lambda x: torch.sort(x, stable=True, dim=0), (random(5, 3, 2),)),
    "topk": (lambda x: torch.topk(x, 2, 1)[0], (random(3, 7),)),
    "scatter": (
        lambda x, i, u: torch.scatter(x, 1, i, u),
        (random(3, 5), torch.tensor([[0, 4], [3, 1]]), random(2, 2)),
    ),
    "scatter sum": (reduced("sum"), (random(3, 5), INDICES, random(2, 5))),
    "scatter product": (reduced("prod"), (random(3, 5), INDICES, random(2, 5))),
    "scatter largest": (reduced("amax"), (random(3, 5), INDICES, random(2, 5))),
    "scatter smallest": (
        reduced("amin"),
        (random(3, 5, dtype=torch.int32), INDICES, random(2, 5, dtype=torch.int32)),
    ),
    "transposed 1d": (
        lambda x, w: F.conv_transpose1d(x, w, None, 2, 1), (random(2, 4, 5), random(4, 3, 3)),
    ),
    "transposed 2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 3), (1, 0), (1, 2), 2),
        (random(2, 4, 5, 3), random(4, 3, 3, 3), random(6)),
    ),
    "transposed 3d": (
        lambda x, w: F.conv_transpose3d(x, w, None, 2, 1),
        (random(2, 4, 3, 4, 5), random(4, 3, 3, 2, 3)),
    ),
    "conv3d": (
        lambda x, w, b: F.conv3d(x, w, b, (2, 1, 1), (1, 1, 0), (1, 2, 1)),
        (random(2, 4, 5, 6, 7), random(3, 4, 3, 2, 3), random(3)),
    ),
    "conv2d by an input": (
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 0), (1, 2), 2),
        (random(2, 4, 5, 7), random(6, 2, 3, 2), random(6)),
    ),
    "float16 by an input": (
        lambda x, w: F.conv1d(x, w),
        (torch.tensor([[[2048.0, 1, 1, 1]]]).half(), torch.ones(1, 1, 4).half()),
    ),
    "linear by an input": (F.linear, (random(2, 5), random(3, 5), random(3))),
    "integers": (
        torch.matmul, (random(2, 3, 4, dtype=torch.int64), random(4, 5, dtype=torch.int64)),
    ),
    "bfloat16 by an input": (
        torch.matmul,
        (random(2, 3, 4, dtype=torch.bfloat16), random(2, 4, 5, dtype=torch.bfloat16)),
    ),
    "vector": (torch.matmul, (random(4), random(3, 4, 5))),
    "deep norm": (lambda x, w: F.layer_norm(x, [4, 5], w), (random(2, 4, 5), random(4, 5))),
    "pool": (lambda x: F.max_pool1d(x, 3, 2, 1), (random(2, 4, 9),)),
}  # fmt: skip

EXACTLY = (
    "sort", "stable sort", "topk", "scatter", "integers", "scatter smallest",
    "float16 by an input",
)  # fmt: skip


def case(name: str) -> Program:
    function, inputs = CASES[name]
    return traced((One, Two, Three)[len(inputs) - 1](function), *inputs)


@pytest.mark.parametrize("name", CASES)
def test_the_same_outputs(name):
    program = case(name)
    report = PassManager.parse("canonicalize,decompose-rare,remove-dead").run(program)
    assert report.changed
    half = ROUNDING[torch.bfloat16]
    is_exact = name in EXACTLY
    names = [spec.name for spec in program.signature.inputs]
    assert_same_outputs(
        program,
        report.program,
        dict(zip(names, CASES[name][1], strict=True)),
        tolerance=half if "bfloat16" in name else EXACT if is_exact else FLOAT,
    )


def test_every_rule_has_a_case():
    fired: set[str] = set()
    for name in CASES:
        report = PassManager.parse("canonicalize,decompose-rare").run(case(name))
        fired |= set(report.rows[-1].notes)
    assert fired >= {rule.name for rule in RULES}


def test_symbolic_sizes_are_refused():
    program = traced(One(lambda x: torch.sort(x, 1)), TIED, dynamic={"x.1": "width"})
    report = PassManager.parse("canonicalize,decompose-rare").run(program)
    assert [refusal["reason"] for refusal in report.rows[-1].refusals] == ["a size is symbolic"]
    assert "aten.sort.default" in {op_name(n) for n in report.program.forward.graph.nodes}
