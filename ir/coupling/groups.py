"""Groups: sets of atoms that are alternatives to each other, such as the neurons of one layer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effc.ir.coupling.analysis import Coupling
from effc.ir.coupling.atoms import NONE, Axis
from effc.ir.coupling.call import CONVOLVED, HEAD, HEAD_WIDTH, LINEAR, STREAM

KINDS = {
    HEAD: "heads",
    HEAD_WIDTH: "head-width",
    STREAM: "hidden",
    CONVOLVED: "channels",
    LINEAR: "neurons",
}
QUERY_HEADS, OTHER = "query-heads", "other"
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Site:
    """A dimension of a weight that holds positions of a group.

    Attributes:
        key: The weight.
        weight: Its first name.
        dimension: Which dimension.
        role: `out` or `in` of the product that reads it, or empty.
    """

    key: Key
    weight: str
    dimension: int
    role: str

    def __str__(self) -> str:
        return f"{self.weight}.{self.dimension}"


@dataclass(frozen=True, eq=False)
class Group:
    """Atoms that stand in the same dimensions of the same weights.

    Attributes:
        name: The layer that computes them.
        kind: `channels`, `neurons`, `hidden`, `heads`, `head-width`, `query-heads` or `other`.
        atoms: int64 [size], in the order of the first weight.
        sites: The dimensions of weights they stand in.
        reason: Why none of them can be cut; empty where they can.
        width: Positions an atom stands for in the layer that computes it, as a head for its width.
    """

    name: str
    kind: str
    atoms: NDArray[np.int64]
    sites: tuple[Site, ...]
    reason: str
    width: int = 1

    @property
    def size(self) -> int:
        """How many can be cut at most, one by one."""
        return len(self.atoms)

    def places(self, axis: Axis) -> NDArray[np.int64]:
        """Per position of a resolved axis, which atom of the group it needs; -1 for none."""
        order = np.argsort(self.atoms)
        known = self.atoms[order]
        at = np.minimum(np.searchsorted(known, axis), len(known) - 1)
        found = np.where(known[at] == axis, order[at], -1)
        return found.max(1, initial=-1)


def groups_of(coupling: Coupling) -> list[Group]:
    """All groups, in the order of the weights, those that cannot be cut with the reason.

    Two atoms are in one group if they were made together, stand in the same dimensions of the same
    weights, and the same reason, if any, keeps them.
    """
    atoms = coupling.atoms
    sites = _sites(coupling)
    signature = np.zeros(atoms.count, np.uint64)
    first = np.full(atoms.count, len(sites))
    for number, (_, axis) in enumerate(sites):
        found = _distinct(axis)
        signature[found] += _scattered(number + 1)
        first[found] = np.minimum(first[found], number)
    used = np.flatnonzero(first < len(sites))
    keys = np.stack(
        [signature[used], atoms.birth[used].astype(np.uint64), atoms.why[used].astype(np.uint64)],
        axis=1,
    )
    _, group = np.unique(keys, axis=0, return_inverse=True)
    members: dict[int, list[int]] = {}
    for atom, number in zip(used.tolist(), group.reshape(-1).tolist(), strict=True):
        members.setdefault(number, []).append(atom)
    by_atom = _sites_by_atom(sites, {part[0] for part in members.values()})
    found_groups = [
        _group(coupling, np.array(part), sites, by_atom[part[0]]) for part in members.values()
    ]
    order = sorted(found_groups, key=lambda one: (int(first[one.atoms[0]]), int(one.atoms[0])))
    return _told_apart(order)


def resolved_weights(coupling: Coupling) -> dict[Key, tuple[Axis | None, ...]]:
    """Resolved axes of every weight."""
    return {
        key: tuple(None if axis is None else coupling.atoms.resolve(axis) for axis in axes)
        for key, axes in coupling.state.weights.items()
    }


def _sites(coupling: Coupling) -> list[tuple[Site, Axis]]:
    found = []
    for key, axes in resolved_weights(coupling).items():
        for dimension, axis in enumerate(axes):
            if axis is not None and axis.shape[1]:
                role = coupling.state.roles.get((key, dimension), "")
                found.append((Site(key, coupling.names[key][0], dimension, role), axis))
    return found


def _sites_by_atom(sites: list[tuple[Site, Axis]], wanted: Iterable[int]) -> dict[int, list[int]]:
    chosen = np.array(sorted(wanted))
    found: dict[int, list[int]] = {int(atom): [] for atom in chosen}
    for number, (_, axis) in enumerate(sites):
        for atom in np.intersect1d(_distinct(axis), chosen).tolist():
            found[atom].append(number)
    return found


def _group(
    coupling: Coupling,
    members: NDArray[np.int64],
    sites: list[tuple[Site, Axis]],
    numbers: list[int],
) -> Group:
    site, axis = sites[numbers[0]]
    rows = {int(atom): at for at, atom in reversed(list(enumerate(axis.max(1))))}
    for column in range(axis.shape[1]):
        for at in range(len(axis) - 1, -1, -1):
            rows[int(axis[at, column])] = min(at, rows.get(int(axis[at, column]), at))
    order = np.array(sorted(members.tolist(), key=lambda atom: rows[atom]))
    tags = int(np.bitwise_or.reduce(coupling.atoms.tags[members]))
    kind = next((name for tag, name in KINDS.items() if tags & tag), OTHER)
    owners = [sites[number][0] for number in numbers]
    owner = next((one for one in owners if one.role == "out"), site)
    reason = coupling.state.reasons[int(coupling.atoms.why[members[0]])]
    name = owner.weight.rpartition(".")[0] or owner.weight
    own = sites[numbers[owners.index(owner)]][1]
    width = int(np.isin(own, order).sum()) // len(order)
    return Group(name, kind, order, tuple(owners), reason, width)


def _told_apart(groups: list[Group]) -> list[Group]:
    """Query heads that share a key head are groups of their own kind."""
    heads = [group for group in groups if group.kind == KINDS[HEAD]]
    found = []
    for group in groups:
        own = {(site.key, site.dimension) for site in group.sites}
        is_within = group in heads and any(
            own < {(site.key, site.dimension) for site in other.sites} for other in heads
        )
        kind = QUERY_HEADS if is_within else group.kind
        found.append(replace(group, kind=kind))
    return found


def _distinct(axis: Axis) -> Axis:
    atoms = np.unique(axis)
    return atoms[atoms != NONE]


def _scattered(number: int) -> np.uint64:
    """A number of 64 well mixed bits (splitmix64)."""
    mask = (1 << 64) - 1
    z = (number * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return np.uint64(z ^ (z >> 31))
