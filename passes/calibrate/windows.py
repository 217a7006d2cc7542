"""Second moments of what a convolution multiplies: its input, window by window."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.nn import functional

from effc.ir.program import value_of

PAIR = 2


@dataclass(frozen=True)
class Window:
    """What one output of a convolution reads.

    Attributes:
        kernel: Height and width.
        stride: Of the output over the input.
        padding: Rows and columns of zeros on each side.
        dilation: Distance between the taps.
        groups: Groups of input channels that do not meet.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, node: fx.Node) -> "Window | None":
        """The window of an `aten.conv2d.default`; None where its weight is no constant."""
        weight = node.args[1]
        if not isinstance(weight, fx.Node):
            return None
        given = [*node.args[3:], *([None] * 4)][:4]
        height, width = value_of(weight).shape[-2:]
        stride, padding, dilation = (
            _pair(node.kwargs.get(name, value), default)
            for name, value, default in zip(
                ("stride", "padding", "dilation"), given[:3], (1, 0, 1), strict=True
            )
        )
        groups = node.kwargs.get("groups", given[3])
        return cls((int(height), int(width)), stride, padding, dilation, int(groups or 1))

    def __str__(self) -> str:
        sides = (self.kernel, self.stride, self.padding, self.dilation)
        return "-".join("x".join(map(str, side)) for side in sides) + f"-{self.groups}"

    def nbytes(self, channels: int) -> int:
        """Bytes of the moments over an input of so many channels."""
        terms = channels // self.groups * self.kernel[0] * self.kernel[1]
        return 8 * self.groups * terms**2

    def moment(self, value: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sums of outer products of all windows.

        Args:
            value: [batch, channels, height, width].

        Returns:
            float64 [groups, terms, terms]; terms are channels of the group, rows, columns.
        """
        total: torch.Tensor | None = None
        for image in torch.from_numpy(value):
            windows = functional.unfold(
                image[None], self.kernel, self.dilation, self.padding, self.stride
            )
            split = windows.reshape(self.groups, -1, windows.shape[-1])
            found = (split @ split.transpose(1, 2)).double()
            total = found if total is None else total + found
        assert total is not None, "a batch has at least one image"
        return np.asarray(total.numpy())


def _pair(value: Any, default: int) -> tuple[int, int]:
    sides = value if isinstance(value, list | tuple) else [value if value is not None else default]
    first, last = int(sides[0]), int(sides[-1])
    return first, last
