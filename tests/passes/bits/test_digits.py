"""Accuracy of small trained nets after quantization, measured on digits they have not seen."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import operators, traced
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

TRAINED, BATCH = 1200, 50


class Block(nn.Module):
    """A residual block with a convolution on the side."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.side = nn.Conv2d(12, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.side(x)).relu()


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), Block(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 10)
    )


@cache
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.from_numpy((pixels[order] / 8 - 1).astype(np.float32)).view(-1, 1, 8, 8)
    return images, torch.from_numpy(labels[order])


@cache
def trained(kind: str) -> Program:
    torch.manual_seed(0)
    model = {"convolutional": convolutional, "perceptron": perceptron}[kind]().train()
    images, labels = digits()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(12):
        for rows in torch.randperm(TRAINED).split(BATCH):
            loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    program = traced(model.eval(), images[:2], dynamic={"input.0": "batch"})
    return PassManager.parse(CLEAN).run(program).program


def logits(program: Program) -> Tensor:
    images, _ = digits()
    parts = images[TRAINED:].split(BATCH)
    return torch.cat([program.run({"input": part})["output"] for part in parts])


def accuracy(program: Program) -> float:
    return float((logits(program).argmax(1) == digits()[1][TRAINED:]).float().mean())


def quantized(program: Program, options: str) -> Program:
    images, _ = digits()
    data = [{"input": part} for part in images[: 4 * BATCH].split(BATCH)]
    ctx = PassContext(calibration=data)
    return PassManager.parse(f"quantize{{{options}}}").run(program, ctx).program


@pytest.mark.parametrize("kind", ["convolutional", "perceptron"])
def test_the_float_net_is_good(kind: str) -> None:
    assert accuracy(trained(kind)) > 0.93


@pytest.mark.parametrize("kind", ["convolutional", "perceptron"])
@pytest.mark.parametrize(
    "options",
    [
        "activations=dynamic",
        "activations=auto",
        "activations=static observer=minmax",
        "activations=static observer=mse",
        "activations=static observer=entropy",
        "activations=static observer=percentile",
        "activations=static weight_observer=mse",
    ],
)
def test_accuracy_stays(kind: str, options: str) -> None:
    before, after = trained(kind), quantized(trained(kind), options)
    assert accuracy(after) >= accuracy(before) - 0.01
    expected, found = logits(before), logits(after)
    noise = (expected - found).square().sum() / expected.square().sum()
    assert -10 * float(torch.log10(noise)) > 25


def test_the_convolutional_net_runs_on_codes() -> None:
    after = quantized(trained("convolutional"), "activations=auto")
    counts = operators(after)
    assert counts["effc.quantize_dynamic.default"] == 0
    assert counts["effc.quantize.default"] == 7
    (pool,) = [n for n in after.forward.graph.nodes if n.name.startswith("max_pool2d")]
    assert all("quantize" in str(n.target) for n in [*pool.users, *pool.all_input_nodes])
