"""What tests of programs share: named tolerances, tracing small modules, comparing outputs."""

from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn

from effc.ir.program import FORWARD, Program
from effc.ir.symbols import evaluate
from effc.ir.trace.exported import program_of

LARGEST_SYMBOL = 64


@dataclass(frozen=True)
class Tolerance:
    """How far two outputs may be apart: `relative * largest expected magnitude + absolute`."""

    relative: float = 0.0
    absolute: float = 0.0

    def allowed(self, expected: Tensor) -> float:
        """The largest difference allowed for an output."""
        finite = expected[torch.isfinite(expected)].double().abs()
        return self.relative * (float(finite.max()) if finite.numel() else 0.0) + self.absolute


EXACT = Tolerance()
ROUNDING: dict[torch.dtype, Tolerance] = {
    torch.float64: Tolerance(relative=64 * torch.finfo(torch.float64).eps),
    torch.float32: Tolerance(relative=64 * torch.finfo(torch.float32).eps),
    torch.float16: Tolerance(relative=8 * torch.finfo(torch.float16).eps),
    torch.bfloat16: Tolerance(relative=4 * torch.finfo(torch.bfloat16).eps),
}


def BOUND(absolute: float) -> Tolerance:  # noqa: N802 - a named tolerance like the two above
    """The tolerance of a method whose error is known to be at most `absolute`."""
    return Tolerance(absolute=absolute)


def assert_close(name: str, expected: Tensor, found: Tensor, tolerance: Tolerance) -> None:
    """Compare two tensors; NaN equals NaN and infinities must match.

    Raises:
        AssertionError: Naming the tensor, its largest difference and what was allowed.
    """
    assert expected.dtype == found.dtype, f"{name}: {found.dtype}, expected {expected.dtype}"
    assert expected.shape == found.shape, f"{name}: {found.shape}, expected {expected.shape}"
    wide, wide_found = expected.double(), found.double()
    same = (wide == wide_found) | (wide.isnan() & wide_found.isnan())
    if bool(same.all()):
        return
    worst = float((wide - wide_found)[~same].abs().max())
    allowed = tolerance.allowed(wide)
    assert worst <= allowed, f"{name}: differs by {worst:.3g}, allowed {allowed:.3g}"


def assert_same_outputs(
    before: Program,
    after: Program,
    inputs: dict[str, Tensor] | None = None,
    tolerance: Tolerance = EXACT,
    method: str = FORWARD,
) -> None:
    """Run two programs on the same inputs and compare their signatures and outputs.

    Args:
        before: The reference.
        after: What was made of it.
        inputs: Tensors by name; random ones if None.
        tolerance: How far floating-point outputs may be apart.
        method: Which method to run.

    Raises:
        AssertionError: Naming the first output that differs.
    """
    assert before.signatures == after.signatures, f"{after.signatures} != {before.signatures}"
    inputs = random_inputs(before, method=method) if inputs is None else inputs
    expected, found = before.run(inputs, method), after.run(inputs, method)
    for name, value in expected.items():
        is_rounded = value.dtype.is_floating_point
        assert_close(name, value, found[name], tolerance if is_rounded else EXACT)


def random_inputs(
    program: Program, sizes: dict[str, int] | None = None, seed: int = 0, method: str = FORWARD
) -> dict[str, Tensor]:
    """Inputs that fit a signature: normally distributed numbers, and 0 or 1 for integers.

    Args:
        program: Whose signature to fit.
        sizes: Values of the symbols; the largest allowed up to 3 where none is given.
        seed: Of the random numbers.
        method: Which method.
    """
    known = {name: max(min(s.maximum, 3), s.minimum) for name, s in program.symbols.items()}
    values = known | (sizes or {})
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for spec in program.signatures[method].inputs:
        shape = [evaluate(size, values) for size in spec.shape]
        if spec.dtype.is_floating_point:
            found[spec.name] = torch.randn(shape, generator=generator).to(spec.dtype)
        else:
            found[spec.name] = torch.randint(0, 2, shape, generator=generator).to(spec.dtype)
    return found


def traced(
    module: nn.Module, *inputs: Tensor, dynamic: dict[str, str] | None = None, name: str = "test"
) -> Program:
    """Trace a small module in evaluation mode.

    Args:
        module: What to trace.
        inputs: Example inputs in the order of `forward`.
        dynamic: Names of dimensions that stay symbolic: `{"x.0": "batch"}`; range 1 to 64.
        name: What the program is called.
    """
    dynamic = dynamic or {}
    dims = {
        symbol: torch.export.Dim(symbol, min=1, max=LARGEST_SYMBOL) for symbol in dynamic.values()
    }
    parameters = list(signature(module.forward).parameters)[: len(inputs)]
    shapes = tuple(
        {
            position: dims[dynamic[f"{parameter}.{position}"]]
            for position in range(value.dim())
            if f"{parameter}.{position}" in dynamic
        }
        for parameter, value in zip(parameters, inputs, strict=True)
    )
    with torch.no_grad():
        exported = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=False)
    return program_of(exported, name, dynamic)
