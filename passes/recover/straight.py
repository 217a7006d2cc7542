"""Runs a program so that gradients pass through its roundings.

A rounding has derivative 0 almost everywhere. Here its value is exact and its derivative is that of
the same function without rounding, 0 outside the range of codes (the straight-through estimator;
Y. Bengio et al., 2013, arXiv 1308.3432). Codes are floats on the way, so that what moves them
passes gradients on, too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from effc.ir.opspec import op_name
from effc.passes.bits.metrics.running import Exchanged, Values

Arguments = tuple[Any, ...]


class Straight(Exchanged):
    """Runs a graph with some nodes' values exchanged; roundings pass gradients on.

    Args:
        module: What to run.
        known: Values of nodes that are not to be computed.
        seen: Called with a node and its value after it was computed; its result replaces the value.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        known: Values | None = None,
        seen: Callable[[fx.Node, Any], Any] = lambda node, value: value,
    ) -> None:
        super().__init__(module, known or {})
        self._seen = seen

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; one that rounds gets its derivative."""
        smooth = SMOOTH.get(op_name(n))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if smooth is None or not any(isinstance(one, Tensor) and one.requires_grad for one in args):
            return self._seen(n, super().run_node(n))
        return self._seen(n, smooth(n, args, kwargs))


def straight(exact: Tensor, smooth: Tensor) -> Tensor:
    """The value of one with the derivative of another: `exact + smooth - smooth`."""
    return exact.detach().to(smooth.dtype) + (smooth - smooth.detach())


def _detached(args: Arguments) -> Arguments:
    return tuple(one.detach() if isinstance(one, Tensor) else one for one in args)


def _exact(node: fx.Node, args: Arguments, kwargs: dict[str, Any]) -> Any:
    operator: Any = node.target
    return operator(*_detached(args), **kwargs)


def _quantize(node: fx.Node, args: Arguments, kwargs: dict[str, Any]) -> Tensor:
    x, scale, zero_point, qmin, qmax = args[:5]
    shifted = x / scale if zero_point is None else x / scale + zero_point
    return straight(_exact(node, args, kwargs), shifted.clamp(qmin, qmax))


def _quantize_dynamic(node: fx.Node, args: Arguments, kwargs: dict[str, Any]) -> Arguments:
    codes, scale, zero_point = _exact(node, args, kwargs)
    return straight(codes, args[0] / scale + zero_point), scale, zero_point


def _quantize_symmetric(node: fx.Node, args: Arguments, kwargs: dict[str, Any]) -> Arguments:
    codes, scale = _exact(node, args, kwargs)
    return straight(codes, args[0] / scale), scale


def _dequantize(node: fx.Node, args: Arguments, kwargs: dict[str, Any]) -> Tensor:
    codes, scale, zero_point = args
    return (codes if zero_point is None else codes - zero_point) * scale


def _attention(node: fx.Node, args: Arguments, kwargs: dict[str, Any]) -> Tensor:
    """Attention of codes: the derivative is that of attention of what the codes stand for."""
    codes = [one.detach().to(torch.uint8) for one in args[:3]]
    exact = _exact(node, (*codes, *args[3:]), kwargs)
    query, key, value = args[:3]
    query_scale, query_zero, key_scale, value_scale, value_zero = args[3:8]
    mask, is_causal, scale, enable_gqa = args[8:12]
    restored = (query - query_zero) * query_scale, key * key_scale
    smooth = functional.scaled_dot_product_attention(
        *restored,
        (value - value_zero) * value_scale,
        attn_mask=mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )
    return straight(exact, smooth)


SMOOTH: dict[str, Callable[[fx.Node, Arguments, dict[str, Any]], Any]] = {
    "effc.quantize.default": _quantize,
    "effc.quantize_dynamic.default": _quantize_dynamic,
    "effc.quantize_symmetric.default": _quantize_symmetric,
    "effc.dequantize.default": _dequantize,
    "effc.attention_integer.default": _attention,
}
