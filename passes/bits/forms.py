"""Number formats a layer can take, before any of them is written into a program."""

import re
from dataclasses import dataclass

import torch

from effc.ir.errors import UsageError
from effc.passes.bits.weights import pack

FLOAT_BITS, CODE_BITS = 32, 8
SCALE_NBYTES = 4
MOST_BITS = 8
_TEXT = re.compile(r"(?:w?(?P<bits>\d+)(?:a(?P<activation>8|16|32))?(?:g(?P<group>\d+))?)")


@dataclass(frozen=True)
class Form:
    """Bits of a layer's weight and of what it is applied to.

    Attributes:
        bits: Of a weight, 2 to 8; 32 for float.
        activation: Bits of an activation: 8 with a scale per row, 32 for float.
        group: Weights along a row that share a scale; 0 for the whole row.
    """

    bits: int = FLOAT_BITS
    activation: int = FLOAT_BITS
    group: int = 0

    @classmethod
    def parse(cls, text: str, group: int = 0) -> "Form":
        """Read `float`, `8` (weights and activations), `4` (weights only) or `w4a8g32`.

        Args:
            text: What the user wrote.
            group: Of formats below 8 bits where the text names none.

        Raises:
            UsageError: For anything else.
        """
        if text in ("float", "none", str(FLOAT_BITS)):
            return FLOAT
        found = _TEXT.fullmatch(text)
        if not found or not 2 <= int(found["bits"]) <= MOST_BITS:
            raise UsageError(f"{text!r} is no format; write float, 2 to 8, or w4a8g32")
        bits = int(found["bits"])
        whole = CODE_BITS if bits == CODE_BITS else FLOAT_BITS
        if found["activation"] == "16":
            raise UsageError(f"{text!r}: activations have 8 bits or stay in float (a32)")
        chosen = group if bits < MOST_BITS and found["group"] is None else int(found["group"] or 0)
        return cls(bits, int(found["activation"] or whole), chosen)

    @property
    def is_float(self) -> bool:
        """Whether nothing is changed."""
        return self.bits == FLOAT_BITS

    def __str__(self) -> str:
        if self.is_float:
            return "float32"
        return f"w{self.bits}a{self.activation}" + (f"g{self.group}" if self.group else "")

    def restored(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight rounded to nearest: float32 of its shape.

        Symmetric codes around zero, `scale = largest magnitude / (2^(bits - 1) - 1)` per row, or
        per `group` neighbouring weights of a row, the last of which may be fewer.

        Args:
            weight: float32 [out, ...], finite.
        """
        if self.is_float:
            return weight
        if self.bits == CODE_BITS and not self.group:
            packed = pack(weight)
            return packed.codes.to(torch.float32) * packed.scale
        rows = weight.detach().reshape(weight.shape[0], -1)
        features = rows.shape[1]
        group = min(self.group or features, features)
        padded = torch.nn.functional.pad(rows, (0, -features % group))
        split = padded.reshape(len(rows), -1, group)
        largest = (1 << (self.bits - 1)) - 1
        scale = split.abs().amax(-1, keepdim=True) / largest
        scale = torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
        rounded = torch.round(split / scale).clamp(-largest, largest) * scale
        return rounded.flatten(1)[:, :features].reshape(weight.shape)

    def nbytes(self, shape: torch.Size) -> int:
        """Bytes on disk of a weight's codes and scales."""
        rows, features = shape[0], shape[1:].numel()
        if self.is_float:
            return 4 * rows * features
        scales = -(-features // self.group) if self.group else 1
        return rows * (-(-features * self.bits // 8) + SCALE_NBYTES * scales)


FLOAT = Form()
INT8 = Form(CODE_BITS, CODE_BITS)
