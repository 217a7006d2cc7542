"""Costs against numbers counted by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.cost import Cost, node_cost, program_cost, typical_sizes
from effc.ir.program import Program
from effc.ir.symbols import named
from effc.ir.testing import Function, recorded, traced

F32 = 4


def cost_of(program: Program) -> Cost:
    return node_cost(program, program.forward.graph.output_node().args[0][0])


def test_linear() -> None:
    weight = torch.ones(5, 3)
    cost = cost_of(recorded(lambda x: functional.linear(x, weight), x=torch.ones(2, 7, 3)))
    assert cost.macs == 2 * 7 * 5 * 3
    assert cost.read_nbytes == (2 * 7 * 3 + 5 * 3) * F32
    assert cost.written_nbytes == 2 * 7 * 5 * F32


def test_symbolic_linear() -> None:
    program = traced(nn.Linear(3, 5), torch.ones(2, 3), dynamic={"input.0": "batch"})
    cost = program_cost(program)
    assert cost.macs == 15 * named("batch")
    assert cost.weight_nbytes == (15 + 5) * F32
    assert cost.at({"batch": 7}) == {
        "macs": 105,
        "flops": 0,
        "read_nbytes": (7 * 3 + 20) * F32,
        "written_nbytes": 7 * 5 * F32,
        "weight_nbytes": 80,
    }
    assert typical_sizes(program) == {"batch": 2}


def test_grouped_convolution() -> None:
    weight = torch.ones(6, 2, 3, 3)
    program = recorded(lambda x: functional.conv2d(x, weight, groups=2), x=torch.ones(1, 4, 8, 8))
    assert cost_of(program).macs == 1 * 6 * 6 * 6 * (2 * 3 * 3)


def test_transposed_convolution() -> None:
    weight = torch.ones(4, 3, 2, 2)
    program = recorded(
        lambda x: functional.conv_transpose2d(x, weight, stride=2, groups=2),
        x=torch.ones(1, 4, 5, 5),
    )
    assert cost_of(program).macs == 4 * 5 * 5 * (3 * 2 * 2)


def test_attention() -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value)

    query, key, value = torch.ones(2, 3, 4, 8), torch.ones(2, 3, 6, 8), torch.ones(2, 3, 6, 10)
    cost = cost_of(recorded(attend, query=query, key=key, value=value))
    assert cost.macs == 2 * 3 * 4 * 6 * (8 + 10)


def test_products() -> None:
    program = recorded(lambda x: torch.bmm(x, x.mT), x=torch.ones(2, 3, 4))
    assert cost_of(program).macs == 2 * 3 * 3 * 4


def test_views_and_sizes_are_free() -> None:
    program = traced(Function(lambda x: x.view(x.shape[0], -1)), torch.ones(2, 3, 4))
    assert program_cost(program) == Cost()


def test_elementwise_operations_cost_per_element() -> None:
    assert cost_of(recorded(lambda x: x + 1, x=torch.ones(2, 3))).flops == 6
    assert cost_of(recorded(lambda x: x.exp(), x=torch.ones(2, 3))).flops == 60
    assert cost_of(recorded(lambda x: x.exp(), x=torch.ones(2, 3))).macs == 0


def test_shared_storage_is_counted_once() -> None:
    weight = torch.ones(3)
    alias = weight.view(3)
    program = recorded(lambda x: x * weight + alias, x=torch.ones(2, 3))
    assert program.weight_nbytes == 3 * F32
