"""Relations between axes: two that stay together, one that is the product of two."""

import numpy as np

from effc.ir.coupling.atoms import NONE, Atoms, Axis

LARGEST_EFFORT = 64


def equate(
    atoms: Atoms, first: Axis | None, second: Axis | None, why: int, effort: int = LARGEST_EFFORT
) -> None:
    """Let two axes of one size keep the same positions.

    Args:
        atoms: All atoms.
        first: [size, depth], or None for one that cannot be cut.
        second: The same.
        why: The reason recorded where one side must stay because the other does.
        effort: Rounds after which all atoms of a row are fused.
    """
    if first is second:
        return
    if first is None or second is None:
        atoms.mark(first, why)
        atoms.mark(second, why)
        return
    for _ in range(effort):
        one, other = _without_common(atoms.resolve(first), atoms.resolve(second))
        patterns = np.concatenate([one != NONE, other != NONE], axis=1)
        rows = patterns.any(1)
        if not rows.any():
            return
        kinds, kind = np.unique(patterns[rows], axis=0, return_inverse=True)
        left, right = one[rows], other[rows]
        for number, pattern in enumerate(kinds):
            chosen = kind.reshape(-1) == number
            _step(
                atoms,
                left[chosen][:, pattern[: one.shape[1]]],
                right[chosen][:, pattern[one.shape[1] :]],
                why,
                effort // 2,
            )
    _fuse(atoms, atoms.resolve(first), atoms.resolve(second))


def factored(
    atoms: Atoms, axis: Axis | None, outer: int, inner: int, why: int
) -> tuple[Axis | None, Axis | None]:
    """Write an axis as the product of two: position `i * inner + j` needs what `i` and `j` need.

    Args:
        atoms: All atoms.
        axis: [outer * inner, depth].
        outer: Size of the first factor.
        inner: Size of the second.
        why: The reason recorded for what must stay.

    Returns:
        The axes of the factors; None for one that cannot be cut.
    """
    if axis is None or outer == 1 or inner == 1:
        return (None, axis) if outer == 1 else (axis, None)
    grid = atoms.resolve(axis).reshape(outer, inner, -1)
    rows: list[Axis] = []
    columns: list[Axis] = []
    for at in range(grid.shape[2]):
        plane = grid[:, :, at]
        if (atoms.left[plane] != NONE).any():
            return _forced(atoms, axis, atoms.resolve(axis).reshape(outer, inner, -1), why)
        if (plane == plane[:, :1]).all():
            rows.append(plane[:, 0])
        elif (plane == plane[:1]).all():
            columns.append(plane[0])
        elif (pair := _split(atoms, plane)) is not None:
            rows.append(pair[0])
            columns.append(pair[1])
        else:
            return _forced(atoms, axis, grid, why)
    return _stacked(rows), _stacked(columns)


def product(first: Axis | None, outer: int, second: Axis | None, inner: int) -> Axis | None:
    """The axis [outer * inner, depth] of a product of two axes."""
    parts = []
    if first is not None:
        parts.append(np.repeat(first, inner, axis=0))
    if second is not None:
        parts.append(np.tile(second, (outer, 1)))
    return np.concatenate(parts, axis=1) if parts else None


def joined(parts: list[tuple[Axis | None, int]]) -> Axis | None:
    """The axis of dimensions laid end to end, each with its size."""
    depth = max((axis.shape[1] for axis, _ in parts if axis is not None), default=0)
    if depth == 0:
        return None
    blocks = []
    for axis, size in parts:
        block = np.zeros((size, depth), np.int64)
        if axis is not None:
            block[:, : axis.shape[1]] = axis
        blocks.append(block)
    return np.concatenate(blocks)


def _without_common(first: Axis, second: Axis) -> tuple[Axis, Axis]:
    """Both axes without the atoms that a row has on both sides."""
    if first.shape == second.shape and np.array_equal(first, second):
        return first[:, :0], second[:, :0]
    in_second = (first[:, :, None] == second[:, None, :]).any(2)
    in_first = (second[:, :, None] == first[:, None, :]).any(2)
    return np.where(in_second, NONE, first), np.where(in_first, NONE, second)


def _step(atoms: Atoms, first: Axis, second: Axis, why: int, effort: int) -> None:
    """Bring two blocks without common atoms and without gaps nearer to each other."""
    first, second = atoms.resolve(first), atoms.resolve(second)
    if first.shape[1] == 0 or second.shape[1] == 0:
        atoms.mark(first if first.shape[1] else second, why)
        return
    if NONE in first or NONE in second or (first[:, :, None] == second[:, None, :]).any():
        return  # an earlier block changed this one; the next round sees it anew
    patterns = [_codes(first[:, at]) for at in range(first.shape[1])]
    others = [_codes(second[:, at]) for at in range(second.shape[1])]
    for at, pattern in enumerate(patterns):
        for to, other in enumerate(others):
            if np.array_equal(pattern, other):
                atoms.merge(first[:, at], second[:, to])
                return
    if np.isin(first, second).any():
        _fuse(atoms, first, second)
        return
    if first.shape[1] == 1 and _bind(atoms, first[:, 0], second, why, effort):
        return
    if second.shape[1] == 1 and _bind(atoms, second[:, 0], first, why, effort):
        return
    for at in range(first.shape[1]):
        for to in range(second.shape[1]):
            if _relate(atoms, first[:, at], second[:, to]):
                return
    _fuse(atoms, first, second)


def _bind(atoms: Atoms, single: Axis, many: Axis, why: int, effort: int) -> bool:
    """Refine single atoms into the sets they must equal; False where that goes in a circle."""
    values, first, back = np.unique(single, return_index=True, return_inverse=True)
    wanted = many[first][back.reshape(-1)]
    if not np.array_equal(wanted, many):
        equate(atoms, many, wanted, why, effort)
        return True
    _refine_into(atoms, values, many[first])
    return True


def _refine_into(atoms: Atoms, values: Axis, sets: Axis) -> None:
    """Refine atoms [n] into sets [n, depth] of at least two."""
    while sets.shape[1] > 2:
        rest = atoms.fresh(len(values))
        atoms.refine(values, sets[:, 0], rest)
        values, sets = rest, sets[:, 1:]
    if sets.shape[1] == 1:
        atoms.merge(values, sets[:, 0])
    else:
        atoms.refine(values, sets[:, 0], sets[:, 1])


def _relate(atoms: Atoms, first: Axis, second: Axis) -> bool:
    """Refine the finer of two columns by the coarser, where one divides the other evenly."""
    for coarse, fine in ((first, second), (second, first)):
        values, at = np.unique(fine, return_index=True)
        outer = coarse[at]
        if not np.array_equal(_lookup(values, outer, fine), coarse):
            continue
        blocks, block, counts = np.unique(outer, return_inverse=True, return_counts=True)
        if len(set(counts.tolist())) != 1 or counts[0] == 1 or len(blocks) == 1:
            continue
        order = np.lexsort((at, block.reshape(-1)))
        rank = np.empty(len(values), np.int64)
        rank[order] = np.tile(np.arange(counts[0]), len(blocks))
        atoms.refine(values, outer, atoms.fresh(int(counts[0]))[rank])
        return True
    return False


def _lookup(keys: Axis, values: Axis, wanted: Axis) -> Axis:
    return values[np.searchsorted(keys, wanted)]


def _fuse(atoms: Atoms, first: Axis, second: Axis) -> None:
    """Let all atoms of a row be cut together: always right, and coarse."""
    both = np.concatenate([first, second], axis=1)
    lead = both.max(1)
    for at in range(both.shape[1]):
        rows = both[:, at] != NONE
        atoms.merge(both[rows, at], lead[rows])


def _codes(column: Axis) -> Axis:
    """Which positions hold equal atoms: numbers in order of first appearance."""
    _, first, back = np.unique(column, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[back.reshape(-1)]


def _split(atoms: Atoms, plane: Axis) -> tuple[Axis, Axis] | None:
    """Refine the atoms of a grid into one for the row and one for the column, where they fit."""
    if (plane == NONE).any():
        return None
    kinds, row = np.unique(plane, axis=0, return_inverse=True)
    others, column = np.unique(plane, axis=1, return_inverse=True)
    row, column = row.reshape(-1), column.reshape(-1)
    values, at = np.unique(plane, return_index=True)
    if len(values) != len(kinds) * others.shape[1]:
        return None
    outer, inner = atoms.fresh(len(kinds)), atoms.fresh(others.shape[1])
    at_row, at_column = np.unravel_index(at, plane.shape)
    pairs = row[at_row] * others.shape[1] + column[at_column]
    if len(np.unique(pairs)) != len(values):
        return None
    atoms.refine(values, outer[row[at_row]], inner[column[at_column]])
    return outer[row], inner[column]


def _forced(atoms: Atoms, axis: Axis, grid: Axis, why: int) -> tuple[Axis | None, Axis | None]:
    """Let an axis be periodic, or constant within blocks, whichever leaves more to choose."""
    outer, inner = grid.shape[:2]
    if outer < inner:
        equate(atoms, axis, np.tile(grid[0], (outer, 1)), why)
        return None, atoms.resolve(grid[0])
    equate(atoms, axis, np.repeat(grid[:, 0], inner, axis=0), why)
    return atoms.resolve(grid[:, 0]), None


def _stacked(columns: list[Axis]) -> Axis | None:
    return np.stack(columns, axis=1) if columns else None
