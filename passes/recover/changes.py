"""How a weight may change while it is trained; every change folds into the weight.

- `Free`: all of it.
- `LowRank`: LoRA (E. Hu et al., 2021, arXiv 2106.09685), `W + B A / sqrt(rank)`; where the weight
  is sparse the change is masked in training already (MaskLoRA of PERP, M. Zimmer et al., 2023,
  arXiv 2312.15230). Below a rounding it is L4Q (H. Jeon et al., 2024, arXiv 2402.04902): the sum is
  rounded, and steps are learned with it.
- `SubBlock`: some output channels (S2FT, X. Yang et al., 2024, arXiv 2412.06289), drawn at random;
  the update is dense in them and nothing is permuted, since rows are trained where they are.
- `Scaled`: a factor per output channel (the scale of SSF, D. Lian et al., 2022, arXiv 2210.08823).
- `Rounding`: for codes, up or down (AdaRound, M. Nagel et al., 2020, arXiv 2004.10568), found by
  gradients of the loss of the whole program instead of layer by layer.
- `Fixed`: the weight stays; only steps of codes are learned (LSQ, S. Esser et al., 2019,
  arXiv 1902.08153).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from effc.passes.recover.stored import Stored, Tensors

LEAST_ZEROS = 0.01  # from here on a weight counts as sparse and stays so
STRETCH = 1.1, -0.1  # of AdaRound's sigmoid
SHARPNESS = 20.0, 2.0  # of its penalty, at the beginning and the end


@dataclass(frozen=True)
class Sizes:
    """Settings of changes.

    Attributes:
        rank: Of a low-rank change.
        share: Part of the output channels that a sub-block trains.
    """

    rank: int
    share: float


class Change(Protocol):
    """A change of one weight.

    Attributes:
        tensors: What is trained, by name.
    """

    tensors: Tensors

    def applied(self) -> Tensor:
        """The changed weight; differentiable."""

    def penalty(self, progress: float) -> Tensor | None:
        """What is added to the loss; `progress` grows from 0 to 1."""


@dataclass(eq=False)
class _Change:
    start: Tensor
    mask: Tensor | None
    tensors: Tensors = field(default_factory=dict)

    def penalty(self, progress: float) -> Tensor | None:
        """Nothing."""
        return None

    def _masked(self, change: Tensor) -> Tensor:
        return self.start + (change if self.mask is None else change * self.mask)


class Free(_Change):
    """All of the weight."""

    def applied(self) -> Tensor:
        """Start and change."""
        return self._masked(self.tensors["change"])


class LowRank(_Change):
    """A product of two thin matrices."""

    def applied(self) -> Tensor:
        """Start and change."""
        left, right = self.tensors["left"], self.tensors["right"]
        product = left @ right / left.shape[1] ** 0.5
        return self._masked(product.reshape(self.start.shape))


@dataclass(eq=False)
class SubBlock(_Change):
    """Some rows."""

    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def applied(self) -> Tensor:
        """Start and change."""
        return self._masked(
            torch.zeros_like(self.start).index_copy(0, self.rows, self.tensors["change"])
        )


class Scaled(_Change):
    """A factor per row."""

    def applied(self) -> Tensor:
        """Start times factors."""
        return self.start * self.factor()

    def factor(self) -> Tensor:
        """`[rows, 1, ...]`."""
        return 1 + self.tensors["scale"].reshape(-1, *[1] * (self.start.dim() - 1))


class Fixed(_Change):
    """The weight as it is."""

    def applied(self) -> Tensor:
        """Start."""
        return self.start


@dataclass(eq=False)
class Rounding(_Change):
    """Up or down to one of the two codes around the start; `step` is per element."""

    step: Tensor = field(default_factory=lambda: torch.ones(()))

    def applied(self) -> Tensor:
        """A value that is rounded to the code preferred, with the soft choice's derivative."""
        soft = self._soft()
        hard = (soft.detach() > 0.5).float()
        return (torch.floor(self.start / self.step) + hard + (soft - soft.detach())) * self.step

    def penalty(self, progress: float) -> Tensor | None:
        """Drives choices apart, the sharper the later; its mean is at most 1."""
        first, last = SHARPNESS
        exponent = first + (last - first) * progress
        return (1 - (2 * self._soft() - 1).abs().pow(exponent)).mean()

    def _soft(self) -> Tensor:
        high, low = STRETCH
        return (torch.sigmoid(self.tensors["choice"]) * (high - low) + low).clamp(0, 1)


Make = Callable[[Stored, Tensor | None, Sizes, np.random.Generator], Change]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


def _free(stored: Stored, mask: Tensor | None, sizes: Sizes, rng: np.random.Generator) -> Change:
    return Free(stored.start, mask, {"change": _leaf(torch.zeros_like(stored.start))})


def _low_rank(
    stored: Stored, mask: Tensor | None, sizes: Sizes, rng: np.random.Generator
) -> Change:
    rows, features = stored.start.shape[0], stored.start[0].numel()
    rank = min(sizes.rank, rows, features)
    drawn = rng.standard_normal((rank, features), dtype=np.float32) / features**0.5
    tensors = {"left": _leaf(torch.zeros(rows, rank)), "right": _leaf(torch.from_numpy(drawn))}
    return LowRank(stored.start, mask, tensors)


def _sub_block(
    stored: Stored, mask: Tensor | None, sizes: Sizes, rng: np.random.Generator
) -> Change:
    count = max(1, round(len(stored.start) * sizes.share))
    rows = np.sort(rng.choice(len(stored.start), count, replace=False))
    chosen = torch.from_numpy(rows)
    return SubBlock(
        stored.start, mask, {"change": _leaf(torch.zeros_like(stored.start[chosen]))}, chosen
    )


def _scaled(stored: Stored, mask: Tensor | None, sizes: Sizes, rng: np.random.Generator) -> Change:
    return Scaled(stored.start, mask, {"scale": _leaf(torch.zeros(len(stored.start)))})


def _fixed(stored: Stored, mask: Tensor | None, sizes: Sizes, rng: np.random.Generator) -> Change:
    return Fixed(stored.start, mask)


def _rounding(
    stored: Stored, mask: Tensor | None, sizes: Sizes, rng: np.random.Generator
) -> Change:
    step = stored.wide_step()
    rest = stored.start / step - torch.floor(stored.start / step)
    high, low = STRETCH
    inverse = ((rest - low) / (high - low)).clamp(0.01, 0.99)
    choice = torch.log(inverse / (1 - inverse))
    return Rounding(stored.start, mask, {"choice": _leaf(choice)}, step)


CHANGES: dict[str, Make] = {
    "full": _free,
    "lora": _low_rank,
    "sub-block": _sub_block,
    "scale-shift": _scaled,
    "step": _fixed,
    "rounding": _rounding,
}


def mask_of(weight: Tensor) -> Tensor | None:
    """Where a sparse weight is not zero; None for a dense one."""
    is_kept = weight != 0
    zeros = 1 - float(is_kept.float().mean()) if weight.numel() else 0.0
    return is_kept.float() if zeros >= LEAST_ZEROS else None
