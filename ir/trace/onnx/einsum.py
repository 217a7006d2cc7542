"""Einstein sums as products and sums, which passes and kernels know."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from effc.ir.trace.onnx.call import Call, Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Terms:
    """The letters of an equation, with one for each dimension of an ellipsis.

    Attributes:
        inputs: Of every operand.
        kept: Of the result, in the order in which operands are aligned.
        summed: The others.
        order: Where each dimension of the result stands in `kept`.
    """

    inputs: tuple[str, ...]
    kept: str
    summed: str
    order: list[int]

    @classmethod
    def parse(cls, call: Call, equation: str, values: Sequence[Tensor]) -> "Terms":
        """Read an equation.

        Raises:
            UnsupportedError: If it does not fit the operands.
        """
        left, arrow, right = equation.replace(" ", "").partition("->")
        inputs = left.split(",")
        if len(inputs) != len(values):
            raise call.refuse(f"the equation {equation!r} is not one of {len(values)} operands")
        free = [letter for letter in LETTERS if letter not in equation]
        counts = [v.dim() - len(t.replace("...", "")) for t, v in zip(inputs, values, strict=True)]
        rests = [n if "..." in t else 0 for t, n in zip(inputs, counts, strict=True)]
        dots = "".join(free[: max(rests)])
        spelled = tuple(
            term.replace("...", dots[len(dots) - count :])
            for term, count in zip(inputs, rests, strict=True)
        )
        if any(len(t) != v.dim() for t, v in zip(spelled, values, strict=True)):
            raise call.refuse(f"the equation {equation!r} does not fit the operands' dimensions")
        used = "".join(spelled)
        implied = dots + "".join(c for c in sorted(set(used) - set(dots)) if used.count(c) == 1)
        result = right.replace("...", dots) if arrow else implied
        kept = "".join(dict.fromkeys(letter for letter in used if letter in result))
        summed = "".join(dict.fromkeys(letter for letter in used if letter not in result))
        return cls(spelled, kept, summed, [kept.index(letter) for letter in result])

    def aligned(self, term: str, value: Tensor) -> Tensor:
        """An operand with a dimension for every letter, the summed ones last."""
        for letter in dict.fromkeys(term):
            while term.count(letter) > 1:
                first = term.index(letter)
                second = term.index(letter, first + 1)
                value = torch.diagonal(value, 0, first, second)
                term = term[:first] + term[first + 1 : second] + term[second + 1 :] + letter
        letters = self.kept + self.summed
        present = [letter for letter in letters if letter in term]
        value = value.permute([term.index(letter) for letter in present])
        shape = iter(value.shape)
        return value.reshape([next(shape) if letter in term else 1 for letter in letters])

    def contracted(self, parts: Sequence[Tensor]) -> Tensor:
        """Multiply aligned operands and add up the summed letters."""
        count = len(self.summed)
        if len(parts) == 2 and count and parts[0].dtype.is_floating_point:
            found = self._as_matrices(*parts)
            if found is not None:
                return found
        product = parts[0]
        for part in parts[1:]:
            product = product * part
        axes = list(range(len(self.kept), len(self.kept) + count))
        return product.sum(axes) if axes else product

    def _as_matrices(self, x: Tensor, y: Tensor) -> Tensor | None:
        """A product of matrices; None where a letter of the sum is in one operand only."""
        kept = len(self.kept)
        if any(1 in (a, b) and a != b for a, b in zip(x.shape[kept:], y.shape[kept:], strict=True)):
            return None
        only: tuple[list[int], list[int]] = ([], [])
        both = []
        for place, (a, b) in enumerate(zip(x.shape[:kept], y.shape[:kept], strict=True)):
            if isinstance(b, int) and b == 1:
                only[0].append(place)
            elif isinstance(a, int) and a == 1:
                only[1].append(place)
            else:
                both.append(place)
        inner = list(range(kept, x.dim()))
        left = x.permute([*both, *only[0], *only[1], *inner])
        right = y.permute([*both, *inner, *only[0], *only[1]])
        batch = [x.shape[place] for place in both]
        rows, columns = [x.shape[place] for place in only[0]], [y.shape[place] for place in only[1]]
        matrices = torch.matmul(
            left.reshape([*batch, _count(rows), _count(x.shape[kept:])]),
            right.reshape([*batch, _count(y.shape[kept:]), _count(columns)]),
        )
        order = [*both, *only[0], *only[1]]
        whole = matrices.reshape([*batch, *rows, *columns])
        return whole.permute([order.index(place) for place in range(kept)])


def _count(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total = total * size
    return total
