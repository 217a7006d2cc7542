"""What can be told of a model before anything is computed."""

from collections.abc import Iterable, Iterator

from effc.ir.errors import Unsupported, UnsupportedError
from effc.ir.trace.onnx.call import IMPORT
from effc.ir.trace.onnx.reading import Graph, Model, Node, standard
from effc.ir.trace.onnx.registry import find

KNOWN_DOMAINS = ("", "com.microsoft", "ai.onnx.preview")


def check_operators(model: Model) -> None:
    """Check that there is a function for every operator.

    Raises:
        UnsupportedError: Listing every operator there is none for.
    """
    missing: dict[str, Unsupported] = {}
    graphs = [(model.graph, model.opsets)]
    graphs += [(graph, opsets) for graph, opsets, _ in model.functions.values()]
    for graph, opsets in graphs:
        for node in all_nodes(graph):
            if (node.domain, node.op) in model.functions:
                continue
            version = opsets.get(node.domain, 1)
            if find(node.domain, node.op, version) is None:
                _add(missing, node, version)
    if missing:
        raise UnsupportedError(IMPORT, list(missing.values()))


def _add(missing: dict[str, Unsupported], node: Node, version: int) -> None:
    label = f"{node.domain}.{node.op}" if node.domain else node.op
    known = standard(node.domain) in KNOWN_DOMAINS
    reason = f"effc has no such operator in version {version}" if known else "unknown domain"
    count = missing[label].count + 1 if label in missing else 1
    source = missing[label].source if label in missing else node.name
    missing[label] = Unsupported(label, source, reason, count)


def all_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.nodes:
        yield node
        for value in node.attributes.values():
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, Graph):
                    yield from all_nodes(inner)


def origins(model: Model, names: Iterable[str], inputs: Iterable[str]) -> list[str]:
    """The inputs of a model that some of its values are computed from."""
    makers: dict[str, Node] = {}
    for node in all_nodes(model.graph):
        makers.update(dict.fromkeys(filter(None, node.outputs), node))
    wanted, seen, waiting = set(inputs), set(), list(names)
    found = []
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in wanted:
            found.append(name)
        elif name in makers:
            waiting += _read(makers[name])
    return sorted(found)


def _read(node: Node) -> list[str]:
    captured = [
        name
        for value in node.attributes.values()
        for inner in (value if isinstance(value, list) else [value])
        if isinstance(inner, Graph)
        for name in inner.captured
    ]
    return [*filter(None, node.inputs), *captured]
