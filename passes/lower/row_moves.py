"""Chains of operators that move elements: whether rows stay whole, and which row goes where."""

from dataclasses import dataclass

import torch
from torch import fx

from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import Program
from effc.ir.symbols import evaluate
from effc.passes.lower.views import RESHAPES, Placement, aliased, contiguous

SHAPED = {f"aten.{name}" for name in (*RESHAPES, "expand")}
MOVED = {
    f"aten.{name}" for name in ("permute", "transpose", "t", "slice", "select", "roll", "flip")
}
CAT = "aten.cat"
ROWS_RANK = 3
NORMS = ("aten.layer_norm.default", "aten.rms_norm.default")
ROWWISE = (*NORMS, "aten.linear.default", "effc.quantize_dynamic.default")


@dataclass(frozen=True)
class Chain:
    """Moves from one tensor to another.

    Attributes:
        source: What they start from: no move itself.
        end: The last move, which something else reads.
        moves: All moves in graph order, the end included.
    """

    source: fx.Node
    end: fx.Node
    moves: tuple[fx.Node, ...]


@dataclass(frozen=True)
class RowTable:
    """A chain as a selection of rows.

    Attributes:
        rows: int32, which row of the source each row of the end is, within one entry of the batch.
        count: Rows of the source in one entry of the batch.
        width: Elements of a row.
        shape: The end's shape, -1 where it depends on the batch.
    """

    rows: torch.Tensor
    count: int
    width: int
    shape: list[int]


def chain_of(node: fx.Node) -> Chain | None:
    """The moves that end in a node, where the node starts or something that reads it takes rows."""
    if not _is_move(node) or all(_is_move(user) for user in node.users):
        return None
    moves, sources = _cone(node)
    if len(sources) != 1:
        return None
    (source,) = sources
    is_computed = _is_rowwise(source) or kind_of(source) in (Kind.ELEMENTWISE, Kind.GATHER)
    if not is_computed or not any(map(_is_rowwise, (source, *node.users))):
        return None
    return Chain(source, node, moves)


def _is_rowwise(node: fx.Node) -> bool:
    """Whether an operator's kernel takes rows as they lie in row-major memory."""
    return op_name(node) in ROWWISE


def _base(node: fx.Node) -> str:
    return op_name(node).rpartition(".")[0]


def _is_move(node: fx.Node) -> bool:
    return node.op == "call_function" and (_base(node) in SHAPED | MOVED or _base(node) == CAT)


def _cone(end: fx.Node) -> tuple[tuple[fx.Node, ...], set[fx.Node]]:
    """All moves a node depends on, operands first, and what those start from."""
    moves: dict[fx.Node, None] = {}
    sources: set[fx.Node] = set()

    def visit(node: fx.Node) -> None:
        if node in moves or node in sources:
            return
        if not _is_move(node):
            sources.add(node)
            return
        for operand in _operands(node):
            visit(operand)
        moves[node] = None

    visit(end)
    return tuple(moves), sources


def _operands(node: fx.Node) -> list[fx.Node]:
    """The tensors a move reads."""
    return list(node.args[0]) if _base(node) == CAT else [node.args[0]]


def is_strided(program: Program, chain: Chain) -> bool:
    """Whether strides describe the end in the contiguous memory of the source."""
    places: dict[fx.Node, Placement] = {
        chain.source: contiguous(chain.source, program.shape(chain.source))
    }
    for node in chain.moves:
        if _base(node) in (CAT, "aten.roll", "aten.flip"):
            return False
        found = aliased(program, node, places[node.args[0]])
        if found is None:
            return False
        places[node] = found
    return True


def row_table(program: Program, chain: Chain, min_width: int) -> RowTable | str:
    """Which rows a chain picks, or why it does not pick rows.

    Args:
        program: For sizes.
        chain: The moves.
        min_width: Elements a row must have at least.
    """
    source, end = program.shape(chain.source), program.shape(chain.end)
    symbols = {s.name for size in (*source, *end) if not isinstance(size, int)
               for s in size.free_symbols}  # fmt: skip
    shape = [size if isinstance(size, int) else -1 for size in end]
    if len(symbols) > 1 or not all(isinstance(size, int) for size in source[1:]):
        return "sizes other than the batch are symbolic"
    if shape.count(-1) > 1:
        return "more than one dimension of the result depends on the batch"
    width = source[-1] if source else 0
    if not isinstance(width, int) or width < min_width:
        return f"rows have fewer than {min_width} elements"
    if any(isinstance(arg, fx.Node) for node in chain.moves for arg in _settings(node)):
        return "it depends on a size known at run time only"
    values = dict.fromkeys(symbols, 2)
    rows = _rows(program, chain, width, values)
    if rows is None:
        return "it takes rows apart"
    total = _numel(program, chain.source, values) // width
    batches = [2] if symbols else [*(s[0] for s in (end, source) if len(s) == ROWS_RANK), 1]
    parted = [int(batch) for batch in batches if _is_parted(rows, total, int(batch))]
    if not parted:
        return "it mixes the entries of the batch"
    table = rows[: len(rows) // parted[0]].to(torch.int32)
    return RowTable(table, total // parted[0], width, shape)


def _is_parted(rows: torch.Tensor, total: int, batch: int) -> bool:
    """Whether rows of every entry of a batch come from the same places of that entry."""
    if len(rows) % batch or total % batch:
        return False
    parts, step = rows.reshape(batch, -1), total // batch
    return torch.equal(parts, parts[0] + step * torch.arange(batch)[:, None])


def _settings(node: fx.Node) -> list[object]:
    """Arguments that say how a move works, where its result's shape does not."""
    if _base(node) in SHAPED:
        return []
    values = [*node.args[1:], *node.kwargs.values()]
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _numel(program: Program, node: fx.Node, values: dict[str, int]) -> int:
    return int(torch.Size(_shape(program, node, values)).numel())


def _shape(program: Program, node: fx.Node, values: dict[str, int]) -> list[int]:
    return [evaluate(size, values) for size in program.shape(node)]


def _rows(
    program: Program, chain: Chain, width: int, values: dict[str, int]
) -> torch.Tensor | None:
    """The rows of the end, by moving the indices of all elements; None if rows are taken apart."""
    numel = _numel(program, chain.source, values)
    moved = {chain.source: torch.arange(numel).reshape(_shape(program, chain.source, values))}
    for node in chain.moves:
        operands = [moved[operand] for operand in _operands(node)]
        moved[node] = _moved(program, node, operands, values)
    indices = moved[chain.end]
    if indices.shape[-1:] == () or indices.shape[-1] % width:
        return None
    lines = indices.reshape(-1, width)
    rows = lines[:, 0] // width
    is_whole = torch.equal(lines, rows[:, None] * width + torch.arange(width))
    return rows if is_whole else None


def _moved(
    program: Program, node: fx.Node, operands: list[torch.Tensor], values: dict[str, int]
) -> torch.Tensor:
    if _base(node) == "aten.expand":
        return operands[0].expand(_shape(program, node, values))
    if _base(node) in SHAPED:
        return operands[0].reshape(_shape(program, node, values))
    given = operands if _base(node) == CAT else operands[0]
    result: torch.Tensor = node.target(given, *node.args[1:], **node.kwargs)
    return result
