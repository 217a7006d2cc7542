"""Parts of a program that take one format: a weight, and every layer that reads it."""

from dataclasses import dataclass

import torch
from torch import fx

from effc.ir.program import Program, attribute
from effc.passes.bits.layers import Layer
from effc.passes.bits.weights import TensorKey, tensor_key


@dataclass(frozen=True, eq=False)
class Part:
    """One weight.

    Attributes:
        name: Of the first layer that reads it.
        layers: All that read it.
        sources: The nodes that read the tensor from the program.
        weight: float32 [out, ...].
    """

    name: str
    layers: tuple[Layer, ...]
    sources: tuple[fx.Node, ...]
    weight: torch.Tensor

    @property
    def products(self) -> tuple[Layer, ...]:
        """The layers that multiply by the weight, instead of looking rows up."""
        return tuple(layer for layer in self.layers if layer.kind != "embedding")

    @property
    def is_linear(self) -> bool:
        """Whether linear layers, and nothing else, read the weight."""
        readers = {layer.node for layer in self.layers if layer.kind == "linear"}
        return all(user in readers for source in self.sources for user in source.users)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the layers, each once."""
        return tuple(dict.fromkeys(layer.name for layer in self.layers))


def parts_of(program: Program, layers: tuple[Layer, ...]) -> list[Part]:
    """Layers of the method `forward`, those of tied weights together, in graph order."""
    module = program.forward
    grouped: dict[TensorKey, list[Layer]] = {}
    for layer in layers:
        key = tensor_key(attribute(module, str(layer.weight.target)))
        grouped.setdefault(key, []).append(layer)
    sources: dict[TensorKey, list[fx.Node]] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        sources.setdefault(tensor_key(attribute(module, str(node.target))), []).append(node)
    taken: dict[str, int] = {}
    parts = []
    for key, readers in grouped.items():
        name = readers[0].name
        taken[name] = taken.get(name, 0) + 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        weight = attribute(module, str(readers[0].weight.target)).detach()
        parts.append(Part(name, tuple(readers), tuple(sources[key]), weight))
    return parts
