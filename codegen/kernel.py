"""A kernel: one or several functions with a plain C interface, and what they need to be called.

Every function is `void name(pointers..., sizes..., begin, end)`: it does the tasks `begin..end` of
its task range, so the driver can split it over threads without knowing anything else.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
import tvm_ffi
from tvm import tirx
from tvm.ir import PrimType, StringImm, Var

from effc.codegen.tir import INDEX, Builder, Expr, index, pointer
from effc.ir.symbols import Size


class Pack(Protocol):
    """How a packed weight is laid out; see `codegen/pack.py`."""

    @property
    def weight(self) -> int:
        """Input position of the weight it packs."""

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """Pack, given the region's weights by input position."""


ParamKind = Literal["input", "output", "packed", "temporary", "scratch"]


@dataclass(frozen=True)
class Param:
    """One pointer parameter of a stage.

    Attributes:
        kind: A region input or output, a packed weight, memory shared by the stages of the kernel,
            or memory of the calling thread.
        which: Position of the input or output, or name of the packed weight or memory.
    """

    kind: ParamKind
    which: int | str


@dataclass(frozen=True)
class Stage:
    """One function of a kernel; all its tasks end before the next stage begins.

    Attributes:
        function: The code.
        params: What its pointers are, in order.
        tasks: How many tasks there are.
    """

    function: tirx.PrimFunc
    params: tuple[Param, ...]
    tasks: Size

    @property
    def symbol(self) -> str:
        """The name of the function in the object file."""
        return str(self.function.attrs["global_symbol"])


@dataclass(frozen=True)
class Kernel:
    """What a family makes of a region.

    Attributes:
        family: The family's name, for reports.
        stages: In the order they run.
        packed: How to lay out each packed weight, given the region's weights by input position.
        temporaries: Bytes of memory shared by the stages, by name.
        scratch: Bytes of memory each thread needs.
    """

    family: str
    stages: tuple[Stage, ...]
    packed: dict[str, Pack] = field(default_factory=dict)
    temporaries: dict[str, Size] = field(default_factory=dict)
    scratch: Size = 0


class FunctionBuilder:
    """Declares parameters, collects the body and closes a stage's function.

    Args:
        name: The function's symbol.
        symbols: Names of the symbolic dimensions, in the order of the size parameters.
    """

    def __init__(self, name: str, symbols: tuple[str, ...]) -> None:
        self.name = name
        sizes = {symbol: Var(symbol, PrimType(INDEX)) for symbol in symbols}
        self.builder = Builder(symbols=sizes)
        self._begin, self._end = Var("begin", PrimType(INDEX)), Var("end", PrimType(INDEX))
        self._pointers: list[tuple[Var, tirx.Buffer]] = []
        self._params: list[Param] = []
        self._import = ""

    def param(self, kind: ParamKind, which: int | str, dtype: str) -> tirx.Buffer:
        """Declare a pointer parameter and return the flat buffer behind it."""
        variable, buffer = pointer(f"{kind}_{which}", dtype)
        self._pointers.append((variable, buffer))
        self._params.append(Param(kind, which))
        return buffer

    def import_llvm(self, code: str) -> None:
        """Let the body call functions written in LLVM's language."""
        self._import += code

    @property
    def task_range(self) -> tuple[Expr, Expr]:
        """The first task to do, and the one after the last."""
        return self._begin, self._end

    def close(self, tasks: Size) -> Stage:
        """Finish the function; pointers the body does not touch are left out."""
        code = self.builder.body()
        used = _variables(code)
        kept = [
            (variable, buffer, param)
            for (variable, buffer), param in zip(self._pointers, self._params, strict=True)
            if buffer in used
        ]
        declared = [tirx.DeclBuffer(buffer, data=variable) for variable, buffer, _ in kept]
        arguments = [*[v for v, _, _ in kept], *self.builder.symbols.values()]
        body = tirx.SeqStmt([*declared, code])
        if self._import:
            body = tirx.AttrStmt(index(0), "pragma_import_llvm", StringImm(self._import), body)
        function = tirx.PrimFunc([*arguments, self._begin, self._end], body, None, None)
        function = function.with_attr({"global_symbol": self.name, "tirx.noalias": True})
        return Stage(function, tuple(param for _, _, param in kept), tasks)


def _variables(statement: tirx.Stmt) -> set[Var]:
    """Every variable and buffer a statement mentions."""
    found: set[Var] = set()
    tvm_ffi.structural_walk(statement, (Var, lambda variable: found.add(variable)))
    return found
