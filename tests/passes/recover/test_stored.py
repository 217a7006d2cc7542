"""Weights as they are stored: codes begin as the same codes, and fold as they were trained."""

import pytest
import torch
from torch import nn

from effc.ir.encoding import unpack_codes
from effc.ir.opspec import op_name
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.recover.stored import Codes, stored_weight

PASSES = [
    "quantize", "quantize{bits=2}", "quantize{bits=5}",
    *(f"quantize-weights{{bits={bits} symmetric={symmetric}}}"
      for bits in (2, 3, 4, 8) for symmetric in ("true", "false")),
    "quantize-weights{group=0}",
]  # fmt: skip


def layers(pipeline: str):
    """A program of one linear, its graph module, and the node of its weight."""
    torch.manual_seed(0)
    program = traced(nn.Linear(70, 5), torch.zeros(2, 70), dynamic={"input.0": "batch"})
    data = [{"input": torch.randn(16, 70)}]
    result = PassManager.parse(pipeline).run(program, PassContext(calibration=data)).program
    nodes = [n for n in result.forward.graph.nodes if op_name(n) == "aten.linear.default"]
    return program, result.forward, nodes[0].args[1]


@pytest.mark.parametrize("pipeline", PASSES)
@pytest.mark.parametrize("is_known", [True, False])
def test_codes_begin_as_they_are(pipeline, is_known):
    program, module, node = layers(pipeline)
    original = program.weights()["weight"] if is_known else None
    found = stored_weight(module, node, original)
    assert isinstance(found, Codes)
    before = {name: one for name, one in module.named_buffers() if name in found.folded(
        found.start, found.step)}  # fmt: skip
    after = found.folded(found.start, found.step)
    assert before.keys() == after.keys()
    for name, one in after.items():
        assert torch.equal(before[name], one), name
    if is_known:
        assert float((found.start - original).norm()) < float(
            (found.as_stored(found.start, found.step) - original).norm()
        )


@pytest.mark.parametrize("pipeline", PASSES)
def test_what_is_folded_is_what_was_trained(pipeline):
    _, module, node = layers(pipeline)
    found = stored_weight(module, node, None)
    drawn = torch.Generator().manual_seed(5)
    weight = found.start + 0.3 * found.wide_step() * torch.randn(5, 70, generator=drawn)
    step = found.step * 1.07
    trained = found.as_stored(weight, step)
    stored = found.folded(weight, step)
    codes, scale = stored[found.path], stored[found.scale_path].float()
    if found.packed_bits and not found.group:
        codes = torch.ops.effc.unpack_signed(codes, found.packed_bits, [70])
    elif found.packed_bits:
        codes = unpack_codes(codes, found.packed_bits, 70)
    spread = [one.repeat_interleave(found.group, -1)[..., :70] if found.group else one
              for one in (scale, found.zero)]  # fmt: skip
    assert torch.equal((codes.float() - spread[1]) * spread[0], trained)


def test_steps_and_weights_have_the_derivatives_of_learned_steps():
    """LSQ: d(code * step)/d(step) is code - weight/step inside the range, the code outside."""
    _, module, node = layers("quantize-weights{bits=3 group=0}")
    found = stored_weight(module, node, None)
    weight = (found.start * 1.3).requires_grad_()
    step = found.step.clone().requires_grad_()
    found.as_stored(weight, step).sum().backward()
    wide = found.step.repeat_interleave(found.group, -1)[..., :70]
    ratio = (weight / wide).detach()
    is_inside = (ratio >= -4) & (ratio <= 3)
    codes = torch.round(ratio).clamp(-4, 3)
    assert torch.equal(weight.grad, is_inside.float())
    expected = torch.where(is_inside, codes - ratio, codes).sum(-1, keepdim=True)
    assert torch.allclose(step.grad, expected, atol=1e-3)
