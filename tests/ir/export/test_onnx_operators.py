"""Every operator the ONNX export knows, against PyTorch, in ONNX Runtime and read back."""

import math
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from export_checks import FLOAT_DB, check_export
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

import effc.ir.ops  # noqa: F401  (registers effc's operators)
from effc.ir.export.onnx.graph import FIRST_OPSET
from effc.ir.testing import traced


class Call1(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Call2(Call1):
    """Of two."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


class Call3(Call1):
    """Of three."""

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.function(x, y, z)


class Call4(Call1):
    """Of four."""

    def forward(self, x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> Tensor:
        return self.function(x, y, z, w)


def check(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], folder: Path,
          least: float = FLOAT_DB) -> onnx.ModelProto:  # fmt: skip
    """Export a function of some tensors and compare."""
    module = (Call1, Call2, Call3, Call4)[len(inputs) - 1](function)
    program = traced(module, *inputs)
    named = {s.name: x for s, x in zip(program.signature.inputs, inputs, strict=True)}
    return check_export(program, folder, least, named)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


X = drawn(2, 3, 4)
POSITIVE = X.abs() + 0.5
IMAGE = drawn(1, 4, 6, 8)
PLACES = torch.tensor([[0, 2, 1], [3, 0, 2]])
COUNTS = torch.tensor([[5, -7, 3], [-2, 9, 4]])
UNARY = """abs ceil floor neg reciprocal relu sign sqrt exp log erf sin cos tan asin acos atan sinh
cosh tanh asinh acosh atanh sigmoid round isnan isinf rsqrt square expm1 log1p log2 log10 exp2 trunc
logical_not""".split()
ACTIVATIONS = """gelu silu mish softplus softsign elu selu celu leaky_relu hardswish hardsigmoid
relu6 logsigmoid hardtanh""".split()
DOMAIN = {
    "sqrt": POSITIVE, "log": POSITIVE, "log2": POSITIVE, "log10": POSITIVE, "log1p": POSITIVE,
    "rsqrt": POSITIVE, "reciprocal": POSITIVE, "acosh": POSITIVE + 1, "asin": X.clamp(-1, 1),
    "acos": X.clamp(-1, 1), "atanh": X.clamp(-0.9, 0.9), "logical_not": X > 0,
}  # fmt: skip
CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "gelu-tanh": (lambda x: F.gelu(x, approximate="tanh"), (X,)),
    "softplus-beta": (lambda x: F.softplus(x, 2.0), (X,)),
    "clamp": (lambda x: x.clamp(-0.5, 0.7), (X,)),
    "clamp-tensor": (lambda x, y: torch.clamp(x, min=y), (X, drawn(4))),
    "clamp-integers": (lambda x: x.clamp(-3, 4), (COUNTS,)),
    "nan_to_num": (lambda x: torch.nan_to_num(1 / x.relu(), 1.5, 7.0, -3.0), (X,)),
    "threshold": (lambda x: F.threshold(x, 0.1, 2.0), (X,)),
    "add": (lambda x, y: torch.add(x, y, alpha=2), (X, drawn(4))),
    "add-types": (lambda x, y: x + y, (X, torch.tensor([1, 2, 3, 4]))),
    "rsub": (lambda x: 1.5 - x, (X,)),
    "div": (lambda x, y: x / y, (X, POSITIVE)),
    "div-integers": (lambda x: x / 2, (COUNTS,)),
    "floor_divide": (lambda x: x // 3, (COUNTS,)),
    "floor_divide-float": (lambda x: x // 0.3, (X,)),
    "div-trunc": (lambda x: torch.div(x, 0.3, rounding_mode="trunc"), (X,)),
    "remainder": (lambda x: x % 0.3, (X,)),
    "remainder-ends": (lambda x: x % math.inf, (X,)),
    "var-of-one": (lambda x: x[:, :1].var(1), (X,)),
    "remainder-integers": (lambda x: x % 4, (COUNTS,)),
    "fmod": (lambda x: torch.fmod(x, 0.3), (X,)),
    "pow": (lambda x: x**2.5, (POSITIVE,)),
    "pow-scalar": (lambda x: 2.0**x, (X,)),
    "pow-tensor": (lambda x, y: x**y, (POSITIVE, X)),
    "compare": (lambda x, y: (x > y) | (x <= 0.1) & (y != 0.0), (X, drawn(4))),
    "equal": (lambda x: (x == 3).to(torch.float32), (COUNTS,)),
    "logical_xor": (lambda x: torch.logical_xor(x > 0, x > 1), (X,)),
    "bitwise": (lambda x: (x & 6) | 1, (COUNTS,)),
    "bitwise_not": (lambda x: ~x, (COUNTS,)),
    "shifts": (lambda x: (x << 2) + (x >> 1), (COUNTS,)),
    "where": (lambda x, y: torch.where(x > 0, x, y), (X, drawn(4))),
    "where-scalar": (lambda x: torch.where(x > 0, x, 2.0), (X,)),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -7.0), (X,)),
    "addcmul": (lambda x, y: torch.addcmul(x, y, y, value=0.5), (X, drawn(4))),
    "addcdiv": (lambda x, y: torch.addcdiv(x, x, y), (X, POSITIVE)),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.3), (X, drawn(4))),
    "prelu": (lambda x, y: F.prelu(x, y), (X, drawn(3))),
    "cast": (lambda x: (x * 10).to(torch.int32), (X,)),
    "half": (lambda x: x.to(torch.float16).to(torch.float32), (X,)),
    "view": (lambda x: x.view(6, 4).reshape(-1).unflatten(0, (3, 8)), (X,)),
    "permute": (lambda x: x.permute(2, 0, 1).transpose(0, 2).movedim(0, 2) * 1, (X,)),
    "squeeze": (lambda x: x.unsqueeze(1).unsqueeze(-1).squeeze(1).squeeze() * 1, (X,)),
    "expand": (lambda x: x[:, :1].expand(2, 5, 4) + 0, (X,)),
    "slice": (lambda x: x[:, 1:, ::2] + x[:, :-1, 1::2], (X,)),
    "select": (lambda x: x[:, -1] + x[1, 0], (X,)),
    "split": (lambda x: torch.cat(torch.split(x, [1, 3], 2)[::-1], 2), (X,)),
    "chunk": (lambda x: torch.stack(torch.chunk(x, 2, 2), 1), (X,)),
    "unbind": (lambda x: x.unbind(1)[2] - x.unbind(1)[0], (X,)),
    "unfold": (lambda x: x.unfold(2, 2, 1) + 0, (X,)),
    "diagonal": (lambda x: torch.diagonal(x, 1, 1, 2) + 0, (X,)),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1), value=3.0), (X,)),
    "pad-reflect": (lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), (IMAGE,)),
    "pad-replicate": (lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), (IMAGE,)),
    "embedding": (lambda i, w: F.embedding(i, w), (PLACES, drawn(5, 4))),
    "index_select": (lambda x: torch.index_select(x, 2, torch.tensor([3, 1])), (X,)),
    "gather": (lambda x, i: torch.gather(x, 1, i), (drawn(2, 4), PLACES)),
    "index": (lambda x, i: x[:, i], (drawn(2, 4, 3), PLACES)),
    "index-two": (lambda x, i: x[i, i.flip(0)], (drawn(4, 4, 3), PLACES)),
    "index-inner": (lambda x, i: x[:, i, i], (drawn(2, 4, 4, 3), PLACES)),
    "flip": (lambda x: x.flip(0, 2), (X,)),
    "repeat": (lambda x: x.repeat(2, 1, 1, 3), (X,)),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, 1), (X,)),
    "roll": (lambda x: torch.roll(x, (1, -2), (1, 2)), (X,)),
    "tril": (lambda x: x.tril() + x.triu(1), (X,)),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2.0), (IMAGE,)),
    "nearest-size": (lambda x: F.interpolate(x, size=(9, 11)), (IMAGE,)),
    "bilinear": (lambda x: F.interpolate(x, size=(9, 11), mode="bilinear"), (IMAGE,)),
    "bilinear-corners": (
        lambda x: F.interpolate(x, size=(9, 11), mode="bilinear", align_corners=True), (IMAGE,)),
    "bilinear-factor": (
        lambda x: F.interpolate(x, scale_factor=1.6, mode="bilinear"), (IMAGE,)),
    "pixel_shuffle": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), (IMAGE,)),
    "scatter": (lambda x, i: torch.scatter(x, 1, i, 9.0), (drawn(2, 4), PLACES)),
    "scatter-source": (lambda x, i, s: x.scatter(1, i, s), (drawn(2, 4), PLACES, drawn(2, 3))),
    "slice_scatter": (lambda x: torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 3), (X,)),
    "select_scatter": (lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, -1), (X,)),
    "creation": (lambda x: x + torch.arange(4) + torch.full((3, 1), 2.0) + torch.eye(3, 4), (X,)),
    "sum": (lambda x: x.sum((0, 2)), (X,)),
    "mean": (lambda x: x.mean(-1, keepdim=True), (X,)),
    "extremes": (lambda x: x.amax(1) - x.amin((1,)) + x.max(), (X,)),
    "extremes-with-places": (lambda x: x.max(1)[0] + x.min(1)[1], (X,)),
    "argmax": (lambda x: x.argmax(1) + x.argmin(), (X,)),
    "any": (lambda x: (x > 1).any(1) | (x > -1).all(1), (X,)),
    "prod": (lambda x: x.prod(1), (X,)),
    "logsumexp": (lambda x: torch.logsumexp(x, 1), (X,)),
    "var": (lambda x: x.var(1) + x.std(1, unbiased=False), (X,)),
    "var_mean": (lambda x: torch.var_mean(x, 1)[0] + torch.var_mean(x, 1)[1], (X,)),
    "norm": (lambda x: torch.linalg.vector_norm(x, 2, 1), (X,)),
    "cumsum": (lambda x: x.cumsum(1), (X,)),
    "topk": (lambda x: torch.topk(x, 2, 2)[0], (X,)),
    "sort": (lambda x: torch.sort(x, 2, descending=True)[0], (X,)),
    "argsort": (lambda x: torch.argsort(x, 2), (X,)),
    "max_pool": (lambda x: F.max_pool2d(x, 3, 2, 1), (IMAGE,)),
    "max_pool-ceil": (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), (IMAGE,)),
    "avg_pool": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), (IMAGE,)),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 2), (X,)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, 1), (IMAGE,)),
    "adaptive-even": (lambda x: F.adaptive_avg_pool2d(x, (3, 4)), (IMAGE,)),
    "adaptive-uneven": (lambda x: F.adaptive_avg_pool2d(x, (4, 3)), (IMAGE,)),
    "softmax": (lambda x: F.softmax(x, 1) + F.log_softmax(x, 2), (X,)),
    "layer_norm": (lambda x, w: F.layer_norm(x, (3, 4), w), (X, drawn(3, 4))),
    "layer_norm-bare": (lambda x: F.layer_norm(x, (4,)), (X,)),
    "rms_norm": (lambda x, w: F.rms_norm(x, (4,), w), (X, drawn(4))),
    "group_norm": (lambda x, w: F.group_norm(x, 2, w, w), (IMAGE, drawn(4))),
    "instance_norm": (lambda x: F.instance_norm(x), (IMAGE,)),
    "linear": (lambda x, w, b: F.linear(x, w, b), (X, drawn(5, 4), drawn(5))),
    "matmul": (lambda x, y: x @ y, (X, drawn(2, 4, 5))),
    "addmm": (lambda b, x, y: torch.addmm(b, x, y, beta=0.5, alpha=2), (drawn(5), X[0], X[0].T)),
    "conv1d": (lambda x, w: F.conv1d(x, w, padding=1), (X, drawn(5, 3, 3))),
    "conv2d": (lambda x, w: F.conv2d(x, w, None, 2, (1, 0), 1, 2), (IMAGE, drawn(6, 2, 3, 3))),
    "conv2d-same": (lambda x, w: F.conv2d(x, w, padding="same"), (IMAGE, drawn(6, 4, 2, 3))),
    "conv2d-single": (lambda x, w: F.conv2d(x, w), (IMAGE[0], drawn(6, 4, 2, 3))),
    "conv_transpose2d": (
        lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1), (IMAGE, drawn(4, 3, 3, 3))),
    "conv3d": (lambda x, w: F.conv3d(x, w), (IMAGE.reshape(1, 4, 2, 3, 8), drawn(2, 4, 1, 2, 3))),
}  # fmt: skip
CASES["addmm"] = (CASES["addmm"][0], (drawn(3), drawn(3, 4), drawn(4, 3)))


@pytest.mark.parametrize("name", CASES)
def test_operator(name, tmp_path):
    assert check(*CASES[name], tmp_path).graph.output


@pytest.mark.parametrize("name", UNARY)
def test_elementwise(name, tmp_path):
    assert check(getattr(torch, name), (DOMAIN.get(name, X),), tmp_path, 90.0).graph.node


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, tmp_path):
    assert check(getattr(F, name), (X,), tmp_path).graph.node


@pytest.mark.parametrize("kind", ["plain", "causal", "mask", "bias", "grouped", "blind"])
def test_attention(kind, tmp_path):
    heads = 4 if kind == "grouped" else 2
    query, key, value = drawn(1, heads, 5, 8), drawn(1, 2, 5, 8) * 2, drawn(1, 2, 5, 8) + 1
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    if kind == "blind":
        mask[2] = False
    given = mask if kind in ("mask", "blind") else drawn(5, 5) if kind == "bias" else None
    inputs = (query, key, value) if given is None else (query, key, value, given)

    def function(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=kind == "causal", enable_gqa=kind == "grouped"
        )

    assert check(function, inputs, tmp_path).opset_import[0].version == FIRST_OPSET
