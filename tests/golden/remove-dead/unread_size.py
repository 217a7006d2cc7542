"""A size that no view needs any more goes; inputs stay, they are the signature."""

import torch
from torch import Tensor, nn

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "remove-dead"


class First(nn.Module):
    def forward(self, x: Tensor, unused: Tensor) -> Tensor:
        return x.relu()


def program() -> Program:
    inputs = (torch.ones(2, 3), torch.zeros(2, 3))
    result = traced(First(), *inputs, dynamic={"x.0": "batch", "unused.0": "batch"})
    relu = result.forward.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)[
        0
    ]
    Editor(result, rule="test").call(
        relu, torch.ops.aten.sym_size.int, relu.args[0], 0, before=relu
    )
    result.forward.recompile()
    return result
