"""Operators that walk a dimension from its start: running totals, and the place of the extremum."""

import torch
from torch import fx
from tvm import tirx

from effc.codegen.dtypes import held, stored, to_memory
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.elementwise import unravel
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel
from effc.codegen.operands import argument
from effc.codegen.region import Region
from effc.codegen.tir import Expr, cast, const, index, load
from effc.ir.errors import BuildError
from effc.ir.opspec import op_name
from effc.ir.symbols import product

RUNNING = ("aten.cumsum.default", "aten.cumprod.default")
OPERATORS = (*RUNNING, "aten.argmax.default", "aten.argmin.default")


def build(region: Region, isa: Isa, name: str, symbols: tuple[str, ...]) -> Kernel:
    """Make the kernel of a region with one such operator.

    Raises:
        BuildError: If the region holds anything else.
    """
    if len(region.calls) != 1:
        raise BuildError("a scan stands alone")
    return _Scan(region, region.calls[0], name, symbols).kernel()


class _Scan:
    def __init__(self, region: Region, node: fx.Node, name: str, symbols: tuple[str, ...]) -> None:
        self.region, self.node = region, node
        self.function = FunctionBuilder(name, symbols)
        self.b = self.function.builder
        access = region.inputs[0]
        self.source = self.function.param("input", 0, stored(access.dtype))
        self.target = self.function.param("output", 0, stored(region.outputs[0].dtype))
        self.evaluator = Evaluator(region, self.b, [self.source], [access])
        self.shape = access.shape
        dim = argument(node, 1, "dim", None)
        if dim is None:
            raise BuildError(f"{op_name(node)} over all dimensions")
        self.dim = dim % len(self.shape)
        self.is_running = op_name(node) in RUNNING
        self.keeps = self.is_running or bool(argument(node, 2, "keepdim", False))

    def kernel(self) -> Kernel:
        """One task per line along the dimension."""
        outer = [size for place, size in enumerate(self.shape) if place != self.dim]
        begin, end = self.function.task_range
        with self.b.loop(begin, end, "line") as task:
            place = unravel(self.b, task, outer)
            (self._running_total if self.is_running else self._extremum)(place)
        return Kernel("scan", (self.function.close(product(outer)),))

    def _at(self, place: list[Expr], position: Expr) -> Point:
        return Point((*place[: self.dim], position, *place[self.dim :]))

    def _running_total(self, place: list[Expr]) -> None:
        b, dtype = self.b, held(self.node.meta["val"].dtype)
        total = b.local(dtype, 1, "total")
        is_product = "cumprod" in op_name(self.node)
        b.store(total, const(int(is_product), dtype), 0)
        with b.loop(index(0), b.size(self.shape[self.dim]), "i") as i:
            value = cast(
                self.evaluator.fresh({}).load(self.node.args[0], self._at(place, i)), dtype
            )
            before = load(total, 0)
            b.store(total, before * value if is_product else before + value, 0)
            self._store(load(total, 0), self._at(place, i))

    def _extremum(self, place: list[Expr]) -> None:
        """The first place of the largest (smallest) value; NaN counts as larger than anything."""
        b, source = self.b, self.node.args[0]
        dtype = held(source.meta["val"].dtype)
        best, where = b.local(dtype, 1, "best"), b.local("int64", 1, "where")
        first = self.evaluator.fresh({}).load(source, self._at(place, index(0)))
        b.store(best, first, 0)
        b.store(where, index(0), 0)
        with b.loop(index(1), b.size(self.shape[self.dim]), "i") as i:
            value = b.let(self.evaluator.fresh({}).load(source, self._at(place, i)))
            known = b.let(load(best, 0))
            is_better = value > known if "argmax" in op_name(self.node) else value < known
            if source.meta["val"].dtype.is_floating_point:
                is_nan = tirx.Not(tirx.EQ(value, value))
                is_better = (is_better | is_nan) & tirx.EQ(known, known)
            with b.when(is_better):
                b.store(best, value, 0)
                b.store(where, i, 0)
        point = self._at(place, index(0)) if self.keeps else Point(tuple(place))
        self._store(load(where, 0), point)

    def _store(self, value: Expr, point: Point) -> None:
        access = self.region.outputs[0]
        flat = self.evaluator.offset(access, point)
        self.b.store(self.target, to_memory(value, access.dtype), flat)


def is_scan(node: fx.Node) -> bool:
    """Whether a node is one of this family's operators."""
    return op_name(node) in OPERATORS and isinstance(node.meta["val"], torch.Tensor)
