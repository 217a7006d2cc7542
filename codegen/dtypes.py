"""How torch's element types are stored in memory and held in registers.

bool is a byte in memory and a predicate in registers; float16 and bfloat16 are computed as float32.
"""

import torch
from tvm import tirx

from effc.codegen.tir import Expr, cast, const, dtype_of, lanes_of, with_lanes
from effc.ir.errors import BuildError

STORED = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "uint16",
    torch.float8_e4m3fn: "uint8",
    torch.float8_e8m0fnu: "uint8",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint16: "uint16",
    torch.uint32: "uint32",
    torch.uint64: "uint64",
    torch.bool: "uint8",
}
HELD = {
    **STORED,
    torch.float16: "float32",
    torch.bfloat16: "float32",
    torch.float8_e4m3fn: "float32",
    torch.float8_e8m0fnu: "float32",
    torch.bool: "bool",
}


def stored(dtype: torch.dtype) -> str:
    """TIR's name of a dtype in memory.

    Raises:
        BuildError: If kernels do not handle it.
    """
    if dtype not in STORED:
        raise BuildError(f"kernels do not handle elements of type {dtype}")
    return STORED[dtype]


def held(dtype: torch.dtype) -> str:
    """TIR's name of a dtype in registers."""
    stored(dtype)
    return HELD[dtype]


def from_memory(value: Expr, dtype: torch.dtype) -> Expr:
    """Turn what was loaded into the register form; float8 is a positive scale."""
    if dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu):
        return _scale(value, dtype)
    if dtype == torch.bool:
        return tirx.NE(value, const(0, dtype_of(value)))
    if dtype == torch.bfloat16:
        wide = cast(value, "uint32") << const(16, with_lanes("uint32", lanes_of(value)))
        return tirx.reinterpret(with_lanes("float32", lanes_of(value)), wide)
    return cast(value, HELD[dtype])


def _scale(value: Expr, dtype: torch.dtype) -> Expr:
    """A float8 scale as float32: the exponent alone, or E4M3 without its sign."""
    lanes = lanes_of(value)
    u32, f32 = with_lanes("uint32", lanes), with_lanes("float32", lanes)
    wide = cast(value, "uint32")
    if dtype == torch.float8_e8m0fnu:
        return tirx.reinterpret(f32, wide << const(23, u32))
    normal = tirx.reinterpret(f32, (wide << const(20, u32)) + const((127 - 7) << 23, u32))
    small = cast(wide, "float32") * const(2.0**-9, f32)
    return tirx.Select(wide < const(8, u32), small, normal)


def to_memory(value: Expr, dtype: torch.dtype) -> Expr:
    """Turn a register value into what is stored; bfloat16 rounds to nearest even."""
    if dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu):
        raise BuildError(f"kernels do not compute elements of type {dtype}")
    if dtype == torch.bfloat16:
        u32 = with_lanes("uint32", lanes_of(value))
        bits = tirx.reinterpret(u32, value)
        odd = (bits >> const(16, u32)) & const(1, u32)
        rounded = (bits + const(0x7FFF, u32) + odd) >> const(16, u32)
        quiet = (bits >> const(16, u32)) | const(0x40, u32)
        return cast(tirx.Select(tirx.EQ(value, value), rounded, quiet), "uint16")
    return cast(value, STORED[dtype])
