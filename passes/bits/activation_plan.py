"""Decides for every activation a layer reads whether its scale is static or dynamic."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import fx

from effc.ir.errors import UsageError
from effc.ir.opspec import Kind, kind_of
from effc.ir.program import FORWARD, Program
from effc.passes.base import PassContext
from effc.passes.bits.activations import IMAGE, ROW
from effc.passes.bits.encoding import Encoding, dynamic_db, encoding_of
from effc.passes.bits.layers import Layer
from effc.passes.bits.placement import Group, groups_of
from effc.passes.bits.residual import gated_maps, residual_adds, shortcuts
from effc.passes.calibrate.observers import Observer
from effc.passes.calibrate.statistics import Statistics, is_map, statistics_of

ActivationMode = Literal["auto", "static", "dynamic"]
ResidualMode = Literal["auto", "int8", "float"]
Readers = dict[fx.Node, tuple[fx.Node, ...]]
Read = dict[fx.Node, list[Layer]]


MAP_ALLOWANCE_DB = 12.0


@dataclass(frozen=True)
class Choice:
    """The user's options that concern activations.

    Attributes:
        mode: Static, dynamic, or whichever the predicted error allows.
        residual: Whether residual additions and gates of feature maps read codes.
        map_observer: Chooses the range of static feature maps.
        row_observer: Chooses the range of other static values.
        least_db: Predicted signal-to-noise ratio below which `auto` does not go static;
            `MAP_ALLOWANCE_DB` less for feature maps, since a dynamic scale costs writing and
            reading the whole map in float.
    """

    mode: ActivationMode
    residual: ResidualMode
    map_observer: Observer
    row_observer: Observer
    least_db: float


@dataclass(frozen=True)
class Static:
    """Values with one scale found from calibration data."""

    group: Group
    encoding: Encoding
    readers: Readers


@dataclass(frozen=True)
class Dynamic:
    """A value with scales found at run time, one per slice over `dims`.

    Attributes:
        value: What is quantized.
        dims: `ROW` or `IMAGE`.
        readers: The layers that read its codes.
        sqnr_db: Predicted signal-to-noise ratio, where there is calibration data.
        static_db: The ratio one static scale would have had.
    """

    value: fx.Node
    dims: tuple[int, ...]
    readers: tuple[fx.Node, ...]
    sqnr_db: float | None = None
    static_db: float | None = None


@dataclass(frozen=True)
class ActivationPlan:
    """What to insert, and the statistics it was decided by, if there are any."""

    static: tuple[Static, ...] = ()
    dynamic: tuple[Dynamic, ...] = ()
    statistics: Statistics | None = None


def plan_activations(
    program: Program,
    method: str,
    layers: list[Layer],
    ctx: PassContext,
    choice: Choice,
    also: Collection[fx.Node] = (),
) -> ActivationPlan:
    """Decide for the inputs of layers, and for what shares codes with them.

    Args:
        program: Not quantized yet.
        method: Of the program.
        layers: Whose inputs get codes.
        ctx: For the calibration data.
        choice: The user's options.
        also: Other values whose statistics are wanted.

    Raises:
        UsageError: If static scales are asked for and there is no calibration data.
        DataError: If the calibration data cannot be used.
    """
    read: Read = {}
    for layer in layers:
        read.setdefault(layer.value, []).append(layer)
    can_be_static = ctx.calibration is not None and method == FORWARD
    if choice.mode == "static" and not can_be_static:
        raise UsageError(f"activations=static needs calibration data for the method {method}")
    is_dynamic = not layers or choice.mode == "dynamic"
    if not can_be_static or (is_dynamic and not also):
        return ActivationPlan((), tuple(_dynamic(read, None, {})))
    groups = [] if is_dynamic else _groups(program.forward.graph, read, choice)
    names = {value.name for group in groups for value in group.measured}
    names |= {value.name for value in also}
    if is_dynamic:
        statistics = statistics_of(program, ctx, names)
        return ActivationPlan((), tuple(_dynamic(read, None, {})), statistics)
    return _decided(program.forward.graph, groups, read, statistics_of(program, ctx, names), choice)


def _groups(graph: fx.Graph, read: Read, choice: Choice) -> list[Group]:
    convolutions = {one.node for layers in read.values() for one in layers if one.kind == "conv2d"}
    extra: list[fx.Node] = []
    if choice.residual != "float":
        extra = [*shortcuts(graph, convolutions), *gated_maps(graph, convolutions)]
    return groups_of(graph, {*read, *extra})


def _decided(
    graph: fx.Graph, groups: list[Group], read: Read, statistics: Statistics, choice: Choice
) -> ActivationPlan:
    float_adds = set(residual_adds(graph)) if choice.residual == "float" else set()
    static: list[Static] = []
    rest: Read = {}
    refused: dict[fx.Node, float] = {}
    for group in groups:
        has_map = any(map(is_map, group.values))
        observe = choice.map_observer if has_map else choice.row_observer
        encoding = encoding_of(group, statistics, observe)
        if _is_static(group, encoding, choice, read, has_map):
            readers = {value: _readers(value, group, read, float_adds) for value in group.values}
            static.append(Static(group, encoding, readers))
            continue
        for value in group.measured:
            rest[value] = read.get(value, [])
            refused[value] = encoding.sqnr_db
    return ActivationPlan(tuple(static), tuple(_dynamic(rest, statistics, refused)), statistics)


def _is_static(group: Group, encoding: Encoding, choice: Choice, read: Read, has_map: bool) -> bool:
    if any(value in read for value in group.measured):
        least = choice.least_db - (MAP_ALLOWANCE_DB if has_map else 0.0)
        return choice.mode == "static" or encoding.sqnr_db >= least
    return choice.residual == "int8" or encoding.sqnr_db >= choice.least_db


def _readers(
    value: fx.Node, group: Group, read: Read, float_adds: set[fx.Node]
) -> tuple[fx.Node, ...]:
    """Who reads the codes: everybody where that spares the float map, else the layers."""
    layers = read.get(value, [])
    if layers and all(layer.kind != "conv2d" for layer in layers):
        inside = [user for user in value.users if user in group.values]
        return (*[layer.node for layer in layers], *inside)
    left = {user for user in value.users if user.op == "output" or kind_of(user) == Kind.SCALAR}
    return tuple(user for user in value.users if user not in left | float_adds)


def _dynamic(
    read: Read, statistics: Statistics | None, refused: dict[fx.Node, float]
) -> Iterator[Dynamic]:
    for value, layers in read.items():
        for dims, is_image in ((ROW, False), (IMAGE, True)):
            nodes = tuple(one.node for one in layers if (one.kind == "conv2d") == is_image)
            if nodes:
                predicted = dynamic_db(statistics[value.name]) if statistics else None
                yield Dynamic(value, dims, nodes, predicted, refused.get(value))
