"""Reading a model: bytes to messages, messages to graphs in an order that can be evaluated."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effc.ir.errors import ModelError

INSTALL = 'ONNX models need the package onnx: pip install "effc[onnx]"'
STANDARD = ("", "ai.onnx")
LARGEST_VERSION = 28
PROBLEM_LENGTH = 160


@dataclass(frozen=True, eq=False)
class Node:
    """A node with decoded attributes.

    Attributes:
        op: Operator type.
        domain: Its domain; the standard one is empty.
        name: Its own name, or one made of its operator and first result.
        inputs: Names of what it reads, empty where an optional input is missing.
        outputs: Names of what it computes.
        attributes: By name; graphs are `Graph`, references to a function's attributes `Reference`.
        proto: The message.
    """

    op: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    proto: Any


@dataclass(frozen=True)
class Reference:
    """An attribute of a node in a function that is an attribute of the function's caller."""

    name: str


@dataclass(eq=False)
class Graph:
    """Nodes in an order in which each reads only what is there.

    Attributes:
        name: For messages.
        inputs: Messages that describe the inputs; for functions, names.
        outputs: Names of the results.
        initializers: Messages of tensors by name.
        nodes: In order.
        captured: Names it reads from graphs around it.
        types: Messages that describe values by name.
    """

    name: str
    inputs: list[Any]
    outputs: list[str]
    initializers: dict[str, Any]
    nodes: list[Node]
    captured: set[str] = field(default_factory=set)
    types: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Model:
    """A model.

    Attributes:
        graph: Its main graph.
        opsets: Version by domain.
        functions: Bodies by domain and name, with the versions they import.
        folder: Where external data lie, or None.
    """

    graph: Graph
    opsets: dict[str, int]
    functions: dict[tuple[str, str], tuple[Graph, dict[str, int], dict[str, Any]]]
    folder: Path | None


def onnx_package() -> Any:
    """The onnx package.

    Raises:
        ModelError: If it is not installed, saying how to get it.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelError(INSTALL) from error
    return onnx


def read_file(path: Path) -> Model:
    """Read a model file.

    Raises:
        ModelError: If it is damaged.
    """
    package = onnx_package()
    proto = package.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf's own error types depend on how it is built
        raise ModelError(f"{path} is a damaged ONNX model: {error}") from error
    return read_model(proto, path.parent)


def read_model(proto: Any, folder: Path | None = None) -> Model:
    """Check and decode a ModelProto.

    Raises:
        ModelError: Naming the node that reads what nothing computes, or the version not known.
    """
    opsets = _opsets(proto.opset_import)
    try:
        functions = {
            (standard(one.domain), one.name): (
                _function(one),
                {**opsets, **_opsets(one.opset_import)},
                {a.name: _attribute(a) for a in one.attribute_proto},
            )
            for one in proto.functions
        }
        graph = graph_of(proto.graph, set())
    except RecursionError as error:
        raise ModelError("the model's graphs are nested too deeply") from error
    if graph.captured:
        raise ModelError(f"nothing computes {', '.join(sorted(graph.captured))}")
    return Model(graph, opsets, functions, folder)


def standard(domain: str) -> str:
    """A domain, the standard one as an empty text."""
    return "" if domain in STANDARD else domain


def _opsets(imports: Iterable[Any]) -> dict[str, int]:
    found = {standard(_texts(one.domain)[0]): int(one.version) for one in imports}
    if not 1 <= found.setdefault("", 1) <= LARGEST_VERSION:
        raise ModelError(
            f"the model uses operator set {found['']}; effc knows 1..{LARGEST_VERSION}"
        )
    return found


def graph_of(proto: Any, outer: set[str]) -> Graph:
    """Decode a graph and sort its nodes.

    Raises:
        ModelError: If nodes depend on each other in a circle, or two compute the same value.
    """
    initializers = {tensor.name: tensor for tensor in proto.initializer}
    for sparse in proto.sparse_initializer:
        initializers[sparse.values.name] = sparse
    given = set(_texts(*[value.name for value in proto.input], *initializers))
    nodes = [_node(one) for one in proto.node]
    outputs = _texts(*[value.name for value in proto.output])
    types = {v.name: v for part in (proto.input, proto.output, proto.value_info) for v in part}
    nodes, captured = _sorted(nodes, given, outputs)
    graph = Graph(
        _texts(proto.name)[0], list(proto.input), outputs, initializers, nodes, captured, types
    )
    return graph


def _function(proto: Any) -> Graph:
    _texts(proto.name, proto.domain, *proto.input, *proto.output)
    nodes, captured = _sorted([_node(n) for n in proto.node], set(proto.input), list(proto.output))
    if captured:
        raise ModelError(f"function {proto.name}: nothing computes {', '.join(sorted(captured))}")
    return Graph(proto.name, list(proto.input), list(proto.output), {}, nodes)


def _texts(*names: Any) -> list[str]:
    """Names, which protobuf gives as bytes where they are not UTF-8.

    Raises:
        ModelError: If one is.
    """
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"the model is damaged: the name {name!r} is not text")
    return list(names)


def _node(proto: Any) -> Node:
    op, domain, name = _texts(proto.op_type, proto.domain, proto.name)
    inputs, outputs = _texts(*proto.input), _texts(*proto.output)
    _texts(*[one.name for one in proto.attribute])
    attributes = {one.name: _attribute(one) for one in proto.attribute}
    name = name or next((output for output in outputs if output), op)
    return Node(op, standard(domain), name, inputs, outputs, attributes, proto)


def _attribute(proto: Any) -> Any:
    """An attribute as a Python value; by its field where its type is not given."""
    if proto.ref_attr_name:
        return Reference(proto.ref_attr_name)
    match proto.type:
        case 1:
            return proto.f
        case 2:
            return int(proto.i)
        case 3:
            return proto.s.decode(errors="replace")
        case 4:
            return proto.t
        case 5:
            return graph_of(proto.g, set())
        case 6:
            return list(proto.floats)
        case 7:
            return [int(one) for one in proto.ints]
        case 8:
            return [one.decode(errors="replace") for one in proto.strings]
        case 9:
            return list(proto.tensors)
        case 10:
            return [graph_of(one, set()) for one in proto.graphs]
        case 11:
            return proto.sparse_tensor
        case 13:
            return proto.tp
    raise ModelError(f"attribute {proto.name} has the unknown type {proto.type}")


def _reads(node: Node) -> set[str]:
    """What a node reads from its own graph and those around it."""
    found = {name for name in node.inputs if name}
    for value in node.attributes.values():
        for graph in value if isinstance(value, list) else [value]:
            if isinstance(graph, Graph):
                found |= graph.captured
    return found


def _sorted(nodes: list[Node], given: set[str], outputs: list[str]) -> tuple[list[Node], set[str]]:
    """Nodes after all they read, in the given order where it is free; and what none computes."""
    made: dict[str, Node] = {}
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in made or name in given:
                raise ModelError(f"node {node.name} ({node.op}) computes {name}, which exists")
            made[name] = node
    waiting = {node: {made[n] for n in _reads(node) if n in made} for node in nodes}
    readers: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node, needed in waiting.items():
        for other in needed:
            readers[other].append(node)
    order: list[Node] = []
    position = {node: number for number, node in enumerate(nodes)}
    ready = [node for node in reversed(nodes) if not waiting[node]]
    while ready:
        node = ready.pop()
        order.append(node)
        released = []
        for reader in readers[node]:
            waiting[reader].discard(node)
            if not waiting[reader]:
                released.append(reader)
        ready += sorted(set(released), key=lambda n: -position[n])
    if len(order) < len(nodes):
        stuck = next(node for node in nodes if waiting[node])
        raise ModelError(f"node {stuck.name} ({stuck.op}) is part of a cycle")
    read = set().union(*map(_reads, nodes), filter(None, outputs))
    return order, read - given - made.keys()
