"""Sizes and texts as C expressions."""

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


def c_expression(size: Size) -> str:
    """A size as a C expression over int64_t variables named after the symbols.

    Raises:
        BuildError: If there is no C for it.
    """
    if isinstance(size, int):
        return f"INT64_C({size})" if abs(size) > 1 << 30 else str(size)
    match size:
        case sympy.Integer():
            return c_expression(int(size))
        case sympy.Symbol():
            return f"s_{size.name}"
        case sympy.Add():
            return "(" + " + ".join(map(c_expression, size.args)) + ")"
        case sympy.Mul():
            return "(" + " * ".join(map(c_expression, size.args)) + ")"
        case sympy.Pow() if size.exp.is_Integer and size.exp > 0:
            return "(" + " * ".join([c_expression(size.base)] * int(size.exp)) + ")"
        case FloorDiv():
            return _call("effc_div", size.args)
        case sympy.Mod():
            return _call("effc_mod", size.args)
        case sympy.floor():
            return _call("effc_div", size.args[0].as_numer_denom())
        case sympy.Max() | sympy.Min():
            name = "effc_max" if isinstance(size, sympy.Max) else "effc_min"
            first, *rest = map(c_expression, size.args)
            for term in rest:
                first = f"{name}({first}, {term})"
            return first
    raise BuildError(f"size {size} cannot be computed in C")


def _call(name: str, sizes: tuple[Size, ...]) -> str:
    return f"{name}({', '.join(map(c_expression, sizes))})"
