"""Kernels that do nothing but multiply, or nothing but read: what a processor reaches at most."""

from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Stage
from effc.codegen.tir import const, index, load, splat, with_lanes

STEPS, OPERANDS, FEATURES = 4096, 64, 4
ELEMENTS = 1 << 15
STREAMS = 8


def accumulators(isa: Isa) -> int:
    """Independent sums, enough to hide the latency of a multiply-add."""
    return 24 if isa.registers >= 32 else 12


def product_macs(isa: Isa, precision: str) -> int:
    """Multiply-adds of one task of `product_stage`."""
    depth = {"int8": isa.dot_width, "bfloat16": 2, "float32": 1}[precision]
    return STEPS * accumulators(isa) * isa.lanes * depth


def product_stage(isa: Isa, precision: str, name: str) -> Stage:
    """A function whose tasks multiply operands that stay in registers.

    Args:
        isa: The processor.
        precision: `int8`, `bfloat16` (if it has products of it) or `float32`.
        name: The function's symbol.
    """
    function, lanes = FunctionBuilder(name, ()), isa.lanes
    b, count = function.builder, accumulators(isa)
    stored = {"int8": "int8", "bfloat16": "uint16", "float32": "float32"}[precision]
    summed = "int32" if precision == "int8" else "float32"
    source = function.param("input", 0, stored)
    codes = function.param("input", 1, "uint8")
    target = function.param("output", 0, summed)
    if precision == "bfloat16":
        function.import_llvm(isa.pair_code)
    begin, end = function.task_range
    with b.loop(begin, end, "task"):
        totals = b.local(summed, count * lanes, "total")
        for number in range(count):
            b.store(totals, const(0, with_lanes(summed, lanes)), number * lanes)
        with b.loop(0, STEPS, "step") as step:
            at = b.let(
                (step & index(OPERANDS - 1)) * index(4 * lanes)
            )  # another one, else it is done once
            for number in range(count):
                total = load(totals, number * lanes, lanes)
                if precision == "int8":
                    feature = b.let(isa.load_dot_activations(codes, index(number % FEATURES * 4)))
                    there = at + index(number // FEATURES * 4 * lanes)
                    found = isa.dot(total, feature, isa.load_dot_weights(source, there))
                elif precision == "bfloat16":
                    pair = b.let(isa.load_pair(source, index(0)))
                    found = isa.dot_pairs(total, pair, load(source, at, 2 * lanes))
                else:
                    feature = b.let(splat(load(source, 0), lanes))
                    found = isa.multiply_add(feature, load(source, at, lanes), total)
                b.store(totals, found, number * lanes)
        for number in range(count):
            b.store(target, load(totals, number * lanes, lanes), number * lanes)
    return function.close(1)


def reading_stage(isa: Isa, name: str, symbols: tuple[str, ...] = (), tasks: int = 1) -> Stage:
    """A function whose tasks read `ELEMENTS` float32 each and add them up.

    Args:
        isa: The processor.
        name: The function's symbol.
        symbols: Sizes it is called with.
        tasks: How many tasks a call does.
    """
    function, lanes = FunctionBuilder(name, symbols), isa.lanes
    b = function.builder
    source = function.param("input", 0, "float32")
    target = function.param("output", 0, "float32")
    begin, end = function.task_range
    totals = b.local("float32", STREAMS * lanes, "total")
    for number in range(STREAMS):
        b.store(totals, const(0, with_lanes("float32", lanes)), number * lanes)
    with b.loop(begin, end, "task") as task:
        base = b.let(task * index(ELEMENTS))
        with b.loop(0, ELEMENTS // (STREAMS * lanes), "block") as block:
            here = b.let(base + block * index(STREAMS * lanes))
            for number in range(STREAMS):
                found = load(source, here + index(number * lanes), lanes)
                b.store(totals, load(totals, number * lanes, lanes) + found, number * lanes)
    for number in range(STREAMS):
        b.store(target, load(totals, number * lanes, lanes), number * lanes)
    return function.close(tasks)
