"""What a program costs: multiply-adds, other arithmetic, bytes moved, bytes of weights."""

from dataclasses import dataclass

import torch
from torch import fx

from effc.ir.opspec import Kind, numel, spec_of
from effc.ir.program import FORWARD, Program
from effc.ir.symbols import Size, evaluate, product, simplify, size_of


@dataclass(frozen=True)
class Cost:
    """Cost of a node or a program, as sizes over the program's symbols.

    Attributes:
        macs: Multiply-adds of anchors.
        flops: Other floating-point operations.
        read_nbytes: Bytes of all inputs read.
        written_nbytes: Bytes of all outputs written.
        weight_nbytes: Bytes of weights (counted once per program).
    """

    macs: Size = 0
    flops: Size = 0
    read_nbytes: Size = 0
    written_nbytes: Size = 0
    weight_nbytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            simplify(self.macs + other.macs),
            simplify(self.flops + other.flops),
            simplify(self.read_nbytes + other.read_nbytes),
            simplify(self.written_nbytes + other.written_nbytes),
            self.weight_nbytes + other.weight_nbytes,
        )

    def at(self, values: dict[str, int]) -> dict[str, int]:
        """Every number of the cost when the symbols take `values`."""
        return {name: evaluate(size, values) for name, size in vars(self).items()}


def node_cost(program: Program, node: fx.Node) -> Cost:
    """Cost of one node; views and sizes cost nothing.

    Raises:
        KeyError: If the operator has no entry in the op table.
    """
    spec = spec_of(node) if node.op == "call_function" else None
    if spec is None or spec.kind in (Kind.VIEW, Kind.SCALAR):
        return Cost()
    elements = numel(node, program.names)
    macs = spec.macs(node, program.names) if spec.macs else 0
    read = simplify(sum((_nbytes(program, arg) for arg in node.all_input_nodes), start=0))
    return Cost(macs, simplify(elements * spec.flops), read, _nbytes(program, node))


def program_cost(program: Program, method: str = FORWARD) -> Cost:
    """Cost of a whole method."""
    total = Cost(weight_nbytes=program.weight_nbytes)
    for node in program.methods[method].graph.nodes:
        total = total + node_cost(program, node)
    return total


def typical_sizes(program: Program, method: str = FORWARD) -> dict[str, int]:
    """A value for each symbol: what the example inputs have, else the smallest allowed."""
    values = {name: symbol.minimum for name, symbol in program.symbols.items()}
    examples = program.examples.get(method, ())
    for spec, example in zip(program.signatures[method].inputs, examples, strict=False):
        for size, found in zip(spec.shape, example.shape, strict=True):
            if not isinstance(size, int) and size.is_Symbol:
                values[size.name] = found
    return values


def _nbytes(program: Program, node: fx.Node) -> Size:
    value = node.meta.get("val")
    tensors = value if isinstance(value, tuple | list) else [value]
    total: Size = 0
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            sizes = [size_of(size, program.names) for size in tensor.shape]
            total = total + product(sizes) * tensor.element_size()
    return simplify(total)
