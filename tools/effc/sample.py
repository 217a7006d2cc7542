"""Inputs to measure and check with: realistic values at the sizes asked for."""

import numpy as np
import torch

from effc.ir.cost import typical_sizes
from effc.ir.data import Data
from effc.ir.errors import UsageError
from effc.ir.program import FORWARD, Program, Signature, TensorSpec
from effc.ir.symbols import Symbol, evaluate

USUAL_LENGTH = 128
SEED = 0


def sample_sizes(program: Program, wanted: dict[str, int]) -> dict[str, int]:
    """A value for every symbolic dimension: what the user asks for, 1 for a batch, else up to 128.

    Raises:
        UsageError: For an unknown dimension or a value outside its range.
    """
    check_sizes(program.symbols, wanted)
    chosen = typical_sizes(program)
    for name, symbol in program.symbols.items():
        usual = 1 if "batch" in name or name.endswith("_0") else USUAL_LENGTH
        chosen[name] = min(max(usual, symbol.minimum), symbol.maximum)
    return chosen | wanted


def sample_inputs(
    program: Program, sizes: dict[str, int], data: Data | None = None
) -> dict[str, np.ndarray]:
    """An array per input at the given sizes.

    Values come from the data's first batch or the program's examples, repeated or cut to size, so
    that indices stay valid; without either, from a fixed seed.
    """
    known: dict[str, np.ndarray] = {}
    if data is not None:
        known = next(iter(data))[0]
    elif program.examples.get(FORWARD):
        examples = zip(program.signature.inputs, program.examples[FORWARD], strict=True)
        known = {spec.name: tensor.numpy() for spec, tensor in examples}
    return sized_inputs(program.signature, sizes, known)


def sized_inputs(
    signature: Signature, sizes: dict[str, int], known: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Known arrays repeated or cut to the given sizes; unknown ones come from a fixed seed."""
    return {spec.name: _sized(spec, sizes, known.get(spec.name)) for spec in signature.inputs}


def check_sizes(symbols: dict[str, Symbol], wanted: dict[str, int]) -> None:
    """Make sure that sizes name symbolic dimensions and lie in their ranges.

    Raises:
        UsageError: For the first that does not.
    """
    for name, value in wanted.items():
        if name not in symbols:
            known = ", ".join(symbols) or "none"
            raise UsageError(f"no symbolic dimension {name!r}; there are: {known}")
        symbol = symbols[name]
        if not symbol.minimum <= value <= symbol.maximum:
            raise UsageError(f"{name}={value} is outside {symbol}")


def _sized(spec: TensorSpec, sizes: dict[str, int], known: np.ndarray | None) -> np.ndarray:
    shape = tuple(evaluate(size, sizes) for size in spec.shape)
    if known is None or 0 in known.shape:
        generator = torch.Generator().manual_seed(SEED)
        if spec.dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(spec.dtype).numpy()
        return torch.randint(0, 2, shape, generator=generator).to(spec.dtype).numpy()
    repeats = [-(-wanted // found) for wanted, found in zip(shape, known.shape, strict=True)]
    tiled = np.tile(known, repeats)[tuple(slice(size) for size in shape)]
    return np.ascontiguousarray(tiled)
