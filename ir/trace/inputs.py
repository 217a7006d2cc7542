"""The inputs a user asks for: `--input "input_ids:i64[batch=1..8,sequence=1..128]"`.

The text gives what a model file may not carry: names, dtypes, shapes and which dimensions are
symbolic. Example tensors for tracing are made from it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from effc.ir.errors import UsageError
from effc.ir.program import DTYPES, TensorSpec
from effc.ir.symbols import Size, Symbol, evaluate, named

LARGEST = 1 << 31
SHAPE_OF_TEXT = re.compile(r"(?P<name>[^:\[\]]+):(?P<dtype>\w+)\[(?P<dims>[^\[\]]*)\]")
NUMBER = re.compile(r"[0-9]{1,10}")
SYMBOL = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:=(?P<low>[0-9]{1,10})\.\.(?P<high>[0-9]{1,10}))?")
FORM = 'expected name:dtype[dims], such as "input_ids:i64[batch=1..8,sequence=1..128]"'
FIRST_SIZE, NEXT_SIZE = 2, 8


@dataclass(frozen=True)
class WantedInputs:
    """Inputs in call order and the symbolic dimensions their shapes use.

    Attributes:
        specs: Name, dtype and shape of each input.
        symbols: The symbols of those shapes with their ranges, by name.
    """

    specs: tuple[TensorSpec, ...]
    symbols: dict[str, Symbol]


def parse_inputs(texts: Sequence[str]) -> WantedInputs:
    """Read `name:dtype[dims]` texts.

    A dimension is a number, a symbol with a range (`batch=1..8`) or a symbol whose range stands
    elsewhere in the texts; a symbol without any range may be 1 or larger.

    Raises:
        UsageError: Naming the text and what is wrong with it.
    """
    parts = [_split(text) for text in texts]
    symbols: dict[str, Symbol] = {}
    for text, (_, _, dims) in zip(texts, parts, strict=True):
        _collect_symbols(text, dims, symbols)
    specs: list[TensorSpec] = []
    for text, (name, dtype, dims) in zip(texts, parts, strict=True):
        if any(name == spec.name for spec in specs):
            raise UsageError(f'--input "{text}": the input {name} is given twice')
        shape = tuple(_size(dim, symbols) for dim in dims)
        specs.append(TensorSpec(name, parse_dtype(dtype, text), shape))
    used = {name: symbol for name, symbol in symbols.items() if symbol.minimum < symbol.maximum}
    return WantedInputs(tuple(specs), used)


def parse_dtype(name: str, text: str) -> torch.dtype:
    """The dtype with a short (`f32`) or long (`float32`) name.

    Args:
        name: What the user wrote.
        text: The whole `--input` text, for the message.

    Raises:
        UsageError: If there is no such dtype.
    """
    long_names = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
    found = {**long_names, **DTYPES}.get(name)
    if found is None:
        known = ", ".join(DTYPES)
        raise UsageError(f'--input "{text}": unknown dtype {name}; expected one of {known}')
    return found


def example_sizes(symbols: dict[str, Symbol]) -> dict[str, int]:
    """A size for each symbol: in its range, none equal to another where the ranges allow it.

    torch.export treats sizes 0 and 1 as special, and sizes that are equal by accident can hide a
    broadcast, so both are avoided.
    """
    sizes: dict[str, int] = {}
    for name, symbol in symbols.items():
        preferred = NEXT_SIZE if sizes else FIRST_SIZE
        low, high = symbol.minimum, symbol.maximum
        start = max(2 * low, -(-preferred // low) * low)
        candidates = [*range(start, min(high, start + 16 * low) + 1, low), high, low]
        free = [size for size in candidates if size <= high and size not in sizes.values()]
        sizes[name] = next(iter(free), min(high, start))
    return sizes


def example_tensors(
    wanted: WantedInputs, sizes: dict[str, int] | None = None
) -> dict[str, torch.Tensor]:
    """One tensor per input: floats standard normal, integers 0 or 1, masks all ones; seed fixed.

    Args:
        wanted: Names, dtypes and shapes.
        sizes: A size for each symbol; `example_sizes` if None.
    """
    sizes = sizes or example_sizes(wanted.symbols)
    generator = torch.Generator().manual_seed(0)
    return {spec.name: _example(spec, sizes, generator) for spec in wanted.specs}


def dynamic_dims(wanted: WantedInputs) -> dict[str, dict[int, torch.export.Dim]]:
    """Per input, a torch.export dimension for every symbolic position.

    Inputs that share a symbol share the dimension object, which makes torch.export treat the sizes
    as equal.
    """
    dims = {name: _dim(symbol) for name, symbol in wanted.symbols.items()}
    return {
        spec.name: {
            position: dims[size.name]
            for position, size in enumerate(spec.shape)
            if not isinstance(size, int)
        }
        for spec in wanted.specs
    }


def _split(text: str) -> tuple[str, str, list[str]]:
    match = SHAPE_OF_TEXT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f'--input "{text}": {FORM}')
    dims = [dim.strip() for dim in match["dims"].split(",")] if match["dims"].strip() else []
    return match["name"].strip(), match["dtype"], dims


def _collect_symbols(text: str, dims: list[str], symbols: dict[str, Symbol]) -> None:
    for dim in dims:
        if NUMBER.fullmatch(dim):
            _check_number(text, dim)
            continue
        match = SYMBOL.fullmatch(dim)
        if match is None:
            raise UsageError(f'--input "{text}": cannot read the dimension "{dim}"; {FORM}')
        if match["low"] is None:
            symbols.setdefault(match["name"], Symbol(match["name"], 1, LARGEST))
            continue
        symbol = Symbol(match["name"], int(match["low"]), int(match["high"]))
        if not 1 <= symbol.minimum <= symbol.maximum <= LARGEST:
            raise UsageError(f'--input "{text}": the range {symbol} must be rising and start at 1')
        known = symbols.get(symbol.name)
        if known not in (None, symbol, Symbol(symbol.name, 1, LARGEST)):
            raise UsageError(f'--input "{text}": {symbol} contradicts {known} given before')
        symbols[symbol.name] = symbol


def _check_number(text: str, dim: str) -> None:
    if not 1 <= int(dim) <= LARGEST:
        raise UsageError(f'--input "{text}": a dimension must be 1..{LARGEST}, not {dim}')


def _size(dim: str, symbols: dict[str, Symbol]) -> Size:
    if NUMBER.fullmatch(dim):
        return int(dim)
    symbol = symbols[dim.partition("=")[0]]
    return symbol.minimum if symbol.minimum == symbol.maximum else named(symbol.name)


def _example(spec: TensorSpec, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = [evaluate(size, sizes) for size in spec.shape]
    try:
        if "mask" in spec.name:
            return torch.ones(shape, dtype=spec.dtype)
        if spec.dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(spec.dtype)
        return torch.randint(0, 2, shape, generator=generator).to(spec.dtype)
    except RuntimeError as error:
        raise UsageError(f"the input {spec} does not fit in memory; give smaller sizes") from error


def _dim(symbol: Symbol) -> torch.export.Dim:
    high = symbol.maximum if symbol.maximum < LARGEST else None
    return torch.export.Dim(symbol.name, min=symbol.minimum, max=high)
