"""Number formats a layer can take, before any of them is written into a program."""

import re
from dataclasses import dataclass, replace
from typing import Literal

import torch

from effc.ir.encoding import packed_nbytes
from effc.ir.errors import UsageError
from effc.ir.ops.grouped import group_count
from effc.passes.bits.grouped import BLOCK_ELEMENTS, Format, Rows, nearest
from effc.passes.bits.ternary import ternary
from effc.passes.bits.weights import pack

FLOAT_BITS, CODE_BITS = 32, 8
SCALE_NBYTES, GROUP_SCALE_NBYTES = 4, 2
MOST_BITS, TERNARY_BITS, TERNARY_PLANES = 8, 2, 2
FLOATS = ("float", "none", str(FLOAT_BITS), "float32")
TERNARY: Literal["ternary"] = "ternary"
CHANNEL: Literal["channel"] = "channel"
_TEXT = re.compile(
    r"(?:w?(?P<bits>\d+)|t2|(?P<scheme>ternary))"
    r"(?:a(?P<activation>8|16|32))?(?:g(?P<group>\d+)|(?P<channel>c))?(?P<zero>z)?"
)


@dataclass(frozen=True)
class Form:
    """Bits of a layer's weight and of what it is applied to.

    Attributes:
        bits: Of a code of the weight, 2 to 8; 32 for float.
        activation: Bits of an activation: 8 with a scale per row, 32 for float.
        group: Weights along a row that share a scale; 0 for the whole row.
        scheme: `int`, two planes of `ternary` codes, or integers with a scale per output `channel`
            that are stored packed and multiplied as those of 8 bits are.
        symmetric: Whether 0.0 has the middle code; else groups have zero points.
    """

    bits: int = FLOAT_BITS
    activation: int = FLOAT_BITS
    group: int = 0
    scheme: Literal["int", "ternary", "channel"] = "int"
    symmetric: bool = True

    @classmethod
    def parse(cls, text: str, group: int = 0, activation: int = FLOAT_BITS) -> "Form":
        """Read `float`, `8` (weights and activations), `4`, `ternary`, `w4a8g32z` or `w4a8c`.

        Args:
            text: What the user wrote.
            group: Of formats below 8 bits where the text names none.
            activation: Bits of activations of those where the text names none.

        Raises:
            UsageError: For anything else.
        """
        if text in FLOATS:
            return FLOAT
        found = _TEXT.fullmatch(text)
        is_ternary = found is not None and found["bits"] is None
        bits = int(found["bits"] or TERNARY_BITS) if found else 0
        is_channel = found is not None and bool(found["channel"])
        has_no_zeros = is_ternary or is_channel
        if not found or not 2 <= bits <= MOST_BITS or (has_no_zeros and found["zero"]):
            raise UsageError(
                f"{text!r} is no format; write float, 2 to 8, ternary, w4a8g32, w4a8g32z with "
                "zero points, or w4a8c with a scale per channel"
            )
        if is_channel:
            return cls._channel(text, bits, found["activation"], is_ternary)
        if found["activation"] == "16":
            raise UsageError(f"{text!r}: activations have 8 bits or stay in float (a32)")
        whole = CODE_BITS if bits == CODE_BITS else activation
        chosen = group if bits < MOST_BITS and found["group"] is None else int(found["group"] or 0)
        return cls(
            bits,
            int(found["activation"] or whole),
            chosen,
            TERNARY if is_ternary else "int",
            not found["zero"],
        )

    @classmethod
    def _channel(cls, text: str, bits: int, activation: str | None, is_ternary: bool) -> "Form":
        if is_ternary or activation not in (None, str(CODE_BITS)):
            raise UsageError(f"{text!r}: a scale per channel goes with integers and a8")
        return INT8 if bits == CODE_BITS else cls(bits, CODE_BITS, 0, CHANNEL)

    def per_channel(self) -> "Form":
        """The form of as many bits that convolutions can have."""
        return INT8 if self.bits == CODE_BITS else Form(self.bits, CODE_BITS, 0, CHANNEL)

    @property
    def is_float(self) -> bool:
        """Whether nothing is changed."""
        return self.bits == FLOAT_BITS

    @property
    def is_grouped(self) -> bool:
        """Whether `quantize-weights` writes it, for linear layers only."""
        return not self.is_float and not self.is_channel

    @property
    def is_channel(self) -> bool:
        """Whether `quantize` writes it."""
        return self == INT8 or self.scheme == CHANNEL

    @property
    def weight_bits(self) -> int:
        """Bits of a weight without its scale; of ternary planes those of both codes."""
        return self.bits * (TERNARY_PLANES if self.scheme == TERNARY else 1)

    def __str__(self) -> str:
        if self.is_float:
            return "float32"
        name = "t" if self.scheme == TERNARY else "w"
        group = f"g{self.group}" if self.group else "c" if self.scheme == CHANNEL else ""
        return f"{name}{self.bits}a{self.activation}{group}{'' if self.symmetric else 'z'}"

    def stored(self) -> Format:
        """How `quantize-weights` stores a weight of this form."""
        if self.scheme == CHANNEL:
            raise AssertionError(f"{self} has no groups")
        return Format(self.scheme, self.bits, self.group, self.symmetric, "mse")

    def rules(self) -> dict[str, str]:
        """What a per-layer rule tells the pass that writes this form."""
        if not self.is_grouped:
            return {"bits": "float" if self.is_float else str(self.bits)}
        return {
            "bits": str(self.bits),
            "group": str(self.group),
            "scheme": self.scheme,
            "symmetric": str(self.symmetric).lower(),
        }

    def restored(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight rounded to nearest, as its codes stand for it: float32 of its shape.

        A weight of more than two dimensions is taken as rows `[out, rest]`.

        Args:
            weight: float32 [out, ...], finite.
        """
        if self.is_float:
            return weight
        if self.is_channel:
            packed = pack(weight, "minmax" if self == INT8 else "mse", self.bits)
            return packed.codes.to(torch.float32).mul_(packed.scale)
        rows = Rows(weight.detach().reshape(weight.shape[0], -1), self.stored())
        way = ternary if self.scheme == TERNARY else nearest
        found, first = torch.empty_like(rows.weight), 0
        for block in rows.blocks(BLOCK_ELEMENTS):
            found[first : first + len(block)] = way(replace(rows, weight=block)).restored()
            first += len(block)
        return found.reshape(weight.shape)

    def nbytes(self, shape: torch.Size) -> int:
        """Bytes on disk of a weight's codes, scales and zero points."""
        rows, features = shape[0], shape[1:].numel()
        if self.is_float:
            return 4 * rows * features
        if self.is_channel:
            return rows * (packed_nbytes(features, self.bits) + SCALE_NBYTES)
        groups = group_count(features, min(self.group or features, features))
        planes = TERNARY_PLANES if self.scheme == TERNARY else 1
        row = planes * (packed_nbytes(features, self.bits) + GROUP_SCALE_NBYTES * groups)
        return rows * (row + (0 if self.symmetric else packed_nbytes(groups, self.bits)))


FLOAT = Form()
INT8 = Form(CODE_BITS, CODE_BITS)
