"""How a kernel reaches a tensor: element type, shape, strides, and joining of dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from effc.ir.symbols import Size, product, simplify, text


@dataclass(frozen=True)
class Access:
    """A strided view of a flat buffer; the offset of a whole tensor is already in the pointer.

    Attributes:
        dtype: Element type.
        shape: Size per dimension.
        strides: Elements between neighbours, per dimension; 0 repeats one element.
        offset: Elements before the first one, of a part of a tensor.
    """

    dtype: torch.dtype
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size = 0

    def __str__(self) -> str:
        sizes, strides = (",".join(map(text, part)) for part in (self.shape, self.strides))
        return f"{str(self.dtype).removeprefix('torch.')}[{sizes}]({strides})"

    def part(self, dim: int, start: Size, size: Size) -> "Access":
        """The positions `start..start + size` of a dimension; all of one that is repeated."""
        if self.shape[dim] == 1:
            return self
        shape = (*self.shape[:dim], size, *self.shape[dim + 1 :])
        return replace(self, shape=shape, offset=simplify(start * self.strides[dim]))

    def aligned_to(self, domain: Sequence[Size]) -> "Access":
        """The same tensor broadcast to a domain of more or larger dimensions."""
        missing = len(domain) - len(self.shape)
        strides = (0,) * missing + tuple(
            0 if size == 1 and wanted != 1 else stride
            for size, wanted, stride in zip(self.shape, domain[missing:], self.strides, strict=True)
        )
        return replace(self, shape=tuple(domain), strides=strides)

    def permuted(self, order: Sequence[int]) -> "Access":
        """The same elements with the dimensions in another order."""
        shape, strides = (tuple(part[dim] for dim in order) for part in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)

    @property
    def is_contiguous(self) -> bool:
        """Whether elements lie in row-major order without gaps."""
        return all(
            size == 1 or stride == expected
            for size, stride, expected in zip(
                self.shape, self.strides, contiguous_strides(self.shape), strict=True
            )
        )


def contiguous_strides(shape: Sequence[Size]) -> tuple[Size, ...]:
    """Row-major strides of a shape."""
    return tuple(product(list(shape[position + 1 :])) for position in range(len(shape)))


def can_join(accesses: Sequence[Access], outer: int, inner: int) -> bool:
    """Whether two neighbouring dimensions act as one in every access."""
    return all(
        simplify(access.strides[inner] * access.shape[inner]) == access.strides[outer]
        for access in accesses
    )


def joined(accesses: Sequence[Access], keep_last: int = 1) -> list[Access]:
    """Merge neighbouring dimensions that act as one in all accesses of equal shape.

    Args:
        accesses: All aligned to the same domain.
        keep_last: How many trailing dimensions must stay as they are (0 merges anything).

    Returns:
        The accesses over fewer dimensions; dimensions of size 1 disappear, at least one stays.
    """
    shape = accesses[0].shape
    fixed = len(shape) - keep_last
    groups: list[list[int]] = []
    for dim in range(len(shape)):
        if dim < fixed and shape[dim] == 1:
            continue
        mergeable = groups and dim < fixed and can_join(accesses, groups[-1][-1], dim)
        if keep_last == 0 and groups:
            mergeable = can_join(accesses, groups[-1][-1], dim)
        if mergeable:
            groups[-1].append(dim)
        else:
            groups.append([dim])
    groups = groups or [[0]]
    return [
        replace(
            access,
            shape=tuple(product([shape[dim] for dim in group]) for group in groups),
            strides=tuple(access.strides[group[-1]] for group in groups),
        )
        for access in accesses
    ]
