"""Squeeze-and-excitation on codes: means of codes are exact, gates are one rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from effc.backends.artifact import manifest_of, write_manifest
from effc.backends.runner import Model
from effc.backends.tvm_cpu.build import build
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import operators, traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager

MEAN, DEQUANTIZE = "aten.mean.dim", "effc.dequantize.default"
FUSED, REQUANTIZE = "effc.fused_multiply_add.default", "effc.requantize.default"
POOLS = ("adaptive", "mean", "mean-without-image")


class Gated(nn.Module):
    """A depthwise convolution, a gate from the mean of its map, a projection."""

    def __init__(self, pool: str, channels: int = 20) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.reduce, self.expand = nn.Conv2d(channels, 6, 1), nn.Conv2d(6, channels, 1)
        self.project = nn.Conv2d(channels, 7, 1)
        self.pool = pool

    def mean(self, x: Tensor) -> Tensor:
        if self.pool == "adaptive":
            return functional.adaptive_avg_pool2d(x, 1)
        if self.pool == "mean":
            return x.mean((-1, -2), keepdim=True)
        return x.mean((2, 3))[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.depthwise(functional.silu(self.stem(x))))
        gate = torch.sigmoid(self.expand(functional.silu(self.reduce(self.mean(x)))))
        return self.project(x * gate)


class Plain(Gated):
    """No layer reads the gated map, whose gate is a linear one."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x))
        return torch.sigmoid(self.expand(self.reduce(self.mean(x)))) * x


def images(size: int = 9) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(2, 3, size, size, generator=generator)} for _ in range(2)]


def quantized(module: nn.Module, options: str = "activations=static", size: int = 9) -> Program:
    data = images(size)
    manager = PassManager.parse(f"canonicalize,quantize{{{options}}}")
    program = traced(module, data[0]["x"], dynamic={"x.0": "batch"})
    return manager.run(program, PassContext(calibration=data)).program


def lowered(program: Program) -> Program:
    return PassManager.parse("lower-integer").run(program.clone()).program


def values_of(program: Program, x: Tensor) -> dict[fx.Node, Tensor]:
    """The result of every node."""
    found: dict[fx.Node, Tensor] = {}

    class Watching(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Tensor:
            found[node] = super().run_node(node)
            return found[node]

    Watching(program.forward).run(x)
    return found


@pytest.mark.parametrize("pool", POOLS)
def test_a_gated_map_is_stored_as_codes_only(pool):
    program = quantized(Gated(pool))
    after = lowered(program)
    found = operators(after)
    assert found[MEAN] == 1
    assert DEQUANTIZE not in found
    (mean,) = [n for n in after.forward.graph.nodes if op_name(n) == MEAN]
    assert mean.args[0].meta["val"].dtype == torch.uint8
    assert {op_name(user) for user in mean.args[0].users} == {MEAN, REQUANTIZE}
    expected, result = (one.run(images()[1])["output"] for one in (program, after))
    assert float((expected - result).abs().mean()) < 2e-3 * float(expected.abs().mean())


@pytest.mark.parametrize("size", [1, 2, 9])
def test_codes_of_the_product_are_those_of_a_wider_computation(size):
    """numpy in float64 finds the same codes, but at ties."""
    program = lowered(quantized(Gated("adaptive"), size=size))
    (product,) = [
        node
        for node in program.forward.graph.nodes
        if op_name(node) == REQUANTIZE and node.args[0].meta["val"].dtype == torch.uint8
    ]
    seen = values_of(program, images(size)[1]["x"])
    codes, gate, found = (
        seen[node].double().numpy() for node in (product.args[0], product.args[1].args[0], product)
    )
    before = quantized(Gated("adaptive"), size=size)
    (multiply,) = [n for n in before.forward.graph.nodes if op_name(n) == "aten.mul.Tensor"]
    (source,) = [one for one in multiply.args if op_name(one) == DEQUANTIZE]
    (reader,) = multiply.users
    scale, zero, unit, shift = (
        getattr(before.forward, one.target).double().numpy()
        for one in (*source.args[1:], *reader.args[1:3])
    )
    wide = (codes - zero) * scale * gate / unit + shift
    is_tie = np.abs(wide - np.floor(wide) - 0.5) < 1e-3
    expected = np.clip(np.rint(wide), 0, 255)
    assert np.array_equal(found[~is_tie], expected[~is_tie])
    assert np.abs(found - expected).max() <= 1


def test_a_mean_of_codes_is_exact_before_it_is_scaled():
    program = lowered(quantized(Gated("adaptive"), size=33))
    (mean,) = [n for n in program.forward.graph.nodes if op_name(n) == MEAN]
    seen = values_of(program, images(33)[1]["x"])
    sums = seen[mean.args[0]].numpy().astype(np.int64).sum((2, 3))
    expected = sums.astype(np.float32) / np.float32(33 * 33)
    assert np.abs(seen[mean].numpy()[:, :, 0, 0] - expected).max() <= np.spacing(np.float32(255))


def test_a_product_that_is_read_in_float_is_one_multiply_add():
    program = quantized(Plain("mean"))
    after = lowered(program)
    assert DEQUANTIZE not in operators(after)
    (result,) = next(n for n in after.forward.graph.nodes if n.op == "output").args[0]
    assert op_name(result) == FUSED
    assert result.args[0].meta["val"].dtype == torch.uint8
    expected, found = (one.run(images()[1])["output"] for one in (program, after))
    assert torch.allclose(expected, found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    ["activations=dynamic", "activations=static static_db=80", "activations=static residual=float"],
)
def test_maps_stay_float(options):
    after = lowered(quantized(Gated("mean"), options))
    (mean,) = [n for n in after.forward.graph.nodes if op_name(n) == MEAN]
    assert mean.args[0].meta["val"].dtype == torch.float32


class Twice(Gated):
    """The map is read a third time."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x))
        return x * torch.sigmoid(self.reduce(self.mean(x))[:, :1]) + x


def test_a_map_with_other_readers_stays_float():
    after = lowered(quantized(Twice("mean")))
    (mean,) = [n for n in after.forward.graph.nodes if op_name(n) == MEAN]
    assert op_name(mean.args[0]) == FUSED


@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
@pytest.mark.parametrize("module", [Gated("adaptive"), Gated("mean", 33), Plain("mean")])
def test_kernels_give_the_same_numbers(module: nn.Module, target: str, tmp_path: Path) -> None:
    program, inputs = quantized(module), images()[1]
    build(program, Target.parse(target), tmp_path)
    write_manifest(manifest_of(program, Target.parse(target), tmp_path, "test"), tmp_path)
    found = Model(tmp_path).run({"x": inputs["x"].numpy()})["output"]
    expected = lowered(program).run(inputs)["output"].numpy()
    assert float(np.abs(found - expected).mean()) <= 2e-3 * float(np.abs(expected).mean())
