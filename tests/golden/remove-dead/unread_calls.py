"""A chain of calls nobody reads goes, with the weight only it reads."""

import torch
from torch import nn

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "remove-dead"


def program() -> Program:
    result = traced(nn.Linear(3, 2), torch.ones(4, 3), dynamic={"input.0": "batch"})
    editor = Editor(result, rule="test")
    linear = result.forward.graph.find_nodes(
        op="call_function", target=torch.ops.aten.linear.default
    )[0]
    extra = editor.weight("extra", torch.ones(2))
    product = editor.call(linear, torch.ops.aten.mul.Tensor, linear, extra)
    editor.call(product, torch.ops.aten.relu.default, product)
    result.forward.recompile()
    return result
