"""Convolutions."""

from typing import Any

from torch import fx

from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.pooling import batched, listed, unbatched
from effc.ir.export.onnx.rules import Arguments, Rule


def _convolution(count: int) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x, is_single = batched(graph, given["input"], count)
        dilations = listed(given["dilation"], count)
        pads = _pads(graph, given, dilations, count)
        found = graph.op(
            "Conv", x, *_weights(graph, given), strides=listed(given["stride"], count), pads=pads,
            dilations=dilations, group=given["groups"],
        )  # fmt: skip
        return unbatched(graph, found, is_single)

    return rule


def _weights(graph: Graph, given: Arguments) -> list[str]:
    names = ("weight", "bias")
    return [graph.value(given[name]) for name in names if given[name] is not None]


def _pads(graph: Graph, given: Arguments, dilations: list[int], count: int) -> list[int]:
    padding = given["padding"]
    if padding == "valid":
        return [0] * 2 * count
    if padding == "same":
        kernel = graph.shape_of(given["weight"])[2:]
        total = [
            dilation * (int(size) - 1) for dilation, size in zip(dilations, kernel, strict=True)
        ]
        return [*(width // 2 for width in total), *(width - width // 2 for width in total)]
    sides = listed(padding, count)
    return [*sides, *sides]


def _transposed(count: int) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x, is_single = batched(graph, given["input"], count)
        sides = listed(given["padding"], count)
        found = graph.op(
            "ConvTranspose", x, *_weights(graph, given), strides=listed(given["stride"], count),
            pads=[*sides, *sides], dilations=listed(given["dilation"], count),
            output_padding=listed(given["output_padding"], count), group=given["groups"],
        )  # fmt: skip
        return unbatched(graph, found, is_single)

    return rule


def _general(graph: Graph, node: fx.Node, given: Arguments) -> Any:
    count = len(graph.shape_of(given["weight"])) - 2
    if not 1 <= count <= 3:
        raise RefusedError(f"a convolution of {count} dimensions has no form here")
    return (_transposed if given["transposed"] else _convolution)(count)(graph, node, given)


TABLE: dict[str, Rule] = {
    **{f"aten.conv{count}d.default": _convolution(count) for count in (1, 2, 3)},
    **{f"aten.conv{count}d.padding": _convolution(count) for count in (1, 2)},
    "aten.conv_transpose1d.default": _transposed(1),
    "aten.conv_transpose2d.input": _transposed(2),
    "aten.conv_transpose3d.input": _transposed(3),
    "aten.convolution.default": _general,
}
