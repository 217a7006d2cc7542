"""Moves of whole rows become one selection that computes the same, bit for bit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program
from effc.ir.testing import (
    EXACT,
    ROUNDING,
    Function,
    assert_same_outputs,
    operators,
    random_inputs,
    recorded,
    traced,
)
from effc.passes.lower.pipeline import FUSE, SPELL_OUT
from effc.passes.manager import PassManager
from effc.passes.report import PassRow

F = nn.functional
SELECT = "aten.index_select.default"
NORM = "aten.layer_norm.default"


def run(program: Program, pipeline: str = "canonicalize,select-rows") -> tuple[Program, PassRow]:
    """The program a pipeline makes, and the row of its last pass."""
    report = PassManager.parse(pipeline).run(program)
    return report.program, report.rows[-1]


def windows(x: Tensor) -> Tensor:
    """[batch, 24, 16] maps of 4 x 6 as windows of 2 x 2."""
    return x.reshape(-1, 2, 2, 3, 2, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 16)


def merged(x: Tensor) -> Tensor:
    """Four neighbours side by side, as in the merging of patches."""
    image = x.view(-1, 4, 6, 16)
    parts = [image[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return torch.cat(parts, -1).view(-1, 6, 64)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "windows": lambda x: F.linear(windows(F.layer_norm(x, (16,))), torch.ones(2, 16)),
    "roll": lambda x: F.linear(F.layer_norm(x, (16,)).roll(5, 1), torch.ones(2, 16)),
    "rms-norm": lambda x: F.linear(F.rms_norm(x, (16,)).flip(1), torch.ones(2, 16)),
    "no-norm": lambda x: F.layer_norm(windows(x * 2), (16,)),
    "merged": lambda x: F.layer_norm(merged(x + 1), (64,)),
    "repeated": lambda x: F.layer_norm(
        (x * 2)[:, :, None].expand(-1, 24, 3, 16).reshape(-1, 72, 16).roll(1, 1), (16,)
    ),
}


@pytest.mark.parametrize("is_dynamic", [False, True], ids=["static", "batch"])
@pytest.mark.parametrize("name", MOVES)
def test_same_bits(name: str, is_dynamic: bool) -> None:
    dynamic = {"x.0": "batch"} if is_dynamic else None
    program = traced(Function(MOVES[name]), torch.ones(2, 24, 16), dynamic=dynamic)
    after, _ = run(program)
    assert operators(after)[SELECT] == 1
    for moved in ("aten.roll.default", "aten.cat.default", "aten.permute.default"):
        assert not operators(after)[moved]
    for batch in (1, 3) if is_dynamic else (2,):
        assert_same_outputs(program, after, random_inputs(program, {"batch": batch}), EXACT)


def test_a_norm_follows_the_selection() -> None:
    after, _ = run(traced(Function(MOVES["windows"]), torch.ones(2, 24, 16)))
    order = [op_name(node) for node in after.methods[FORWARD].graph.nodes]
    assert order.index(SELECT) < order.index(NORM)


def test_a_norm_with_other_readers_stays() -> None:
    def shared(x: Tensor) -> tuple[Tensor, Tensor]:
        normed = F.layer_norm(x, (16,))
        return F.linear(windows(normed), torch.ones(2, 16)), normed

    program = traced(Function(shared), torch.ones(2, 24, 16))
    after, _ = run(program)
    order = [op_name(node) for node in after.methods[FORWARD].graph.nodes]
    assert order.index(NORM) < order.index(SELECT)
    assert_same_outputs(program, after, tolerance=EXACT)


def test_no_copy_is_left() -> None:
    """Norm, selection and run-time quantization are one kernel; the way back is the next norm's."""

    def block(x: Tensor, weight: Tensor) -> Tensor:
        rolled = F.layer_norm(x, (16,)).view(2, 4, 6, 16).roll((-1, -1), (1, 2))
        inner = F.linear(windows(rolled), weight)
        back = inner.view(2, 2, 3, 2, 2, 16).permute(0, 1, 3, 2, 4, 5).reshape(2, 4, 6, 16)
        return F.layer_norm(x + back.roll((1, 1), (1, 2)).view(2, 24, 16), (16,))

    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    program = traced(Function(lambda x: block(x, weight)), torch.ones(2, 24, 16))
    program = run(program, "canonicalize,quantize{activations=dynamic}")[0]
    lowered = run(program, f"{SPELL_OUT},{FUSE}")[0]
    assert operators(lowered)[SELECT] == 0
    assert sum(node.op == "call_module" for node in lowered.methods[FORWARD].graph.nodes) == 3
    assert_same_outputs(program, lowered, tolerance=ROUNDING[torch.float32])


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "narrow": (
        lambda x: F.layer_norm((x[..., :8] * 2).roll(1, 1), (8,)),
        "rows have fewer than 16 elements",
    ),
    "apart": (
        lambda x: F.linear(F.layer_norm(x, (16,)).roll(1, 2), torch.ones(2, 16)),
        "it takes rows apart",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    function, reason = REFUSED[name]
    after, row = run(traced(Function(function), torch.ones(2, 24, 16)))
    assert operators(after)[SELECT] == 0
    assert [refusal["reason"] for refusal in row.refusals] == [reason]


def test_mixed_batch_is_refused() -> None:
    program = traced(Function(lambda x: F.layer_norm((x * 2).roll(1, 0), (16,))),
                     torch.ones(2, 24, 16), dynamic={"x.0": "batch"})  # fmt: skip
    after, row = run(program)
    assert operators(after)[SELECT] == 0
    assert [refusal["reason"] for refusal in row.refusals] == ["it mixes the entries of the batch"]


def test_symbolic_rows_are_refused() -> None:
    program = traced(Function(lambda x: F.layer_norm((x * 2).roll(1, 1), (16,))),
                     torch.ones(2, 24, 16), dynamic={"x.1": "length"})  # fmt: skip
    after, row = run(program)
    assert operators(after)[SELECT] == 0
    reasons = [refusal["reason"] for refusal in row.refusals]
    assert reasons == ["sizes other than the batch are symbolic"]


def test_what_strides_describe_stays() -> None:
    """Heads in front of attention are a view."""
    program = recorded(
        lambda x: F.linear(x, torch.ones(16, 16)).view(2, 24, 2, 8).transpose(1, 2).softmax(-1),
        x=torch.ones(2, 24, 16),
    )
    after, row = run(program)
    assert operators(after)["aten.permute.default"] == 1
    assert operators(after)[SELECT] == 0
    assert not row.refusals
