"""A small builder of explicit TIR: loops, vector values, loads and stores on flat buffers.

Kernels are written out explicitly instead of being derived by schedule primitives: every vector,
tile and loop is stated by the family that makes the kernel, so the code LLVM sees is the code that
was meant, and a kernel builds in milliseconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import sympy
import tvm
from torch.utils._sympy.functions import FloorDiv as TorchFloorDiv
from tvm import tirx
from tvm.ir import Expr as Expr
from tvm.ir import PointerType, PrimType, Var

from effc.ir.errors import BuildError
from effc.ir.symbols import Size

INDEX = "int64"
ANY_SIZE = 1 << 40


def const(value: float, dtype: str = INDEX) -> Expr:
    """A constant of a scalar or vector dtype such as `float32x16`; integers wrap around."""
    scalar, lanes = split_dtype(dtype)
    one = tirx.const(wrapped(value, scalar) if "int" in scalar else value, scalar)
    return tirx.Broadcast(one, lanes) if lanes > 1 else one


def wrapped(value: float, scalar: str) -> int:
    """What is left of a number in an integer type, as in PyTorch."""
    bits = tvm.DataType(scalar).bits
    low = 0 if scalar.startswith("u") else -(1 << (bits - 1))
    return (int(value) - low) % (1 << bits) + low


def index(value: int | Expr) -> Expr:
    """An index expression from an int or an expression."""
    return tirx.IntImm(INDEX, value) if isinstance(value, int) else value


def split_dtype(dtype: str) -> tuple[str, int]:
    """`float32x16` to (`float32`, 16)."""
    parsed = tvm.DataType(dtype)
    lanes = parsed.lanes
    return (dtype[: dtype.rindex("x")], lanes) if lanes > 1 else (dtype, 1)


def dtype_of(expr: Expr) -> str:
    """The dtype of an expression, with its lanes."""
    return str(expr.ty.dtype)


def lanes_of(expr: Expr) -> int:
    """How many elements an expression computes at once."""
    return split_dtype(dtype_of(expr))[1]


def with_lanes(scalar: str, lanes: int) -> str:
    """The vector dtype of a scalar dtype."""
    return f"{scalar}x{lanes}" if lanes > 1 else scalar


def splat(expr: Expr, lanes: int) -> Expr:
    """Repeat a scalar expression in all lanes; a vector stays as it is."""
    return tirx.Broadcast(expr, lanes) if lanes > 1 and lanes_of(expr) == 1 else expr


def cast(expr: Expr, scalar: str) -> Expr:
    """Convert to another element type, keeping the lanes."""
    found, lanes = split_dtype(dtype_of(expr))
    if found == scalar:
        return expr
    wanted = with_lanes(scalar, lanes)
    if found == "bool":  # TVM crashes on casts of vectors of bool
        return tirx.Select(expr, const(1, wanted), const(0, wanted))
    return tirx.Cast(wanted, expr)


def llvm(name: str, result: str, *arguments: Expr) -> Expr:
    """Call an LLVM intrinsic without side effects."""
    return tirx.call_llvm_pure_intrin(result, name, *arguments)


def same_type(name: str, *arguments: Expr) -> Expr:
    """Call an LLVM intrinsic whose result has the type of its first argument."""
    return llvm(name, dtype_of(arguments[0]), *arguments)


@dataclass
class Builder:
    """Collects the statements of one kernel.

    Attributes:
        symbols: The kernel's parameter for each symbolic dimension.
    """

    symbols: dict[str, Var] = field(default_factory=dict)
    _blocks: list[list[tirx.Stmt]] = field(default_factory=lambda: [[]])
    _count: int = 0

    def emit(self, statement: tirx.Stmt) -> None:
        """Append a statement to the innermost block."""
        self._blocks[-1].append(statement)

    def variable(self, name: str, dtype: str = INDEX) -> Var:
        """A new variable with a unique name."""
        self._count += 1
        return Var(f"{name}_{self._count}", PrimType(dtype))

    @contextmanager
    def loop(self, begin: int | Expr, end: int | Expr, name: str = "i") -> Iterator[Expr]:
        """Run a block for each index in `begin..end`; a loop of one known turn is unrolled."""
        if isinstance(begin, int) and isinstance(end, int) and end - begin == 1:
            yield index(begin)
            return
        counter = self.variable(name)
        self._blocks.append([])
        yield counter
        body = self._close()
        begin, end = index(begin), index(end)
        extent = end if isinstance(begin, tirx.IntImm) and int(begin) == 0 else end - begin
        self.emit(tirx.For(counter, begin, extent, tirx.ForKind.SERIAL, body))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Run a block if a condition holds."""
        self._blocks.append([])
        yield
        self.emit(tirx.IfThenElse(condition, self._close(), None))

    @contextmanager
    def otherwise(self, condition: Expr) -> Iterator[None]:
        """Run a block if a condition does not hold."""
        with self.when(tirx.Not(condition)):
            yield

    def let(self, value: Expr, name: str = "v") -> Expr:
        """Bind an expression to a variable, so that it is computed once."""
        if isinstance(value, Var | tirx.IntImm | tirx.FloatImm):
            return value
        dtype = dtype_of(value)
        if dtype.startswith("bool"):  # TVM's analyzer rejects vectors of bool in a binding
            return value
        variable = self.variable(name, dtype)
        self.emit(tirx.Bind(variable, value))
        return variable

    def local(self, dtype: str, count: int, name: str = "local") -> tirx.Buffer:
        """An array on the stack; accesses at constant indices become registers."""
        self._count += 1
        buffer = tirx.decl_buffer((count,), dtype, f"{name}_{self._count}", scope="global")
        self.emit(tirx.AllocBuffer(buffer))
        return buffer

    def store(self, buffer: tirx.Buffer, value: Expr, at: int | Expr, stride: int = 1) -> None:
        """Store a scalar or vector at a flat index, lanes `stride` elements apart."""
        lanes = lanes_of(value)
        where = tirx.Ramp(index(at), index(stride), lanes) if lanes > 1 else index(at)
        self.emit(tirx.BufferStore(buffer, value, [where]))

    def store_masked(self, buffer: tirx.Buffer, value: Expr, at: Expr, count: Expr) -> None:
        """Store the first `count` lanes of a vector at consecutive elements."""
        lanes = lanes_of(value)
        if isinstance(count, tirx.IntImm) and int(count) == 1:
            # LLVM 22 stores four bytes for a narrowed vector whose mask is known to be one lane.
            memory = self.local(split_dtype(dtype_of(value))[0], lanes, "lane")
            self.store(memory, value, 0)
            self.store(buffer, load(memory, 0), at)
            return
        where = tirx.Ramp(index(at), index(1), lanes)
        call = tirx.call_intrin(
            "void", "tirx.masked_store", buffer, value, where, mask(count, lanes)
        )
        self.emit(tirx.Evaluate(call))

    def size(self, size: Size) -> Expr:
        """A size over symbols as an index expression over the kernel's parameters."""
        return size_expr(size, self.symbols)

    def body(self) -> tirx.Stmt:
        """All statements, once every block is closed."""
        return _sequence(self._blocks[0])

    def _close(self) -> tirx.Stmt:
        return _sequence(self._blocks.pop())


def _sequence(statements: list[tirx.Stmt]) -> tirx.Stmt:
    if not statements:
        return tirx.Evaluate(index(0))
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def mask(count: Expr, lanes: int) -> Expr:
    """A vector of bool whose first `count` lanes are true."""
    steps = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), lanes)
    return tirx.LT(steps, tirx.Broadcast(tirx.Cast("int32", count), lanes))


def load(buffer: tirx.Buffer, at: int | Expr, lanes: int = 1, stride: int = 1) -> Expr:
    """Load a scalar, or `lanes` elements `stride` apart, from a flat index."""
    where = tirx.Ramp(index(at), index(stride), lanes) if lanes > 1 else index(at)
    return tirx.BufferLoad(buffer, [where])


def load_masked(buffer: tirx.Buffer, at: Expr, lanes: int, count: Expr) -> Expr:
    """Load the first `count` of `lanes` consecutive elements; the others hold anything."""
    dtype = with_lanes(str(buffer.dtype), lanes)
    where = tirx.Ramp(index(at), index(1), lanes)
    return tirx.call_intrin(dtype, "tirx.masked_load", buffer, where, mask(count, lanes))


def prefetch(buffer: tirx.Buffer, at: Expr) -> tirx.Stmt:
    """Ask for the cache line of an element, which need not exist."""
    reads, keeps, is_data = (tirx.const(value, "int32") for value in (0, 3, 1))
    place = tirx.address_of(load(buffer, at))
    call = tirx.call_llvm_intrin("void", "llvm.prefetch", place, reads, keeps, is_data)
    return tirx.Evaluate(call)


def size_expr(size: Size, symbols: dict[str, Var]) -> Expr:
    """Translate a size to TIR.

    Raises:
        BuildError: If it uses a function kernels cannot compute.
    """
    if isinstance(size, int):
        return index(size)
    match size:
        case sympy.Integer():
            return index(int(size))
        case sympy.Symbol():
            return symbols[size.name]
        case sympy.Add() | sympy.Mul():
            terms = [size_expr(term, symbols) for term in size.args]
            total = terms[0]
            for term in terms[1:]:
                total = total + term if isinstance(size, sympy.Add) else total * term
            return total
        case sympy.Pow() if size.exp.is_Integer and size.exp > 0:
            base = size_expr(size.base, symbols)
            total = base
            for _ in range(int(size.exp) - 1):
                total = total * base
            return total
        case TorchFloorDiv():
            return tirx.Div(*[size_expr(term, symbols) for term in size.args])
        case sympy.Mod():
            return tirx.Mod(*[size_expr(term, symbols) for term in size.args])
        case sympy.Max() | sympy.Min():
            pick = tirx.Max if isinstance(size, sympy.Max) else tirx.Min
            total, *rest = [size_expr(term, symbols) for term in size.args]
            for term in rest:
                total = pick(total, term)
            return total
        case sympy.floor():
            numerator, denominator = size.args[0].as_numer_denom()
            return tirx.Div(size_expr(numerator, symbols), size_expr(denominator, symbols))
    raise BuildError(f"size {size} cannot be computed in a kernel")


def pointer(name: str, dtype: str) -> tuple[Var, tirx.Buffer]:
    """A pointer parameter and the flat buffer that reads through it."""
    parameter = Var(f"{name}_p", PointerType(PrimType(dtype), "global"))
    return parameter, tirx.decl_buffer((ANY_SIZE,), dtype, name)
