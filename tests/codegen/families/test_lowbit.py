"""Products with low-bit weights against the reference operators: integers bit for bit."""

import subprocess
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.backends.tvm_cpu.build import build
from effc.ir.encoding import pack_codes
from effc.ir.errors import UnsupportedError
from effc.ir.target import Target
from effc.ir.testing import EXACT, Tolerance, traced
from effc.ir.trace.exported import program_of

OPS = torch.ops.effc
SUMS = Tolerance(relative=1e-5)


@dataclass(frozen=True)
class Case:
    """Sizes and format of one product."""

    rows: int
    features: int
    columns: int
    bits: int = 4
    group: int = 32
    zeros: bool = False
    planes: int = 1
    half: bool = True


class Grouped(nn.Module):
    """A product with a weight of random codes."""

    def __init__(self, case: Case, integer: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(case.features * case.columns + case.bits)
        groups = -(-case.features // case.group)
        outer = (case.columns,) if case.planes == 1 else (case.planes, case.columns)
        largest = 1 << case.bits
        codes = torch.randint(0, largest, (*outer, case.features), generator=generator)
        scale = torch.randn(*outer, groups, generator=generator)
        zero = torch.randint(0, largest, (*outer, groups), generator=generator)
        self.register_buffer("codes", pack_codes(codes, case.bits))
        self.register_buffer("scale", scale.to(torch.bfloat16) if case.half else scale)
        self.register_buffer("zero", pack_codes(zero, case.bits) if case.zeros else None)
        self.settings = case.bits, case.group
        self.product = OPS.linear_grouped_integer if integer else OPS.linear_grouped

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.codes, self.scale, self.zero, *self.settings)


class Several(nn.Module):
    """Several products, each of an input of its own, so that one build serves all of them."""

    def __init__(self, cases: list[Case], integer: bool = True) -> None:
        super().__init__()
        self.products = nn.ModuleList(Grouped(case, integer) for case in cases)

    def forward(self, *xs: Tensor) -> list[Tensor]:
        return [product(x) for product, x in zip(self.products, xs, strict=True)]


def activations(*shape: int, integer: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if not integer:
        return torch.randn(*shape, generator=generator)
    return torch.randint(-127, 128, shape, generator=generator).to(torch.int8)


def check(compiled, target: str, cases: list[Case], integer: bool = True) -> None:
    xs = [activations(case.rows, case.features, integer=integer) for case in cases]
    exported = torch.export.export(Several(cases, integer), tuple(xs), strict=False)
    program = program_of(exported, "several")
    names = [spec.name for spec in program.signature.inputs]
    model = compiled(program, target=target)
    model.check(dict(zip(names, xs, strict=True)), EXACT if integer else SUMS)


SHAPES = [(1, 32, 16), (1, 100, 50), (2, 5, 7), (3, 200, 33), (4, 64, 130), (7, 36, 40),
          (8, 256, 96), (13, 67, 17), (25, 96, 65), (64, 40, 34)]  # fmt: skip


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "asymmetric"])
def test_integers(compiled, target, zeros):
    check(compiled, target, [Case(*shape, zeros=zeros) for shape in SHAPES])


@pytest.mark.parametrize("rows", [1, 9])
def test_bits(compiled, target, rows):
    check(compiled, target, [Case(rows, 160, 40, bits, 64) for bits in range(2, 9)])


def test_groups(compiled, target):
    sizes = [(group, features) for group in (32, 64, 128, 1024) for features in (130, 256, 300)]
    cases = [Case(rows, f, 20, 4, g, True) for g, f in sizes for rows in (2, 6)]
    check(compiled, target, cases)


def test_planes_and_wide_scales(compiled, target):
    cases = [
        Case(rows, 100, 40, 2, group, planes=planes, half=half)
        for rows in (1, 7)
        for group in (32, 100)
        for planes, half in ((1, False), (2, True), (3, False))
    ]
    check(compiled, target, cases)


def test_floats(compiled, target):
    cases = [Case(*shape, zeros=zeros) for shape in SHAPES for zeros in (False, True)]
    cases += [Case(rows, 70, 40, bits, 64) for rows in (1, 9) for bits in (2, 3, 7, 8)]
    check(compiled, target, cases, integer=False)


@pytest.mark.parametrize("bits", [4, 7, 8])
def test_sums_do_not_saturate(compiled, target, bits):
    case = Case(1, 4096, 16, bits, 4096)
    module = Grouped(case)
    module.codes.fill_(255)
    x = torch.full((1, 4096), 127, dtype=torch.int8)
    model = compiled(traced(module, x), target=target)
    model.check({"x": x}, EXACT)
    assert float(next(iter(model.outputs({"x": x}).values())).max()) != 0


def test_symbolic_rows(compiled, target):
    for integer in (True, False):
        module = Grouped(Case(9, 100, 50, zeros=True), integer)
        example = activations(2, 5, 100, integer=integer)
        dynamic = {"x.0": "batch", "x.1": "tokens"}
        model = compiled(traced(module, example, dynamic=dynamic), target=target)
        for shape in ((1, 1), (1, 3), (2, 2), (1, 5), (1, 6), (3, 7), (5, 40)):
            x = activations(*shape, 100, integer=integer)
            model.check({"x": x}, EXACT if integer else SUMS)


class Layer(nn.Module):
    """Weights and activations in codes as the pass leaves them, between other operators."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.grouped = Grouped(Case(1, 96, 72, zeros=True))
        self.norm = nn.LayerNorm(96)
        self.bias = nn.Parameter(torch.randn(72)) if bias else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        codes, scale = OPS.quantize_symmetric(self.norm(x), [-1], 127, torch.int8)
        values = OPS.dequantize(codes, scale, None)
        held = self.grouped
        weight = OPS.dequantize_grouped(held.codes, held.scale, held.zero, *held.settings, 96)
        return torch.relu(nn.functional.linear(values, weight, self.bias)) + y


@pytest.mark.parametrize("bias", [False, True])
def test_layers_fuse_with_what_surrounds_them(compiled, target, bias):
    inputs = {"x": torch.randn(3, 5, 96), "y": torch.randn(3, 5, 72)}
    model = compiled(traced(Layer(bias), inputs["x"], inputs["y"]), target=target)
    model.check(inputs, Tolerance(relative=5e-3))


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.builds(
            Case, st.integers(1, 30), st.integers(1, 300), st.integers(1, 70), st.integers(2, 8),
            st.sampled_from([32, 64, 128, 300]), st.booleans(), st.integers(1, 2), st.booleans(),
        ),
        min_size=6, max_size=6,
    )
)  # fmt: skip
def test_random_products(compiled, cases):
    check(compiled, "native", cases)


def test_groups_that_are_no_multiple_of_a_block_are_refused(compiled):
    x = activations(2, 96)
    with pytest.raises(UnsupportedError, match="groups of 48 features; kernels handle multiples"):
        compiled(traced(Grouped(Case(2, 96, 8, 4, 48)), x))


def test_instructions(tmp_path):
    program = traced(Grouped(Case(2, 64, 32)), activations(2, 64))
    found = {}
    for target in ("x86-64-v3", "x86-64-v4", "znver4"):
        folder = tmp_path / target
        folder.mkdir()
        build(program, Target.parse(target), folder)
        command = ["objdump", "-d", str(folder / "model.so")]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[target] = [name for name in ("vpmaddubsw", "vpdpbusd") if name in code]
    expected = {"x86-64-v3": ["vpmaddubsw"], "x86-64-v4": ["vpmaddubsw"], "znver4": ["vpdpbusd"]}
    assert found == expected


class Looked(nn.Module):
    """A product with codes that a table gives values."""

    def __init__(self, case: Case, scale: torch.dtype, is_whole: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(case.features + case.bits)
        groups = 1 if is_whole else -(-case.features // case.group)
        shape = (1, 1) if is_whole else (case.columns, groups)
        codes = torch.randint(0, 1 << case.bits, (case.columns, case.features), generator=generator)
        values = torch.rand(shape, generator=generator) * 4
        exponents = torch.exp2(torch.randint(-9, 9, shape, generator=generator).float())
        self.register_buffer("codes", pack_codes(codes, case.bits))
        exact = exponents if scale == torch.float8_e8m0fnu else values
        self.register_buffer("scale", exact.to(scale))
        self.register_buffer("table", torch.randn(1 << case.bits, generator=generator))
        self.settings = case.bits, case.features if is_whole else case.group

    def forward(self, x: Tensor) -> Tensor:
        operands = x, self.codes, self.scale, None
        return OPS.linear_grouped(*operands, *self.settings, self.table)


TABLES = [(4, 32, torch.float8_e8m0fnu), (8, 32, torch.float8_e8m0fnu), (4, 64, torch.bfloat16),
          (4, 16, torch.float8_e4m3fn), (8, 512, torch.bfloat16)]  # fmt: skip


@pytest.mark.parametrize(("bits", "group", "scale"), TABLES)
def test_tables(compiled, target, bits, group, scale):
    cases = [Case(rows, features, 40, bits, group) for rows in (1, 9) for features in (24, 96, 200)]
    modules = nn.ModuleList(Looked(case, scale) for case in cases)
    whole = Looked(Case(2, 96, 40, bits, 96), torch.bfloat16, is_whole=True)
    modules.append(whole)
    xs = [activations(case.rows, case.features, integer=False) for case in cases]
    xs.append(activations(2, 96, integer=False))
    several = Several([])
    several.products = modules
    program = program_of(torch.export.export(several, tuple(xs), strict=False), "tables")
    names = [spec.name for spec in program.signature.inputs]
    compiled(program, target=target).check(dict(zip(names, xs, strict=True)), SUMS)


def test_small_scales_of_a_block(compiled, target):
    """E4M3 scales below its normal numbers, which are subnormal."""
    module = Looked(Case(1, 64, 16, 4, 16), torch.float8_e4m3fn)
    module.scale = (torch.rand(16, 4) * 2.0**-6).to(torch.float8_e4m3fn)
    x = activations(1, 64, integer=False)
    several = Several([])
    several.products = nn.ModuleList([module])
    program = program_of(torch.export.export(several, (x,), strict=False), "small")
    name = program.signature.inputs[0].name
    compiled(program, target=target).check({name: x}, SUMS)
