"""Evaluates a graph node by node; what is known in advance is computed at once.

While torch traces a model, values that depend on its inputs are fake tensors and end up in the
graph; real tensors are constants, and operators that read only those run outside of the trace.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx.traceback import annotate, preserve_node_meta

from effc.ir.errors import EffcError, ModelError
from effc.ir.provenance import SOURCE
from effc.ir.trace.failures import one_line
from effc.ir.trace.onnx import registry
from effc.ir.trace.onnx.call import Call, NeedsValueError, Sizes, is_known, outside_tracing
from effc.ir.trace.onnx.elements import BY_DTYPE, ELEMENTS
from effc.ir.trace.onnx.limits import Limited
from effc.ir.trace.onnx.reading import Graph, Model, Node, Reference
from effc.ir.trace.onnx.size_values import fold_sizes
from effc.ir.trace.onnx.sparse import dense
from effc.ir.trace.onnx.tensors import tensor_of

STEP_LIMIT = 200_000


@dataclass
class Scope:
    """Values of one graph by name.

    Attributes:
        values: What has been computed.
        types: ONNX's element type of values whose torch type is wider.
        graph: For its initializers, read when needed.
        outer: The scope around it.
        attributes: Of the caller, in the body of a function.
        opsets: Versions its nodes use.
    """

    graph: Graph
    opsets: dict[str, int]
    outer: "Scope | None" = None
    values: dict[str, Any] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


class Interpreter:
    """Evaluates a model.

    Args:
        model: What to evaluate.

    Attributes:
        constants: Names of known values by the address of their data.
        sources: Graph inputs each value depends on are found through the nodes read so far.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.constants: dict[int, str] = {}
        self.steps = 0
        self._path: list[str] = []

    def evaluate(self, inputs: dict[str, Any]) -> list[Any]:
        """Values of the main graph's outputs.

        Raises:
            ModelError: Naming the node and operator that do not work.
            UnsupportedError: Naming the node and operator that are not supported.
            NeedsValueError: If a value must be known in advance.
        """
        scope = Scope(self.model.graph, self.model.opsets)
        self._give(scope, inputs)
        with preserve_node_meta():
            return self._graph(scope)

    def _give(self, scope: Scope, inputs: dict[str, Any]) -> None:
        scope.values.update(inputs)
        for value in scope.graph.inputs:
            name = value if isinstance(value, str) else value.name
            kind = 0 if isinstance(value, str) else value.type.tensor_type.elem_type
            if kind in ELEMENTS and ELEMENTS[kind].is_narrow:
                scope.types[name] = kind

    def _graph(self, scope: Scope) -> list[Any]:
        for node in scope.graph.nodes:
            self.steps += 1
            if self.steps > STEP_LIMIT:
                raise ModelError(f"the model unrolls to more than {STEP_LIMIT} nodes")
            with self._located(node, scope):
                self._node(node, scope)
        return [self._value(name, scope) if name else None for name in scope.graph.outputs]

    @contextmanager
    def _located(self, node: Node, scope: Scope) -> Iterator[None]:
        """Say at which node something went wrong."""
        label = f"node {node.name} ({node.op})"
        try:
            yield
        except NeedsValueError as error:
            if not error.reads:
                error.args = (f"{label} needs {error}",)
            if not error.reads or (node.domain, node.op) in self.model.functions:
                error.reads += self._unknown(node, scope, error.value)
            raise
        except ModelError as error:
            if not getattr(error, "is_located", False):
                error.args = (f"{label}: {error}",)
                error.is_located = True  # type: ignore[attr-defined]
            raise
        except EffcError:
            raise
        except Exception as error:  # torch raises whatever its operators raise
            located = ModelError(f"{label}: {one_line(error)}")
            located.is_located = True  # type: ignore[attr-defined]
            raise located from error

    def _unknown(self, node: Node, scope: Scope, value: Any) -> list[str]:
        """Names of a node's inputs that are a value, or of all that are not known in advance."""
        given = [(name, self._value(name, scope)) for name in node.inputs if name]
        exact = [name for name, found in given if found is value]
        return exact or [name for name, found in given if not is_known(found)]

    def _value(self, name: str, scope: Scope) -> Any:
        """A value by name, in this scope or one around it."""
        place: Scope | None = scope
        while place is not None:
            if name in place.values:
                return place.values[name]
            if name in place.graph.initializers:
                place.values[name] = self._initializer(name, place)
                return place.values[name]
            place = place.outer
        raise ModelError(f"nothing computes {name}")

    def _initializer(self, name: str, scope: Scope) -> torch.Tensor:
        proto = scope.graph.initializers[name]
        with outside_tracing():
            if not hasattr(proto, "data_type"):
                return self._remember(name, dense(proto, self.model.folder))
            tensor = tensor_of(proto, self.model.folder)
        if ELEMENTS[proto.data_type].is_narrow:
            scope.types[name] = proto.data_type
        return self._remember(name, tensor)

    def _remember(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        self.constants.setdefault(tensor.untyped_storage().data_ptr(), name)
        return tensor

    def _type(self, name: str, scope: Scope) -> int:
        place: Scope | None = scope
        while place is not None:
            if name in place.types:
                return place.types[name]
            if name in place.values:
                value = place.values[name]
                return BY_DTYPE.get(value.dtype, 0) if isinstance(value, torch.Tensor) else 0
            place = place.outer
        return 0

    def _node(self, node: Node, scope: Scope) -> None:
        inputs = [self._value(name, scope) if name else None for name in node.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        attributes = _resolved(node.attributes, scope)
        version = scope.opsets.get(node.domain, 1)
        body = self.model.functions.get((node.domain, node.op))
        if body is not None:
            results = self._function(node, inputs, attributes, body)
            self._store(node, results, scope, {})
            return
        call = Call(node.op, node.domain, version, node.name, attributes, node.outputs)
        call.elements = [self._type(name, scope) if name else 0 for name in node.inputs]
        call.run = lambda graph, given: self._subgraph(graph, given, scope, node)
        results = self._called(call, inputs, node)
        self._store(node, results, scope, call.results)

    def _called(self, call: Call, inputs: list[Any], node: Node) -> Any:
        folded = fold_sizes(call, inputs)
        if folded is not None:
            return folded
        operator = registry.look_up(call)
        has_graph = any(isinstance(value, Graph) for value in call.attributes.values())
        if operator.is_folded and not has_graph and all(map(is_known, inputs)):
            with outside_tracing(), Limited():  # type: ignore[no-untyped-call]
                return operator.function(call, *inputs)
        accepted = operator.sizes
        inputs = [
            value.tensor() if isinstance(value, Sizes) and position not in accepted else value
            for position, value in enumerate(inputs)
        ]
        with annotate({SOURCE: "/".join([*self._path, node.name])}):
            return operator.function(call, *inputs)

    def _subgraph(self, graph: Graph, given: Sequence[Any], scope: Scope, node: Node) -> list[Any]:
        inner = Scope(graph, scope.opsets, scope, attributes=scope.attributes)
        names = [value.name for value in graph.inputs]
        if len(given) > len(names):
            raise ModelError(f"its graph takes {len(names)} inputs, not {len(given)}")
        self._give(inner, dict(zip(names, given, strict=False)))
        self._path.append(node.name)
        results = self._graph(inner)
        self._path.pop()
        return results

    def _function(
        self,
        node: Node,
        inputs: list[Any],
        attributes: dict[str, Any],
        body: tuple[Graph, dict[str, int], dict[str, Any]],
    ) -> tuple[Any, ...]:
        """Evaluate the body of a function in place of a call."""
        graph, opsets, defaults = body
        if len(self._path) > len(self.model.functions) + 64:
            raise ModelError("the model's functions call each other in a circle")
        inner = Scope(graph, opsets, attributes={**defaults, **attributes})
        padded = [*inputs, *[None] * (len(graph.inputs) - len(inputs))]
        inner.values.update(zip(graph.inputs, padded, strict=False))
        self._path.append(node.name)
        results = self._graph(inner)
        self._path.pop()
        return tuple(results)

    def _store(self, node: Node, results: Any, scope: Scope, types: dict[int, int]) -> None:
        values = list(results) if isinstance(results, tuple) else [results]
        for position, (name, value) in enumerate(zip(node.outputs, values, strict=False)):
            if not name:
                continue
            scope.values[name] = value
            if position in types:
                scope.types[name] = types[position]
            if type(value) is torch.Tensor:
                self._remember(name, value)
        for name in node.outputs[len(values) :]:
            if name:
                raise ModelError(f"it has no result {name}")


def _resolved(attributes: dict[str, Any], scope: Scope) -> dict[str, Any]:
    """Attributes with references replaced by what the caller of the function gave."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if not isinstance(value, Reference):
            found[name] = value
        elif value.name in scope.attributes:
            found[name] = scope.attributes[value.name]
    return found
