"""Sizes and texts as C expressions."""

from collections.abc import Iterable
from functools import reduce

import sympy
from torch.utils._sympy.functions import FloorDiv

from effc.ir.errors import BuildError
from effc.ir.symbols import Size

PLAIN = set(range(0x20, 0x7F)) - set(b'"\\?')


def c_text(text: str) -> str:
    """A string literal, whatever the text holds."""
    return '"' + "".join(map(_c_byte, text.encode())) + '"'


def _c_byte(byte: int) -> str:
    return chr(byte) if byte in PLAIN else f"\\{byte:03o}"


def c_expression(size: Size, noted: str = "") -> str:
    """A size as a C expression over int64_t variables named after the symbols.

    Args:
        size: What to compute.
        noted: A pointer to an int that becomes 1 where 64 bits do not hold a sum or product; none
            where sizes are known to be small enough.

    Raises:
        BuildError: If there is no C for it.
    """
    if isinstance(size, int):
        return f"INT64_C({size})" if abs(size) > 1 << 30 else str(size)

    def terms(sizes: Iterable[Size]) -> list[str]:
        return [c_expression(each, noted) for each in sizes]

    match size:
        case sympy.Integer():
            return c_expression(int(size))
        case sympy.Symbol():
            return f"s_{size.name}"
        case sympy.Add():
            return _joined("+", terms(size.args), noted)
        case sympy.Mul():
            return _joined("*", terms(size.args), noted)
        case sympy.Pow() if size.exp.is_Integer and size.exp > 0:
            return _joined("*", terms([size.base] * int(size.exp)), noted)
        case FloorDiv():
            return f"effc_div({', '.join(terms(size.args))})"
        case sympy.Mod():
            return f"effc_mod({', '.join(terms(size.args))})"
        case sympy.floor():
            return f"effc_div({', '.join(terms(size.args[0].as_numer_denom()))})"
        case sympy.Max() | sympy.Min():
            name = "effc_max" if isinstance(size, sympy.Max) else "effc_min"
            return reduce(lambda first, term: f"{name}({first}, {term})", terms(size.args))
    raise BuildError(f"size {size} cannot be computed in C")


def _joined(operator: str, terms: list[str], noted: str) -> str:
    """A sum or a product."""
    if not noted:
        return "(" + f" {operator} ".join(terms) + ")"
    name = {"+": "effc_sum", "*": "effc_times"}[operator]
    return reduce(lambda first, term: f"{name}({first}, {term}, {noted})", terms)
