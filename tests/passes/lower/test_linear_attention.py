"""Linear attention against a recurrence in numpy: the operator, its decomposition, kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import effc.ir.ops  # noqa: F401  (registers effc's operators)
from effc.candidate import build_candidate
from effc.ir.cost import program_cost
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import operators, traced
from effc.passes.lower.linear_attention import LONGEST
from effc.passes.manager import PassManager

BATCH, HEADS, SHARED, STEPS, WIDTH, DEPTH = 2, 4, 2, 7, 6, 5
BOTH = (SHARED, STEPS)
CASES: dict[str, dict[str, tuple[int, ...]]] = {
    "linear": {},
    "retention": {"decay": (*BOTH, 1)},
    "gated": {"decay": (*BOTH, WIDTH)},
    "delta": {"beta": (*BOTH, 1)},
    "gated delta": {"decay": (*BOTH, WIDTH), "beta": (1, STEPS, 1)},
}
CLOSE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Attention(nn.Module):
    """Reads some of its inputs."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, past: Tensor, decay: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = {"past": past, "decay": decay, "beta": beta}
        read = [given[name] if name in self.names else None for name in given]
        return torch.ops.effc.linear_attention(q, k, v, *read, 0.3)


def recurrence(q, k, v, past=None, decay=None, beta=None):
    """In float64, element by element of the state."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    result = np.zeros((*q.shape[:3], v.shape[3]))
    state = np.zeros((*k.shape[:2], k.shape[3], v.shape[3]))
    for b, h in np.ndindex(*k.shape[:2]):
        s = state[b, h] if past is None else past[b, h].astype(np.float64)
        for t in range(k.shape[2]):
            if decay is not None:
                s = np.diag(np.exp(decay[b, h, t] * np.ones(k.shape[3]))) @ s
            new = v[b, h, t]
            if beta is not None:
                new = beta[b, h % beta.shape[1], t] * (new - s.T @ k[b, h, t])
            s = s + np.outer(k[b, h, t], new)
            for g in range(groups):
                result[b, h * groups + g, t] = 0.3 * (s.T @ q[b, h * groups + g, t])
        state[b, h] = s
    return result, state


def given(name: str, has_past: bool, dtype: torch.dtype, steps: int = STEPS) -> dict[str, Tensor]:
    """All inputs; those a case does not read hold one number."""
    generator = torch.Generator().manual_seed(5)
    shapes = {
        "q": (HEADS, STEPS, WIDTH), "k": (SHARED, STEPS, WIDTH), "v": (SHARED, STEPS, DEPTH),
        "past": (SHARED, WIDTH, DEPTH), **CASES[name],
    }  # fmt: skip
    found = {}
    for key in ("q", "k", "v", "past", "decay", "beta"):
        is_read = key in shapes and (key != "past" or has_past)
        shape = (BATCH, *shapes[key]) if is_read else (1,)
        drawn = torch.randn(shape, generator=generator)
        drawn = -drawn.abs() if key == "decay" else drawn.sigmoid() if key == "beta" else drawn
        cut = drawn[:, :, :steps] if is_read and key != "past" else drawn
        found[key] = cut.to(dtype).contiguous()
    return found


def read(inputs: dict[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name in ("past", "decay", "beta") if inputs[name].dim() > 1)


def program_of(inputs: dict[str, Tensor], **options: object) -> Program:
    return traced(Attention(read(inputs)), *inputs.values(), **options)


def assert_right(inputs: dict[str, Tensor], found: dict[str, Tensor], dtype: torch.dtype) -> None:
    names = ("q", "k", "v", *read(inputs))
    wanted = recurrence(**{name: inputs[name].float().numpy() for name in names})
    for value, other in zip(found.values(), wanted, strict=True):
        assert value.dtype == dtype
        error = np.abs(value.double().numpy() - other).max() / np.abs(other).max()
        assert error < CLOSE[dtype]


@pytest.mark.parametrize("has_past", [False, True])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", CLOSE)
def test_the_operator_and_its_decomposition(dtype, name, has_past):
    inputs = given(name, has_past, dtype)
    program = program_of(inputs)
    assert operators(program)["effc.linear_attention.default"] == 1
    assert_right(inputs, program.run(inputs), dtype)
    after = PassManager.parse("decompose-linear-attention,remove-dead").run(program).program
    assert operators(after)["effc.linear_attention.default"] == 0
    assert_right(inputs, after.run(inputs), dtype)


@pytest.mark.parametrize("name", ["retention", "gated"])
def test_a_step_may_forget_everything(name):
    inputs = given(name, True, torch.float32)
    inputs["decay"][:, :, 2:4] = -torch.inf
    program = program_of(inputs)
    after = PassManager.parse("decompose-linear-attention,remove-dead").run(program).program
    assert_right(inputs, program.run(inputs), torch.float32)
    assert_right(inputs, after.run(inputs), torch.float32)


@pytest.mark.parametrize("name", ["retention", "gated delta"])
def test_one_step(name):
    inputs = given(name, True, torch.float32, steps=1)
    program = program_of(inputs)
    after = PassManager.parse("decompose-linear-attention,remove-dead").run(program).program
    assert "aten.tril.default" not in operators(after)
    assert_right(inputs, after.run(inputs), torch.float32)


@pytest.mark.parametrize("name", ["retention", "gated delta"])
def test_kernels(name, tmp_path):
    inputs = given(name, True, torch.float32)
    found = compiled(program_of(inputs), tmp_path, inputs)
    assert_right(inputs, found, torch.float32)


def test_kernels_of_a_symbolic_length(tmp_path):
    inputs = given("retention", True, torch.float32)
    program = program_of(
        inputs, dynamic={f"{name}.2": "steps" for name in ("q", "k", "v", "decay")}
    )
    for steps in (1, 2, STEPS):
        short = {
            n: x[:, :, :steps] if n in ("q", "k", "v", "decay") else x for n, x in inputs.items()
        }
        folder = tmp_path / str(steps)
        folder.mkdir()
        assert_right(short, compiled(program, folder, short), torch.float32)


def compiled(program: Program, folder: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    candidate = build_candidate("linear", program, Target.parse("native"), folder, [])
    plain = {spec.name: inputs[spec.name].contiguous().numpy() for spec in program.signature.inputs}
    return {k: torch.from_numpy(np.asarray(x)) for k, x in candidate.model.run(plain).items()}


@pytest.mark.parametrize(
    ("steps", "dynamic", "reason"),
    [
        (STEPS, {f"{name}.2": "steps" for name in ("q", "k", "v", "beta")}, "is symbolic"),
        (LONGEST + 1, None, f"it has more than {LONGEST} steps"),
    ],
)
def test_what_is_not_spelled_out(steps, dynamic, reason):
    inputs = [torch.randn(1, 1, steps, 2) for _ in range(3)]
    beta = torch.rand(1, 1, steps, 1)
    options = {} if dynamic is None else {"dynamic": dynamic}
    none = torch.zeros(1)
    program = traced(Attention(("beta",)), *inputs, none, none, beta, **options)
    report = PassManager.parse("decompose-linear-attention").run(program)
    assert reason in report.rows[-1].refusals[0]["reason"]
    assert operators(report.program)["effc.linear_attention.default"] == 1


def test_multiply_adds():
    program = program_of(given("gated delta", False, torch.float32))
    node = next(n for n in program.forward.graph.nodes if "linear_attention" in op_name(n))
    assert node.meta["val"][0].shape == (BATCH, HEADS, STEPS, DEPTH)
    per_step = WIDTH * DEPTH * (HEADS + 2 * SHARED)
    assert program_cost(program).macs == BATCH * STEPS * per_step


def test_shapes_that_do_not_fit():
    inputs = given("linear", True, torch.float32)
    with pytest.raises(Exception, match="linear attention: past is"):
        program_of({**inputs, "past": inputs["past"].mT})
