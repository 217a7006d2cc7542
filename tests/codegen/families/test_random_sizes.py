"""Every family at sizes, types and epilogues nobody chose: several random kernels in one model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from effc.ir.program import Program
from effc.ir.testing import EXACT, Tolerance, assert_close, recorded
from effc.passes.clean.pipeline import CLEAN
from effc.passes.lower.pipeline import SPELL_OUT
from effc.passes.manager import PassManager

F = torch.nn.functional
SUMS = Tolerance(relative=2e-5)
ROUNDED = Tolerance(relative=3e-2)  # the program's sums of bfloat16 products differ in their order
TOGETHER, MODELS = 6, 2
TARGETS = ["native", "x86-64-v3"]
few = settings(
    max_examples=MODELS,
    phases=[Phase.generate],  # a failing model is not built again and again to shrink it
    suppress_health_check=list(HealthCheck),
)

EPILOGUES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda y, r: y,
    "relu": lambda y, r: y.relu(),
    "gelu": lambda y, r: F.gelu(y),
    "silu of a sum": lambda y, r: F.silu(y + r),
    "residual": lambda y, r: r + y.clamp(-1, 1) * 2,
    "hardswish": lambda y, r: F.hardswish(y) * r,
    "predicate": lambda y, r: (y > r).float(),
    "transposed": lambda y, r: (y * 2).transpose(1, -1).contiguous(),
}
epilogues = st.sampled_from([*EPILOGUES])
Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A random kernel: what it reads, what it computes of that, and its epilogue."""

    shape: tuple[int, ...]
    layer: Layer
    epilogue: str = "none"

    def inputs(self, number: int) -> dict[str, Tensor]:
        """Its operand, and a residual of the shape of its result."""
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(self.shape, generator=generator)
        r = torch.randn(self.layer(x).shape, generator=generator)
        return {f"x{number}": x, f"r{number}": r}


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@st.composite
def linear(draw: Any) -> Case:
    rows, features, columns = (draw(st.integers(1, most)) for most in (70, 140, 140))
    matrix, bias = weight(columns, features), draw(st.sampled_from([None, weight(columns)]))
    return Case((2, rows, features), lambda x: F.linear(x, matrix, bias), draw(epilogues))


@st.composite
def convolution(draw: Any, is_depthwise: bool = False) -> Case:
    groups = draw(st.integers(1, 70) if is_depthwise else st.sampled_from([1, 1, 2, 3]))
    channels = 1 if is_depthwise else draw(st.integers(1, 20))
    columns = groups * (1 if is_depthwise else draw(st.integers(1, 40)))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    step, padding, dilation = (draw(st.integers(low, 2)) for low in (1, 0, 1))
    size = [draw(st.integers(9, 19)) for _ in range(2)]
    kernel, bias = weight(columns, channels, height, width), weight(columns)

    def layer(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, bias, step, padding, dilation, groups)

    return Case((2, channels * groups, *size), layer, draw(epilogues))


@st.composite
def attention(draw: Any) -> Case:
    heads, length, features = (draw(st.integers(1, most)) for most in (4, 70, 40))
    source, values = draw(st.integers(1, length)), draw(st.integers(1, features))
    kind = draw(st.sampled_from(["all", "causal", "grouped", "masked"]))
    key_heads = 1 if kind == "grouped" else heads

    def layer(x: Tensor) -> Tensor:
        k, v = x[:, :key_heads, :source] * 0.5, x[:, :key_heads, :source, :values] + 1
        mask = (torch.arange(source) % 3 != 1)[None] if kind == "masked" else None
        settings = {"is_causal": kind == "causal", "enable_gqa": kind == "grouped"}
        return F.scaled_dot_product_attention(x, k, v, attn_mask=mask, **settings)

    return Case((2, heads, length, features), layer, draw(st.sampled_from(["none", "residual"])))


@st.composite
def rows(draw: Any) -> Case:
    shape = (*(draw(st.integers(1, 7)) for _ in range(2)), draw(st.integers(2, 300)))
    scale, shift = weight(shape[-1]), weight(shape[-1]) * 2
    layers: list[Layer] = [
        lambda x: x.softmax(-1),
        lambda x: F.log_softmax(x, -1),
        lambda x: F.layer_norm(x, shape[-1:], scale, shift),
        lambda x: F.rms_norm(x, shape[-1:], scale, 1e-5),
        lambda x: x.amax(-1, keepdim=True) - x.mean(-1, keepdim=True) * x,
    ]
    return Case(shape, draw(st.sampled_from(layers)), draw(epilogues))


@st.composite
def reductions(draw: Any) -> Case:
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=2, max_size=4)))
    dims = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    reduce = draw(st.sampled_from([torch.sum, torch.mean, torch.amax, torch.amin]))
    keep = draw(st.booleans())
    return Case(shape, lambda x: reduce(x, dim=tuple(dims), keepdim=keep))


@st.composite
def pooling(draw: Any) -> Case:
    size, step = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    settings = {"padding": draw(st.integers(0, size // 2)), "ceil_mode": draw(st.booleans())}
    pool = draw(st.sampled_from([F.max_pool2d, F.avg_pool2d]))
    shape = (2, *(draw(st.integers(low, most)) for low, most in ((1, 40), (5, 17), (5, 17))))
    return Case(shape, lambda x: pool(x, size, step, **settings), draw(epilogues))


@st.composite
def elementwise(draw: Any) -> Case:
    shape = tuple(draw(st.lists(st.integers(1, 25), min_size=2, max_size=4)))
    order = tuple(draw(st.permutations(range(len(shape)))))
    column = weight(shape[order[-1]])
    return Case(shape, lambda x: x.permute(order).exp() * column - 1, draw(epilogues))


STRATEGIES = {
    "linear": linear(),
    "convolution": convolution(),
    "depthwise": convolution(is_depthwise=True),
    "attention": attention(),
    "rows": rows(),
    "reductions": reductions(),
    "pooling": pooling(),
    "elementwise": elementwise(),
}


def program_of(cases: list[Case]) -> tuple[Program, dict[str, Tensor]]:
    """One program with an output per case."""
    inputs: dict[str, Tensor] = {}
    for number, case in enumerate(cases):
        inputs |= case.inputs(number)

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(cases, values[::2], values[1::2], strict=True)
        return tuple(EPILOGUES[case.epilogue](case.layer(x), r) for case, x, r in pairs)

    return recorded(function, **inputs), inputs


def drawn(data: st.DataObject, family: str) -> list[Case]:
    return data.draw(st.lists(STRATEGIES[family], min_size=TOGETHER, max_size=TOGETHER))


@pytest.mark.parametrize("family", STRATEGIES)
@few
@given(data=st.data())
def test_float32(compiled: Callable[..., Any], family: str, data: st.DataObject) -> None:
    program, inputs = program_of(drawn(data, family))
    target = data.draw(st.sampled_from(TARGETS))
    compiled(program, target=target).check(inputs, SUMS)


@pytest.mark.parametrize("family", ["linear", "convolution", "depthwise", "attention"])
@few
@given(data=st.data())
def test_bfloat16(compiled: Callable[..., Any], family: str, data: st.DataObject) -> None:
    program, inputs = program_of(drawn(data, family))
    target = data.draw(st.sampled_from(TARGETS))
    compiled(program, target=target, passes=f"{CLEAN},bfloat16").check(inputs, ROUNDED)


@pytest.mark.parametrize("family", ["linear", "convolution", "depthwise"])
@few
@given(data=st.data())
def test_codes_are_exact(compiled: Callable[..., Any], family: str, data: st.DataObject) -> None:
    """Sums of products of codes, scaled and turned into codes again, bit for bit."""
    scale, zero = torch.tensor(0.05), torch.tensor(data.draw(st.integers(0, 255))).int()

    def coded(case: Case) -> Case:
        def layer(x: Tensor) -> Tensor:
            result = case.layer(x).relu()
            return torch.ops.effc.quantize(result, scale, zero, 0, 255, torch.uint8)

        return Case(case.shape, layer)

    program, inputs = program_of([coded(case) for case in drawn(data, family)])
    target = data.draw(st.sampled_from(TARGETS))
    activations = data.draw(st.sampled_from(["static", "dynamic"]))
    passes = f"{CLEAN},quantize{{activations={activations}}}"
    model = compiled(program, target=target, passes=passes, calibration=[inputs])
    lowered = PassManager.parse(SPELL_OUT).run(model.program).program
    found = model.outputs(inputs)
    for name, expected in lowered.run(inputs).items():
        assert_close(name, expected, torch.from_numpy(found[name]), EXACT)
