"""Linear layers, convolutions and matrix products at odd sizes, with every epilogue and type."""

import pytest
import torch
from torch import nn

from effc.ir.testing import EXACT, ROUNDING, Tolerance

F = nn.functional
FLOAT = ROUNDING[torch.float32]
SUMS = Tolerance(relative=1e-5)


class Head(nn.Module):
    def __init__(self, features: int, columns: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(features, columns, bias)

    def forward(self, x):
        return self.linear(x)


class Epilogues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 37) for _ in range(6))

    def forward(self, x, y):
        a, b, c, d, e, f = (layer(x) for layer in self.layers)
        return F.gelu(a), F.silu(b) + y, F.relu(c + y) * 2, d > 0, e.transpose(0, 1), (f, f.neg())


@pytest.mark.parametrize(
    ("rows", "features", "columns"),
    [(1, 1, 1), (1, 64, 10), (3, 33, 50), (7, 5, 17), (13, 128, 64), (65, 31, 130), (6, 200, 16)],
)
def test_linear(compiled, target, rows, features, columns):
    x = torch.randn(rows, features, generator=torch.Generator().manual_seed(rows))
    compiled(Head(features, columns), {"x": x}, target).check({"x": x}, SUMS)


def test_linear_epilogues(compiled, target):
    x, y = torch.randn(9, 20), torch.randn(9, 37)
    compiled(Epilogues(), {"x": x, "y": y}, target).check({"x": x, "y": y}, SUMS)


def test_linear_of_three_dimensions_without_bias(compiled, target):
    x = torch.randn(2, 5, 24)
    compiled(Head(24, 40, bias=False), {"x": x}, target).check({"x": x}, SUMS)


def test_linear_of_a_transposed_operand(compiled, target):
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 18)

        def forward(self, x):
            return self.linear(x.transpose(1, 2))

    x = torch.randn(2, 6, 11)
    compiled(Transposed(), {"x": x}, target).check({"x": x}, SUMS)


def test_linear_with_symbolic_rows(compiled, target):
    dim = torch.export.Dim
    dynamic = {"x": {0: dim("batch", min=1, max=8), 1: dim("length", min=1, max=64)}}
    model = compiled(Head(24, 50), {"x": torch.randn(2, 9, 24)}, target, dynamic)
    for shape in ((1, 1), (1, 5), (1, 6), (1, 7), (8, 64), (3, 11)):
        model.check({"x": torch.randn(*shape, 24)}, SUMS)


class Convolution(nn.Module):
    def __init__(self, *settings, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*settings, bias=bias)

    def forward(self, x):
        return F.relu(self.conv(x))


CONVOLUTIONS = [
    (24, 40, 3, 1, 1),
    (24, 40, 3, 2, 1),
    (24, 7, 1, 1, 0),
    (24, 16, 1, 2, 0),
    (24, 48, 5, 1, 2, 1, 4),
    (24, 30, 3, 1, 2, 2),
    (24, 24, 3, 1, 1, 1, 24),
    (24, 24, 5, 2, 2, 1, 24),
    (24, 48, 3, 1, 1, 1, 24),
    (24, 24, (3, 1), (2, 1), (1, 0)),
    (24, 33, (1, 5), (1, 2), (0, 2)),
]


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_convolution(compiled, target, settings):
    x = torch.randn(2, 24, 11, 13)
    compiled(Convolution(*settings), {"x": x}, target).check({"x": x}, SUMS)


@pytest.mark.parametrize("size", [(7, 7), (8, 16), (33, 35)])
def test_convolution_of_few_channels(compiled, target, size):
    x = torch.randn(1, 3, *size)
    compiled(Convolution(3, 20, 7, 2, 3, bias=False), {"x": x}, target).check({"x": x}, SUMS)


class Residual(nn.Module):
    """Two padded convolutions with different padding read the same map, and it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 5, padding=2)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.second(x) + x, self.third(x)


def test_maps_with_borders_are_shared(compiled, target):
    x = torch.randn(2, 8, 9, 10)
    compiled(Residual(), {"x": x}, target).check({"x": x}, SUMS)


class Product(nn.Module):
    def forward(self, x, y):
        return F.relu(x @ y)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((5, 7), (7, 9)),
        ((2, 3, 50, 64), (2, 3, 64, 70)),
        ((3, 20, 33), (33, 17)),
        ((2, 4, 20, 33), (1, 1, 33, 17)),
        ((1, 1), (1, 1)),
    ],
)
def test_product_of_two_inputs(compiled, target, left, right):
    inputs = {"x": torch.randn(left), "y": torch.randn(right)}
    compiled(Product(), inputs, target).check(inputs, SUMS)


class Scores(nn.Module):
    """Softmax attention spelled out: sizes on all sides of both products are symbolic."""

    def forward(self, q, k, v):
        scores = torch.matmul(q, k.transpose(-1, -2)) * 0.5
        return torch.matmul(scores.softmax(-1), v), scores.relu() + 1


def test_products_of_symbolic_sizes(compiled, target):
    generator = torch.Generator().manual_seed(0)

    def drawn(queries, keys):
        shapes = {"q": (2, queries, 20), "k": (2, keys, 20), "v": (2, keys, 9)}
        return {name: torch.randn(s, generator=generator) for name, s in shapes.items()}

    dim = torch.export.Dim
    keys = {1: dim("keys", min=1, max=200)}
    dynamic = {"q": {1: dim("queries", min=1, max=50)}, "k": keys, "v": keys}
    built = compiled(Scores(), drawn(3, 40), target, dynamic)
    for sizes in ((1, 1), (5, 64), (14, 63), (50, 130), (2, 200)):
        built.check(drawn(*sizes), SUMS)


def test_product_with_a_transposed_factor(compiled, target):
    class Scores(nn.Module):
        def forward(self, x, y):
            return x @ y.transpose(-1, -2)

    inputs = {"x": torch.randn(2, 3, 19, 24), "y": torch.randn(2, 3, 21, 24)}
    compiled(Scores(), inputs, target).check(inputs, SUMS)


def quantized(module: nn.Module, scale: float, zero_point: int, dynamic: bool) -> nn.Module:
    """A module whose weights and input are in the form the pass `quantize` gives them."""
    weight = next(p for name, p in module.named_parameters() if name.endswith("weight")).detach()
    bias = next(p for name, p in module.named_parameters() if name.endswith("bias")).detach()
    rows = weight.flatten(1).abs().amax(1).clamp(min=1e-6) / 127
    rows = rows.reshape(-1, *[1] * (weight.dim() - 1))
    effc = torch.ops.effc

    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.round(weight / rows).to(torch.int8))
            self.register_buffer("row_scale", rows)
            self.register_buffer("scale", torch.tensor(scale))
            self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int32))
            self.register_buffer("bias", bias)

        def forward(self, x):
            if dynamic:
                dims = [-1] if weight.dim() == 2 else [1, 2, 3]
                codes, scale, zero = effc.quantize_dynamic(x, dims, 0, 255, torch.uint8)
            else:
                scale, zero = self.scale, self.zero_point
                codes = effc.quantize(x, scale, zero, 0, 255, torch.uint8)
            values = effc.dequantize(codes, scale, zero)
            restored = effc.dequantize(self.codes, self.row_scale, None)
            if weight.dim() == 2:
                result = F.linear(values, restored, self.bias)
            else:
                conv = module.conv
                result = F.conv2d(
                    values, restored, self.bias, conv.stride, conv.padding, conv.dilation,
                    conv.groups,
                )  # fmt: skip
            return effc.quantize(F.relu(result), self.scale, self.zero_point, 0, 255, torch.uint8)

    return Quantized()


def lowered_outputs(compiled_model, inputs):
    """What the lowered program's own arithmetic gives, in PyTorch."""
    from effc.passes.lower.pipeline import SPELL_OUT
    from effc.passes.manager import PassManager

    lowered = PassManager.parse(SPELL_OUT).run(compiled_model.program).program
    integers = [n for n in lowered.forward.graph.nodes if "integer" in str(n.target)]
    assert integers, "nothing was lowered to integers"
    return lowered.run(inputs)


def check_bit_for_bit(compiled_model, inputs):
    expected = lowered_outputs(compiled_model, inputs)
    found = compiled_model.outputs(inputs)
    for name, value in expected.items():
        assert torch.equal(value, torch.from_numpy(found[name])), name


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    ("rows", "features", "columns"), [(1, 1, 1), (5, 33, 50), (7, 64, 17), (30, 130, 129)]
)
def test_integer_linear_is_exact(compiled, target, rows, features, columns, dynamic):
    x = torch.randn(rows, features)
    model = compiled(quantized(Head(features, columns), 0.02, 117, dynamic), {"x": x}, target)
    check_bit_for_bit(model, {"x": x})


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_integer_convolution_is_exact(compiled, target, settings, dynamic):
    x = torch.randn(2, 24, 9, 11)
    module = quantized(Convolution(*settings), 0.03, 100, dynamic)
    check_bit_for_bit(compiled(module, {"x": x}, target), {"x": x})


def test_integer_sums_do_not_saturate(compiled, target):
    head = Head(2048, 16)
    with torch.no_grad():
        head.linear.weight.fill_(1.0)
        head.linear.bias.zero_()
    x = torch.full((3, 2048), 1e6)
    model = compiled(quantized(head, 1.0, 0, dynamic=False), {"x": x}, target)
    check_bit_for_bit(model, {"x": x})
    assert model.outputs({"x": x})["output"].min() == 255


def test_integer_residual_is_exact(compiled, target):
    effc = torch.ops.effc

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.randint(-127, 128, (24, 16)).to(torch.int8))
            self.register_buffer("row_scale", torch.rand(24, 1) * 0.01 + 0.001)
            self.register_buffer("scale", torch.tensor(0.05))
            self.register_buffer("zero_point", torch.tensor(90, dtype=torch.int32))

        def forward(self, x, y):
            def coded(v):
                return effc.quantize(v, self.scale, self.zero_point, 0, 255, torch.uint8)

            def restored(v):
                return effc.dequantize(v, self.scale, self.zero_point)

            weight = effc.dequantize(self.codes, self.row_scale, None)
            total = F.linear(restored(coded(x)), weight) + restored(coded(y))
            return coded(F.relu(total))

    inputs = {"x": torch.randn(6, 16), "y": torch.randn(6, 24)}
    check_bit_for_bit(compiled(Added(), inputs, target), inputs)


def test_pooling_runs_on_codes(compiled, target):
    effc = torch.ops.effc

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(0.05))
            self.register_buffer("zero_point", torch.tensor(90, dtype=torch.int32))

        def forward(self, x):
            codes = effc.quantize(x, self.scale, self.zero_point, 0, 255, torch.uint8)
            values = F.max_pool2d(effc.dequantize(codes, self.scale, self.zero_point), 3, 2, 1)
            return effc.quantize(values, self.scale, self.zero_point, 0, 255, torch.uint8)

    inputs = {"x": torch.randn(1, 20, 9, 9)}
    compiled(Pooled(), inputs, target).check(inputs, EXACT)
