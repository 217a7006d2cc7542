"""Fold norms: numbers against PyTorch's batch norm, and every reason to decline."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import EXACT, ROUNDING, assert_same_outputs, operators, recorded, traced
from effc.passes.manager import PassManager
from effc.passes.report import PassRow

aten = torch.ops.aten
ROUNDED = ROUNDING[torch.float32]
GENERATOR = torch.Generator().manual_seed(0)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, bias=False), (2, 4, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6, padding=1), (2, 6, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (2, 4, 3, 3, 3)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5)),
    "linear": (lambda: nn.Linear(4, 6), (2, 4)),
}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


def normalized(x: Tensor, mean: Tensor | None = None) -> Tensor:
    """Batch norm in evaluation mode over dimension 1."""
    mean = STATISTICS[1] if mean is None else mean
    return functional.batch_norm(x, mean, STATISTICS[0], STATISTICS[2], STATISTICS[3])


STATISTICS = (random(2).abs() + 0.5, random(2), random(2), random(2))
KERNEL, MATRIX, SCALE = random(2, 2, 1, 1), random(2, 3), random(2)
SQUARE, CHANNEL, COLUMN, FULL = random(2, 2), random(2, 1, 1), random(4, 1), random(4, 2)


def folded(program: Program) -> tuple[Program, PassRow]:
    report = PassManager.parse("canonicalize,fold-norms").run(program)
    return report.program, report.rows[1]


@pytest.mark.parametrize("name", LAYERS)
def test_norms_fold_into_the_layer_before(name: str) -> None:
    make, shape = LAYERS[name]
    norm = NORMS[len(shape)](6).requires_grad_(False)
    norm.load_state_dict(
        {
            "weight": random(6),
            "bias": random(6),
            "running_mean": random(6),
            "running_var": random(6).abs() + 0.1,
            "num_batches_tracked": torch.tensor(1),
        }
    )
    module = nn.Sequential(make().requires_grad_(False), norm).eval()
    before = recorded(module, x=random(*shape))
    after, row = folded(before)
    assert row.notes == {"rewrites": {"fold-batch-norm": 1}}
    assert sum(operators(after).values()) == 1
    assert_same_outputs(before, after, tolerance=ROUNDED)


def test_statistics_without_weight_and_bias() -> None:
    mean, variance = random(2), random(2).abs() + 0.1
    before = recorded(
        lambda x: functional.batch_norm(functional.conv2d(x, KERNEL), mean, variance),
        x=random(2, 2, 3, 3),
    )
    after, _ = folded(before)
    assert operators(after) == {"aten.conv2d.default": 1}
    assert_same_outputs(before, after, tolerance=ROUNDED)


def test_exported_norms_fold() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    before = traced(module, random(2, 2, 3, 3), dynamic={"input.0": "batch"})
    after, _ = folded(before)
    assert operators(after) == {"aten.conv2d.default": 1}
    assert sorted(after.weights()) == ["0.bias_folded", "0.weight_folded"]


MAPS = {
    "scale of a linear": lambda x: functional.linear(x, MATRIX) * SCALE,
    "number": lambda x: 3 * functional.linear(x, MATRIX, SCALE),
    "divided": lambda x: functional.linear(x, MATRIX, SCALE) / SCALE,
    "shift": lambda x: functional.linear(x, MATRIX) - SCALE,
    "scale and shift": lambda x: (functional.linear(x, MATRIX) + 1) * SCALE + SCALE,
    "convolution": lambda x: functional.conv2d(x.view(1, 2, 2, 3), KERNEL) * CHANNEL,
}


@pytest.mark.parametrize("name", MAPS)
def test_constant_maps_fold(name: str) -> None:
    before = recorded(MAPS[name], x=random(4, 3))
    after, _ = folded(before)
    remaining = operators(after).keys() - {"aten.view.default", "aten.reshape.default"}
    assert len(remaining) == 1
    assert_same_outputs(before, after, tolerance=ROUNDED)


OTHER = {
    "constant of another dimension": lambda x: functional.linear(x, MATRIX) * COLUMN,
    "full matrix": lambda x: functional.linear(x, MATRIX) + FULL,
    "more dimensions": lambda x: functional.linear(x, MATRIX) + CHANNEL,
}


@pytest.mark.parametrize("name", OTHER)
def test_maps_that_are_not_per_channel_stay(name: str) -> None:
    before = recorded(OTHER[name], x=random(4, 3))
    after, row = folded(before)
    assert [r["reason"] for r in row.refusals] == ["its constant is not one number per channel"]
    assert not row.changed
    assert_same_outputs(before, after, tolerance=EXACT)


def conv(x: Tensor) -> Tensor:
    return functional.conv2d(x, KERNEL)


REFUSALS = {
    "it does not follow a convolution or linear": lambda x: normalized(x.relu()),
    "the output of the layer before it has other users": lambda x: (y := conv(x)) + normalized(y),
    "the weight of the layer before it is computed": lambda x: normalized(
        functional.conv2d(x, KERNEL * x.mean())
    ),
    "the weight of the layer before it is shared with another layer": lambda x: normalized(
        conv(conv(x).relu())
    ),
    "its statistics are not constants": lambda x: normalized(conv(x), x.mean((0, 2, 3))),
    "it normalises another dimension than the outputs of the layer before it": lambda x: normalized(
        functional.linear(x, SQUARE)
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_refusals(reason: str) -> None:
    before = recorded(REFUSALS[reason], x=random(2, 2, 2, 2))
    after, row = folded(before)
    assert reason in [refusal["reason"] for refusal in row.refusals]
    is_split = reason != "its statistics are not constants"
    assert any("batch_norm" in name for name in operators(after)) != is_split
    assert_same_outputs(before, after, tolerance=ROUNDED)


def test_norms_whose_statistics_are_read_stay() -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        arguments = (*STATISTICS[2:], STATISTICS[1], STATISTICS[0], 0.1, 1e-5)
        result = aten._native_batch_norm_legit_no_training(conv(x), *arguments)
        return result[0], result[1]

    before = recorded(both, x=random(2, 2, 2, 2))
    after, row = folded(before)
    assert {refusal["reason"] for refusal in row.refusals} == {"its statistics are read"}
    assert_same_outputs(before, after)


def test_norms_of_the_batch_are_not_touched() -> None:
    before = recorded(lambda x: functional.instance_norm(conv(x)), x=random(2, 2, 3, 3))
    after, row = folded(before)
    assert not row.changed
    assert_same_outputs(before, after)


def test_weights_of_the_input_are_not_written() -> None:
    kernel = KERNEL.clone()
    folded(recorded(lambda x: normalized(conv(x)), x=random(2, 2, 2, 2)))
    assert torch.equal(KERNEL, kernel)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    kernel, scale = KERNEL.to(dtype), CHANNEL.to(dtype)
    before = recorded(
        lambda x: functional.conv2d(x, kernel) * scale,
        x=random(1, 2, 3, 3).to(dtype),
    )
    after, _ = folded(before)
    (weight,) = after.weights().values()
    assert torch.equal(weight, (kernel.double() * scale.double()[..., None]).to(dtype))
