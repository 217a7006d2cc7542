"""Weights as codes of 2 to 8 bits with one scale per output channel or table row."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import ModelError
from effc.ir.ops.quantization import dequantize, quantize
from effc.ir.ops.stored import pack_signed
from effc.ir.program import attribute
from effc.passes.calibrate.decibel import sqnr_db

LARGEST = 127
WIDE = 8
FACTORS = (1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7)
NARROW_FACTORS = (*FACTORS, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4)
BLOCK_ELEMENTS = 1 << 16
WeightObserver = Literal["minmax", "mse"]
TensorKey = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def tensor_key(tensor: torch.Tensor) -> TensorKey:
    """Equal for two tensors that are the same memory read the same way: tied weights."""
    place = tensor.untyped_storage().data_ptr()
    return place, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


def is_finite(weight: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite, without another tensor of the weight's size."""
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(weight))


@dataclass(frozen=True, eq=False)
class WeightCodes:
    """A weight in int8.

    Attributes:
        codes: int8 of the shape of the weight, `-largest` to `largest`.
        scale: float32 [out, 1, ...].
        sqnr_db: Signal to quantization-noise ratio of the weight.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    sqnr_db: float


def pack(
    weight: torch.Tensor, observer: WeightObserver = "minmax", bits: int = WIDE
) -> WeightCodes:
    """Quantize a weight symmetrically, one scale per slice of its first dimension.

    `largest = 2 ** (bits - 1) - 1` and `scale = largest magnitude / largest`, or with
    `observer="mse"` the multiple of it from 0.7 (below 8 bits 0.4) to 1 of least squared error; a
    channel of zeros (or of subnormal numbers) gets scale 1.
    `codes = clamp(round_half_even(weight * (1 / scale)), -largest, largest)`, as in
    `effc.quantize`.

    Args:
        weight: float32 [out, ...], finite.
        observer: How the range of a channel is chosen.
        bits: Width of a code, 2 to 8.
    """
    largest = (1 << (bits - 1)) - 1
    rows = weight.detach().reshape(weight.shape[0], -1)
    codes = torch.empty(rows.shape, dtype=torch.int8)
    scale = torch.empty(len(rows), 1)
    signal = noise = 0.0
    step = max(1, BLOCK_ELEMENTS // max(rows.shape[1], 1))
    for first in range(0, len(rows), step):  # a table at once would take its memory several times
        block, own = rows[first : first + step], slice(first, first + step)
        scale[own] = _scale(block.abs().amax(1, keepdim=True), largest)
        if observer == "mse":
            scale[own] = _least_error(block, scale[own], largest)
        codes[own] = quantize(block, scale[own], None, -largest, largest, torch.int8)
        signal += _energy(block)
        noise += _energy(block - dequantize(codes[own], scale[own], None))
    shaped = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return WeightCodes(codes.reshape(weight.shape), shaped, sqnr_db(signal, noise))


@dataclass
class WeightPacker:
    """Packs the weights of one program; tied weights are packed once.

    Attributes:
        observer: How the range of a channel is chosen; `auto` is `mse` below 8 bits, else `minmax`.
    """

    observer: WeightObserver | Literal["auto"]
    _packed: dict[tuple[TensorKey, int], WeightCodes] = field(default_factory=dict)
    _nodes: dict[tuple[fx.Graph, TensorKey, int], tuple[fx.Node, fx.Node]] = field(
        default_factory=dict
    )

    def of(
        self, module: fx.GraphModule, weight: fx.Node, layer: str, bits: int = WIDE
    ) -> WeightCodes:
        """The codes of a weight.

        Raises:
            ModelError: If the weight holds NaN or infinite values.
        """
        tensor = attribute(module, str(weight.target))
        key = tensor_key(tensor), bits
        if key not in self._packed:
            if not is_finite(tensor):
                where = f"weight {weight.target} of {layer}"
                raise ModelError(f"{where} holds NaN or infinite values; it cannot be quantized")
            self._packed[key] = pack(tensor, self._observer(bits), bits)
        return self._packed[key]

    def nodes(
        self, editor: Editor, weight: fx.Node, layer: str, bits: int = WIDE
    ) -> tuple[fx.Node, fx.Node]:
        """Nodes that give the codes and the scale of a weight, named after it."""
        found = self.of(editor.module, weight, layer, bits)
        place = editor.graph, tensor_key(attribute(editor.module, str(weight.target))), bits
        if place not in self._nodes:
            self._nodes[place] = (
                _codes_node(editor, weight, found.codes, bits),
                editor.weight(f"{weight.target}_scale", found.scale, like=weight),
            )
        return self._nodes[place]

    def _observer(self, bits: int) -> WeightObserver:
        if self.observer != "auto":
            return self.observer
        return "minmax" if bits == WIDE else "mse"


def _codes_node(editor: Editor, weight: fx.Node, codes: torch.Tensor, bits: int) -> fx.Node:
    """A node that reads codes, or unpacks those of fewer bits."""
    path = f"{weight.target}_codes"
    if bits == WIDE:
        return editor.weight(path, codes, like=weight)
    stored = editor.weight(path, pack_signed(codes, bits), like=weight)
    unpack, shape = torch.ops.effc.unpack_signed.default, list(codes.shape[1:])
    return editor.call(stored, unpack, stored, bits, shape)


def _scale(magnitude: torch.Tensor, largest: int) -> torch.Tensor:
    scale = magnitude / largest
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)


def _least_error(rows: torch.Tensor, scale: torch.Tensor, largest: int) -> torch.Tensor:
    """The multiple of each row's scale of least squared error; [rows, 1]."""
    factors = FACTORS if largest == LARGEST else NARROW_FACTORS
    tried = [scale.numpy() * np.float32(factor) for factor in factors]
    chosen = np.argmin([_squared_error(rows.numpy(), one, largest) for one in tried], axis=0)
    return torch.from_numpy(np.take_along_axis(np.stack(tried), chosen[None, :, None], axis=0)[0])


def _squared_error(rows: np.ndarray, scale: np.ndarray, largest: int) -> np.ndarray:
    codes = np.rint(rows * np.reciprocal(scale))
    np.clip(codes, -largest, largest, out=codes)
    codes *= scale
    codes -= rows
    return np.asarray(np.einsum("ij,ij->i", codes, codes, dtype=np.float64))


def _energy(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().square().sum())
