"""Products of 16-bit floats against PyTorch, over odd sizes and targets with and without them."""

import subprocess

import pytest
import torch
from torch import nn

from effc.backends.tvm_cpu.build import build
from effc.ir.ops.half import attention_half, conv2d_half, linear_half
from effc.ir.target import Target
from effc.ir.testing import EXACT, Tolerance, traced

SUMS = Tolerance(relative=1e-5)
EXPONENTIALS = Tolerance(relative=4e-3)  # kernels round them to 8 significant bits
HALVES = [torch.bfloat16, torch.float16]


class Linear(nn.Module):
    def __init__(self, features: int, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(features)
        weight = torch.randn(columns, features, generator=generator)
        self.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.randn(columns, generator=generator))

    def forward(self, x):
        return torch.relu(linear_half(x.to(self.weight.dtype), self.weight, self.bias))


class Convolution(nn.Module):
    def __init__(self, channels, columns, size, stride, padding, groups, dtype) -> None:
        super().__init__()
        weight = torch.randn(columns, channels // groups, size, size)
        self.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.settings = ([stride, stride], [padding, padding], [1, 1], groups)

    def forward(self, x):
        half = torch.abs(x).to(self.weight.dtype)
        return conv2d_half(half, self.weight, None, *self.settings) * 2


class Attention(nn.Module):
    def __init__(self, is_causal: bool, heads_inside: bool) -> None:
        super().__init__()
        self.is_causal, self.heads_inside = is_causal, heads_inside

    def forward(self, q, k, v, mask=None):
        q, k, v = ((x * 1.5).to(torch.bfloat16) for x in (q, k, v))
        is_grouped = q.shape[1] != k.shape[1]
        return attention_half(q, k, v, mask, self.is_causal, None, is_grouped, self.heads_inside)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("rows", "features", "columns"),
    [(1, 1, 1), (3, 33, 50), (7, 5, 17), (13, 128, 64), (65, 31, 130)],
)
def test_linear(compiled, target, dtype, rows, features, columns):
    x = torch.randn(rows, features)
    compiled(Linear(features, columns, dtype), {"x": x}, target).check({"x": x}, SUMS)


def test_linear_with_symbolic_rows(compiled, target):
    dynamic = {"x": {0: torch.export.Dim("rows", min=1, max=64)}}
    model = compiled(Linear(23, 50, torch.bfloat16), {"x": torch.randn(9, 23)}, target, dynamic)
    for rows in (1, 5, 6, 13, 64):
        model.check({"x": torch.randn(rows, 23)}, SUMS)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [(3, 16, 7, 2, 3, 1), (8, 24, 3, 1, 1, 1), (5, 9, 1, 1, 0, 1), (6, 4, 3, 1, 0, 2),
     (19, 19, 3, 1, 1, 19)],
    ids=str,
)  # fmt: skip
def test_convolution(compiled, target, settings, dtype):
    x = torch.randn(2, settings[0], 11, 13)
    compiled(Convolution(*settings, dtype), {"x": x}, target).check({"x": x}, SUMS)


def test_an_odd_feature_is_not_multiplied_with_what_lies_behind_it(compiled, target):
    x = torch.randn(2, 5)
    infinite = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [torch.inf, 0.0, 0.0, 0.0, 0.0]])
    model = compiled(Linear(5, 3, torch.bfloat16), {"x": x}, target)
    found = next(iter(model.outputs({"x": infinite}).values()))
    expected = next(iter(model.program.run({"x": infinite}).values()))
    torch.testing.assert_close(torch.from_numpy(found)[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads_inside", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    ("heads", "key_heads", "length", "source", "features", "columns"),
    [(3, 3, 130, 130, 32, 32), (2, 2, 7, 13, 9, 20), (4, 2, 19, 19, 8, 72), (1, 1, 1, 5, 64, 64)],
)
def test_attention(
    compiled, target, heads, key_heads, length, source, features, columns, is_causal, heads_inside
):
    inputs = {
        "q": torch.randn(2, heads, length, features),
        "k": torch.randn(2, key_heads, source, features),
        "v": torch.randn(2, key_heads, source, columns),
    }
    compiled(Attention(is_causal, heads_inside), inputs, target).check(inputs, EXPONENTIALS)


def test_masked_attention_of_symbolic_length(compiled, target):
    def inputs(length):
        generator = torch.Generator().manual_seed(length)
        q, k, v = torch.randn(3, 1, 2, length, 16, generator=generator)
        mask = torch.rand(1, 1, 1, length, generator=generator) > 0.4
        mask[..., 0] = True
        return {"q": q, "k": k, "v": v, "mask": mask}

    length = torch.export.Dim("length", min=2, max=150)
    dynamic = {**{name: {2: length} for name in "qkv"}, "mask": {3: length}}
    model = compiled(Attention(False, True), inputs(9), target, dynamic)
    for size in (2, 3, 16, 63, 65, 149):
        model.check(inputs(size), EXPONENTIALS)


def test_pairs_are_multiplied_by_one_instruction_where_there_is_one(tmp_path):
    program = traced(Linear(32, 64, torch.bfloat16), torch.randn(6, 32))
    counts = {}
    for target in ("sapphirerapids", "x86-64-v4"):
        folder = tmp_path / target
        folder.mkdir()
        build(program, Target.parse(target), folder)
        command = ["objdump", "-d", str(folder / "model.so")]
        code = subprocess.run(command, capture_output=True, text=True, check=True)
        counts[target] = code.stdout.count("vdpbf16ps")
    assert counts["sapphirerapids"] > 0
    assert counts["x86-64-v4"] == 0


class Rounded(nn.Module):
    """Results in bfloat16 behind products that add nothing, read by products with the identity."""

    def __init__(self) -> None:
        super().__init__()
        ones, identity = torch.ones(37, 9).bfloat16(), torch.eye(37).bfloat16()
        self.weight = nn.Parameter(ones[:, :8], requires_grad=False)
        self.filter = nn.Parameter(ones.view(37, 1, 3, 3), requires_grad=False)
        self.identity = nn.Parameter(identity, requires_grad=False)
        self.same = nn.Parameter(identity.view(37, 37, 1, 1), requires_grad=False)

    def forward(self, x, y, image, z):
        settings = ([1, 1], [1, 1], [1, 1], 37)
        maps = conv2d_half(image.to(torch.bfloat16), self.filter, None, *settings)
        rows = linear_half(x.to(torch.bfloat16), self.weight, None)
        again = ([1, 1], [0, 0], [1, 1], 1)
        return (
            linear_half((rows + y).to(torch.bfloat16), self.identity, None),
            conv2d_half((maps + z).to(torch.bfloat16), self.same, None, *again),
        )


def test_results_round_to_nearest_even(compiled, target):
    near = torch.arange(0x3F7F0000, 0x3F830000, 0x555, dtype=torch.int32).view(torch.float32)
    ties = torch.arange(0x3F808000, 0x3F908000, 0x10000, dtype=torch.int32).view(torch.float32)
    values = torch.cat([near, -ties, ties, torch.tensor([3.3e38, -0.0, 1e-37])])
    y, z = (values.repeat(37)[: 37 * 30].clone() for _ in range(2))
    inputs = {
        "x": torch.zeros(30, 8), "y": y.view(30, 37),
        "image": torch.zeros(1, 37, 5, 6), "z": z.view(1, 37, 5, 6),
    }  # fmt: skip
    compiled(Rounded(), inputs, target).check(inputs, EXACT)
