"""What effc writes into its own `.pt2` files beside torch's description: the names users know."""

import json
import operator
from dataclasses import asdict, dataclass, field

import torch
from torch import fx

from effc.ir.errors import ModelError
from effc.ir.program import FORWARD, Program
from effc.ir.symbols import Symbol

FILE = "effc.json"
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """Names that torch's format does not keep.

    Attributes:
        name: What the user calls the model.
        inputs: Names of the inputs in order.
        outputs: Names of the outputs in order.
        dims: Name of each symbolic input dimension by `<input number>.<position>`.
        symbols: Smallest and largest value of each symbol, in the program's order.
        weights: Order in which the graph reads its weights.
        format: Version of this record.
    """

    name: str
    inputs: list[str]
    outputs: list[str]
    dims: dict[str, str]
    symbols: dict[str, list[int]]
    weights: list[str]
    format: int = field(default=FORMAT)


def record_of(program: Program) -> Record:
    """The record of a program with the single method `forward`."""
    signature = program.signature
    dims = {
        f"{number}.{position}": size.name
        for number, spec in enumerate(signature.inputs)
        for position, size in enumerate(spec.shape)
        if not isinstance(size, int) and size.is_Symbol
    }
    return Record(
        program.name,
        [spec.name for spec in signature.inputs],
        [spec.name for spec in signature.outputs],
        dims,
        {name: [symbol.minimum, symbol.maximum] for name, symbol in program.symbols.items()},
        [node.target for node in program.forward.graph.find_nodes(op="get_attr")],
    )


def to_json(record: Record) -> str:
    """The record as text."""
    return json.dumps(asdict(record))


def from_json(text: str) -> Record:
    """Read a record, trusting nothing in it.

    Raises:
        ModelError: If it is not a record this version of effc writes.
    """
    try:
        found = json.loads(text)
        record = Record(**found)
        is_valid = (
            record.format == FORMAT
            and isinstance(record.name, str)
            and _are_strings([*record.inputs, *record.outputs, *record.weights])
            and _are_strings([*record.dims, *record.dims.values(), *record.symbols])
            and all(name.isidentifier() for name in record.dims.values())
            and all(_is_range(*bounds) for bounds in record.symbols.values())
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"the record {FILE} is damaged: {error}") from error
    if not is_valid:
        raise ModelError(f"the record {FILE} is damaged or of another version of effc")
    return record


def restore(program: Program, record: Record) -> None:
    """Give a program loaded from a file the order it had when it was written."""
    for name in [name for name in record.symbols if name in program.symbols]:
        low, high = record.symbols[name]
        del program.symbols[name]
        program.symbols[name] = Symbol(name, low, high)
    nodes = program.forward.graph.find_nodes(op="get_attr")
    ranks = {target: rank for rank, target in enumerate(record.weights)}
    ordered = sorted(nodes, key=lambda node: ranks.get(str(node.target), len(ranks)))
    _reorder(program.forward.graph, ordered)
    _drop_unused_items(program.forward.graph)
    program.forward.recompile()


def examples_by_name(program: Program) -> dict[str, torch.Tensor]:
    """The program's example inputs by name; empty where it has none."""
    examples = program.examples.get(FORWARD, ())
    names = [spec.name for spec in program.signature.inputs]
    return dict(zip(names, examples, strict=False))


def _reorder(graph: fx.Graph, weights: list[fx.Node]) -> None:
    """Put nodes that read weights right after the inputs, in the order given."""
    inputs = graph.find_nodes(op="placeholder")
    place = inputs[-1] if inputs else None
    for node in weights:
        if place is None:
            next(iter(graph.nodes)).prepend(node)
        else:
            place.append(node)
        place = node


def _drop_unused_items(graph: fx.Graph) -> None:
    """Erase the nodes torch adds on loading for every result of an operator nobody reads."""
    for node in list(graph.nodes):
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)


def _is_range(low: object, high: object) -> bool:
    return isinstance(low, int) and isinstance(high, int) and 1 <= low <= high


def _are_strings(values: list[object]) -> bool:
    return all(isinstance(value, str) for value in values)
