"""Weights as int8 codes with one scale per output channel or table row."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import ModelError
from effc.ir.ops.quantization import dequantize, quantize
from effc.ir.program import attribute
from effc.passes.calibrate.decibel import sqnr_db

LARGEST = 127
FACTORS = torch.linspace(1.0, 0.7, 31)
WeightObserver = Literal["minmax", "mse"]
TensorKey = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def tensor_key(tensor: torch.Tensor) -> TensorKey:
    """Equal for two tensors that are the same memory read the same way: tied weights."""
    place = tensor.untyped_storage().data_ptr()
    return place, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


@dataclass(frozen=True, eq=False)
class WeightCodes:
    """A weight in int8.

    Attributes:
        codes: int8 of the shape of the weight, -127 to 127.
        scale: float32 [out, 1, ...].
        sqnr_db: Signal to quantization-noise ratio of the weight.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    sqnr_db: float


def pack(weight: torch.Tensor, observer: WeightObserver = "minmax") -> WeightCodes:
    """Quantize a weight symmetrically, one scale per slice of its first dimension.

    `scale = largest magnitude / 127`, or with `observer="mse"` the multiple of it from 0.7 to 1 of
    least squared error; a channel of zeros (or of subnormal numbers) gets scale 1.
    `codes = clamp(round_half_even(weight * (1 / scale)), -127, 127)`, as `effc.quantize` defines it.

    Args:
        weight: float32 [out, ...], finite.
        observer: How the range of a channel is chosen.
    """
    rows = weight.detach().reshape(weight.shape[0], -1)
    scale = _scale(rows.abs().amax(1, keepdim=True))
    if observer == "mse":
        scale = _least_error(rows, scale)
    shaped = scale.reshape(-1, *[1] * (weight.dim() - 1))
    codes = quantize(weight.detach(), shaped, None, -LARGEST, LARGEST, torch.int8)
    restored = dequantize(codes, shaped, None)
    return WeightCodes(codes, shaped, sqnr_db(_energy(weight), _energy(weight - restored)))


@dataclass
class WeightPacker:
    """Packs the weights of one program; tied weights are packed once.

    Attributes:
        observer: How the range of a channel is chosen.
    """

    observer: WeightObserver
    _packed: dict[TensorKey, WeightCodes] = field(default_factory=dict)
    _nodes: dict[tuple[fx.Graph, TensorKey], tuple[fx.Node, fx.Node]] = field(default_factory=dict)

    def of(self, module: fx.GraphModule, weight: fx.Node, layer: str) -> WeightCodes:
        """The codes of a weight.

        Raises:
            ModelError: If the weight holds NaN or infinite values.
        """
        tensor = attribute(module, str(weight.target))
        key = tensor_key(tensor)
        if key not in self._packed:
            if not bool(torch.isfinite(tensor).all()):
                where = f"weight {weight.target} of {layer}"
                raise ModelError(f"{where} holds NaN or infinite values; it cannot be quantized")
            self._packed[key] = pack(tensor, self.observer)
        return self._packed[key]

    def nodes(self, editor: Editor, weight: fx.Node, layer: str) -> tuple[fx.Node, fx.Node]:
        """Nodes that read the codes and the scale of a weight, named after it."""
        found = self.of(editor.module, weight, layer)
        place = editor.graph, tensor_key(attribute(editor.module, str(weight.target)))
        if place not in self._nodes:
            self._nodes[place] = (
                editor.weight(f"{weight.target}_codes", found.codes, like=weight),
                editor.weight(f"{weight.target}_scale", found.scale, like=weight),
            )
        return self._nodes[place]


def _scale(largest: torch.Tensor) -> torch.Tensor:
    scale = largest / LARGEST
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)


def _least_error(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The multiple of each row's scale of least squared error; [out, 1]."""
    best, least = scale, torch.full_like(scale, torch.inf, dtype=torch.float64)
    for factor in FACTORS:
        tried = scale * factor
        restored = dequantize(quantize(rows, tried, None, -LARGEST, LARGEST, torch.int8), tried, None)
        error = (rows - restored).double().square().sum(1, keepdim=True)
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best


def _energy(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().square().sum())
