"""What tests of programs share: named tolerances, tracing small modules, comparing outputs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, Signature, TensorSpec
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


def operators(program: Program, method: str = FORWARD) -> Counter[str]:
    """How often a method calls each operator."""
    nodes = program.methods[method].graph.nodes
    return Counter(op_name(node) for node in nodes if node.op == "call_function")


def traced(
    module: nn.Module, *inputs: Tensor, dynamic: dict[str, str] | None = None, smallest: int = 1
) -> Program:
    """Trace a small module in evaluation mode.

    Args:
        module: What to trace.
        inputs: Example inputs in the order of `forward`.
        dynamic: Names of dimensions that stay symbolic: `{"x.0": "batch"}`.
        smallest: The smallest value they may take; the largest is 64.
    """
    dynamic = dynamic or {}
    dims = {
        symbol: torch.export.Dim(symbol, min=smallest, max=LARGEST_SYMBOL)
        for symbol in dynamic.values()
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
    return program_of(exported, "test", dynamic)


def recorded(function: Callable[..., Tensor], **inputs: Tensor) -> Program:
    """Record what a function calls, as a program of fixed shapes.

    It takes a tenth of the time of `traced`, and calls stay as they are written.

    Args:
        function: Called with the inputs in order; tensors it closes over become weights.
        inputs: Example inputs by name.
    """
    options: dict[str, Any] = {"pre_dispatch": True, "_allow_non_fake_inputs": True}
    tracer = make_fx(function, tracing_mode="fake", **options)
    with torch.no_grad():
        module = tracer(*inputs.values())
    output = module.graph.output_node()
    result: Any = output.args[0]
    results = (result,) if isinstance(result, fx.Node) else tuple(result)
    output.args = (results,)
    module.recompile()
    specs = [TensorSpec(name, value.dtype, tuple(value.shape)) for name, value in inputs.items()]
    values = [node.meta["val"] for node in results]
    names = [f"output_{i}" for i in range(len(values))] if len(values) > 1 else ["output"]
    outputs = [
        TensorSpec(name, value.dtype, tuple(value.shape))
        for name, value in zip(names, values, strict=True)
    ]
    made = Signature(tuple(specs), tuple(outputs))
    return Program("test", {FORWARD: module}, {FORWARD: made}).clone()


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        result: Tensor = self.function(x)
        return result


class Beside(nn.Module):
    """Adds what a module computes to its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """`x + inner(x)`, of the shape of `x`."""
        result: Tensor = x + self.inner(x)
        return result


class SpelledNorm(nn.Module):
    """RMS norm written as arithmetic, with a weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


CHANNELS, SIDE, STEPS = 4, 6, 5
IMAGE_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "conv-same": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding="same", bias=False),
    "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
    "transposed": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1, groups=2),
    "batch-norm": lambda: nn.BatchNorm2d(CHANNELS),
    "group-norm": lambda: nn.GroupNorm(2, CHANNELS),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "pool": lambda: nn.MaxPool2d(3, 1, 1),
    "residual": lambda: Beside(nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ReLU())),
    "norm-beside": lambda: Beside(nn.BatchNorm2d(CHANNELS)),
    "channels-last": lambda: Function(
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    ),
    "halves": lambda: Function(lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1)),
    "scale": lambda: Function(lambda x: 2 * x / 2 + 0),
    "pad": lambda: Function(lambda x: functional.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1]),
}
ROW_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(CHANNELS, CHANNELS),
    "layer-norm": lambda: nn.LayerNorm(CHANNELS),
    "spelled-norm": lambda: SpelledNorm(CHANNELS),
    "gelu": nn.GELU,
    "gate": lambda: Function(lambda x: x * torch.sigmoid(x)),
    "dropout": lambda: nn.Dropout(0.5),
    "residual": lambda: Beside(nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.Tanh())),
    "heads": lambda: Function(
        lambda x: x.view(*x.shape[:2], 2, -1).transpose(1, 2).transpose(1, 2).flatten(2)
    ),
    "rows": lambda: Function(lambda x: x.contiguous().view(-1, CHANNELS).view(x.shape)),
    "causal": lambda: Function(_causal),
    "swapped": lambda: Function(lambda x: x.transpose(1, 2).clone().softmax(-1).transpose(1, 2)),
    "reverse": lambda: Function(lambda x: 1 - x.flip(-1)),
}


def _causal(x: Tensor) -> Tensor:
    positions = torch.arange(x.shape[1])
    mask = (positions[None, :] <= positions[:, None]) & (positions >= 0)
    return functional.scaled_dot_product_attention(x, x, x, mask)


def random_program(kind: str, names: list[str], seed: int, is_dynamic: bool) -> Program:
    """A program of layers that keep their shape, with random weights and statistics.

    Args:
        kind: `images`, [batch, 4, 6, 6], or `rows`, [batch, steps, 4].
        names: Keys of `IMAGE_LAYERS` or `ROW_LAYERS`.
        seed: Of all weights.
        is_dynamic: Whether the batch stays symbolic.
    """
    torch.manual_seed(seed)
    layers, shape, dynamic = {
        "images": (IMAGE_LAYERS, (2, CHANNELS, SIDE, SIDE), {"input.0": "batch"}),
        "rows": (ROW_LAYERS, (2, STEPS, CHANNELS), {"input.0": "batch"}),
    }[kind]
    module = nn.Sequential(*[layers[name]() for name in names])
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_()
            part.running_var = torch.rand(CHANNELS) + 0.5
    return traced(module, torch.randn(shape), dynamic=dynamic if is_dynamic else None)
