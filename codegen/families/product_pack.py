"""Packing the second factor of a product at run time, in the layout of `codegen/pack.py`."""

import torch
from tvm import tirx

from effc.codegen.access import Access
from effc.codegen.evaluate import Point, flat_index
from effc.codegen.families.elementwise import unravel
from effc.codegen.families.product_plan import Plan
from effc.codegen.kernel import FunctionBuilder, Stage
from effc.codegen.region import Region
from effc.codegen.tir import const, index, load
from effc.ir.errors import BuildError
from effc.ir.symbols import Size, product

FLOAT_NBYTES = 4


def pack_stage(
    region: Region, plan: Plan, name: str, symbols: tuple[str, ...]
) -> tuple[Stage, Size]:
    """A stage that packs matrices `[..., K, N]` into panels, and the bytes they take.

    Raises:
        BuildError: If the matrices are not float32.
    """
    runtime = plan.runtime
    if runtime is None:
        raise AssertionError("the second factor is a weight")
    matrix: Access = region.inputs[runtime.position]
    if matrix.dtype != torch.float32:
        raise BuildError(f"a product by {matrix.dtype} known at run time only")
    function = FunctionBuilder(name, symbols)
    source = function.param("input", runtime.position, "float32")
    target = function.param("temporary", "panels", "float32")
    b, width = function.builder, plan.width
    outer: list[Size] = [*runtime.batch, plan.panels]
    begin, end = function.task_range
    with b.loop(begin, end, "task") as task:
        *place, panel = unravel(b, task, outer)
        first = b.let(panel * index(width))
        valid = b.let(tirx.Min(b.size(plan.columns) - first, index(width)))
        features = b.size(plan.features)
        base = b.let(task * features * index(width))
        origin = b.let(flat_index(b, matrix, Point((*place, index(0), first))))
        row, column = b.size(matrix.strides[-2]), b.size(matrix.strides[-1])
        with b.loop(index(0), features, "feature") as k:
            line, there = b.let(origin + k * row), b.let(base + k * index(width))
            with b.loop(index(0), valid, "column") as j:
                b.store(target, load(source, line + j * column), there + j)
            with b.loop(valid, index(width), "column") as j:
                b.store(target, const(0.0, "float32"), there + j)
    nbytes = product([*outer, plan.features, width, FLOAT_NBYTES])
    return function.close(product(outer)), nbytes
