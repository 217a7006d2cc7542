"""Runs a program's method `forward` with some of its weights and activations exchanged."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from effc.passes.bits import weights
from effc.passes.bits.activations import IMAGE, LARGEST, ROW
from effc.passes.bits.forms import FLOAT_BITS, Form
from effc.passes.bits.layers import Layer
from effc.passes.bits.metrics.parts import Part

VIEW = torch.ops.aten.view.default
Values = dict[fx.Node, Any]


class Exchanged(fx.Interpreter):
    """Runs a graph; some nodes have other values, some layers read rounded activations.

    Args:
        module: What to run.
        known: Values of nodes that are not to be computed.
        rounded: Layers whose input is rounded to 8 bits, with the form that says how.
        keep: Whether all values are kept in `env`.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        known: Values,
        rounded: Sequence[tuple[Layer, Form]] = (),
        keep: bool = False,
    ) -> None:
        super().__init__(module, garbage_collect_values=not keep)
        self._known = known
        self._rounded = {layer.node: (layer, form) for layer, form in rounded}

    def outputs(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run; the tensors of the output."""
        results = self.run(*inputs, initial_env=dict(self._known), enable_io_processing=False)
        return [value for value in results if isinstance(value, torch.Tensor)]

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator; a view of what other kernels laid out otherwise becomes a copy."""
        chosen = torch.ops.aten.reshape.default if target == VIEW else target
        return super().call_function(chosen, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, reading a rounded activation where it is one of those layers."""
        found = self._rounded.get(n)
        if found is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = rounded(args[0], *found)
        target: Any = n.target
        return self.call_function(target, (value, *args[1:]), kwargs)


def rounded(value: torch.Tensor, layer: Layer, form: Form) -> torch.Tensor:
    """An activation in 8 bits with a scale per image or row, as the pass that writes it has it."""
    dims = IMAGE if layer.kind == "conv2d" else ROW
    if form.is_grouped:
        limits = (list(dims), weights.LARGEST, torch.int8)
        codes, scale = torch.ops.effc.quantize_symmetric(value, *limits)
        found: torch.Tensor = torch.ops.effc.dequantize(codes, scale, None)
        return found
    parts = torch.ops.effc.quantize_dynamic(value, list(dims), 0, LARGEST, torch.uint8)
    result: torch.Tensor = torch.ops.effc.dequantize(*parts)
    return result


def exchanged_weights(parts: Mapping[Part, torch.Tensor]) -> Values:
    """Values of the nodes that read some parts' weights."""
    return {node: weight for part, weight in parts.items() for node in part.sources}


def with_forms(
    module: fx.GraphModule,
    forms: Mapping[Part, Form],
    inputs: Sequence[torch.Tensor],
    before: Values | None = None,
) -> list[torch.Tensor]:
    """Outputs with some parts in other formats, as `with_weights`."""
    return with_weights(module, forms, restored(forms), inputs, before)


def restored(forms: Mapping[Part, Form]) -> dict[Part, torch.Tensor]:
    """The weights of some parts, rounded to nearest."""
    return {part: form.restored(part.weight) for part, form in forms.items()}


def with_weights(
    module: fx.GraphModule,
    forms: Mapping[Part, Form],
    weights: Mapping[Part, torch.Tensor],
    inputs: Sequence[torch.Tensor],
    before: Values | None = None,
) -> list[torch.Tensor]:
    """Outputs with some parts in other formats.

    Args:
        module: What to run.
        forms: A format by part; parts not named stay in float.
        weights: Of these parts, rounded.
        inputs: In the order of the signature.
        before: Values of a run in float on these inputs; what no change reaches is taken from it.
    """
    known = exchanged_weights(weights)
    if before is not None:
        known = {**_unreached(module, set(known), forms, before), **known}
    lowered = [
        (layer, form)
        for part, form in forms.items()
        if form.activation < FLOAT_BITS
        for layer in part.products
    ]
    with torch.no_grad():
        return Exchanged(module, known, lowered).outputs(inputs)


def _unreached(
    module: fx.GraphModule, weights: set[fx.Node], forms: Mapping[Part, Form], before: Values
) -> Values:
    """Values of a run in float that the new formats do not change and that are still read."""
    reached = {layer.node for part in forms for layer in part.layers} | weights
    for node in module.graph.nodes:
        if any(read in reached for read in node.all_input_nodes):
            reached.add(node)
    return {node: value for node, value in before.items() if node not in reached}


def differentiable() -> Any:
    """Attention whose derivatives have derivatives."""
    return sdpa_kernel(SDPBackend.MATH)
