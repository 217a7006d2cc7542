"""Padding of one side: a border where only convolutions read it, else a kernel."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.backends.tvm_cpu.build import lowered
from effc.ir.program import FORWARD
from effc.ir.target import Target
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.lower.pipeline import FUSE, SPELL_OUT
from effc.passes.lower.placement import place
from effc.passes.manager import PassManager

SAME = (0, 1, 0, 1)


class Padded(nn.Module):
    """A convolution, padding on two sides, a strided convolution, a reader that may differ."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 1)
        groups = 8 if kind == "depthwise" else 1
        self.second = nn.Conv2d(8, 8, 3, stride=2, groups=groups)
        self.third = nn.Conv2d(8, 4, 3, padding=1)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        x = self.first(x).relu()
        fill = 1.0 if self.kind == "ones" else 0.0
        widths = (2, 0, 1, 1) if self.kind == "uneven" else SAME
        padded = functional.pad(x, widths, value=fill)
        y = self.second(padded)
        if self.kind == "also third":
            return y, self.third(x)
        return (y, padded.sum()) if self.kind == "also sum" else y


def regions(module: nn.Module, quantize: bool) -> tuple[int, int]:
    """How many kernels a net has, and how many of them pad."""
    x = torch.randn(1, 3, 8, 8)
    pipeline = f"{CLEAN},quantize{{activations=static}}" if quantize else CLEAN
    context = PassContext(calibration=[{"x": x}])
    program = PassManager.parse(pipeline).run(traced(module, x), context).program
    target = Target.parse("native")
    spelled = PassManager.parse(SPELL_OUT).run(program, PassContext(target=target)).program
    fused = PassManager.parse(FUSE).run(spelled, PassContext(target=target)).program
    outer = place(fused, FORWARD).module
    calls = [node for node in outer.graph.nodes if node.op == "call_module"]
    texts = [str(outer.get_submodule(str(call.target)).graph) for call in calls]
    assert lowered(program, target)
    return len(calls), sum("constant_pad_nd" in text for text in texts)


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize(
    ("kind", "kernels_that_pad"),
    [("product", 0), ("depthwise", 0), ("uneven", 0), ("also third", 0), ("ones", 1),
     ("also sum", 1)],
)  # fmt: skip
def test_padding_is_a_border_where_only_convolutions_read_it(kind, kernels_that_pad, quantize):
    _, found = regions(Padded(kind), quantize)
    assert found == kernels_that_pad
