"""Decides for every activation a layer reads whether its scale is static or dynamic."""

from dataclasses import dataclass
from typing import Literal

from torch import fx

from effc.ir.errors import UsageError
from effc.ir.opspec import Kind, kind_of
from effc.ir.program import FORWARD, Program
from effc.passes.base import PassContext
from effc.passes.bits.activations import IMAGE, ROW
from effc.passes.bits.encoding import Encoding, encoding_of
from effc.passes.bits.layers import Layer
from effc.passes.bits.placement import Group, groups_of
from effc.passes.bits.residual import residual_adds, shortcuts
from effc.passes.calibrate.observers import Observer
from effc.passes.calibrate.statistics import statistics_of

ActivationMode = Literal["auto", "static", "dynamic"]
ResidualMode = Literal["auto", "int8", "float"]
Readers = dict[fx.Node, tuple[fx.Node, ...]]


@dataclass(frozen=True)
class Choice:
    """The user's options that concern activations.

    Attributes:
        mode: Static, dynamic, or whichever the predicted error allows.
        residual: Whether residual additions of feature maps read codes.
        observe: Chooses the range of a static value.
        least_db: Predicted signal-to-noise ratio below which `auto` does not go static.
    """

    mode: ActivationMode
    residual: ResidualMode
    observe: Observer
    least_db: float


@dataclass(frozen=True)
class Static:
    """Values with one scale found from calibration data."""

    group: Group
    encoding: Encoding
    readers: Readers


@dataclass(frozen=True)
class Dynamic:
    """A value with scales found at run time, one per slice over `dims`."""

    value: fx.Node
    dims: tuple[int, ...]
    readers: tuple[fx.Node, ...]


@dataclass(frozen=True)
class ActivationPlan:
    """What to insert."""

    static: tuple[Static, ...]
    dynamic: tuple[Dynamic, ...]

    def encodings(self) -> dict[fx.Node, Encoding]:
        """The static encoding of every value that gets one."""
        return {value: one.encoding for one in self.static for value in one.group.values}


def plan_activations(
    program: Program, method: str, layers: list[Layer], ctx: PassContext, choice: Choice
) -> ActivationPlan:
    """Decide for the inputs of layers, and for what shares codes with them.

    Raises:
        UsageError: If static scales are asked for and there is no calibration data.
        DataError: If the calibration data cannot be used.
    """
    read: dict[fx.Node, list[Layer]] = {}
    for layer in layers:
        read.setdefault(layer.value, []).append(layer)
    can_be_static = ctx.calibration is not None and method == FORWARD
    if choice.mode == "static" and not can_be_static:
        raise UsageError(f"activations=static needs calibration data for the method {method}")
    if choice.mode == "dynamic" or not can_be_static:
        return ActivationPlan((), tuple(_dynamic(read, list(read))))
    graph = program.forward.graph
    convolutions = {layer.node for layer in layers if layer.kind == "conv2d"}
    extra = [] if choice.residual == "float" else shortcuts(graph, convolutions)
    groups = groups_of(graph, {*read, *extra})
    names = {value.name for group in groups for value in group.measured}
    statistics = statistics_of(program, ctx, names)
    float_adds = set(residual_adds(graph)) if choice.residual == "float" else set()
    static: list[Static] = []
    rest: list[fx.Node] = []
    for group in groups:
        encoding = encoding_of(group, statistics, choice.observe)
        if _is_static(group, encoding, choice, read):
            readers = {value: _readers(value, group, read, float_adds) for value in group.values}
            static.append(Static(group, encoding, readers))
        else:
            rest += [value for value in group.measured if value in read]
    return ActivationPlan(tuple(static), tuple(_dynamic(read, rest)))


def _is_static(
    group: Group, encoding: Encoding, choice: Choice, read: dict[fx.Node, list[Layer]]
) -> bool:
    is_good = encoding.sqnr_db >= choice.least_db
    if any(value in read for value in group.measured):
        return is_good or choice.mode == "static"
    return is_good or choice.residual == "int8"


def _readers(
    value: fx.Node, group: Group, read: dict[fx.Node, list[Layer]], float_adds: set[fx.Node]
) -> tuple[fx.Node, ...]:
    """Who reads the codes: everybody where that spares the float map, else the layers."""
    layers = read.get(value, [])
    if layers and all(layer.kind != "conv2d" for layer in layers):
        inside = [user for user in value.users if user in group.values]
        return (*[layer.node for layer in layers], *inside)
    left = {user for user in value.users if user.op == "output" or kind_of(user) == Kind.SCALAR}
    return tuple(user for user in value.users if user not in left | float_adds)


def _dynamic(read: dict[fx.Node, list[Layer]], values: list[fx.Node]) -> list[Dynamic]:
    found = []
    for value in values:
        for dims, is_image in ((ROW, False), (IMAGE, True)):
            nodes = tuple(one.node for one in read[value] if (one.kind == "conv2d") == is_image)
            if nodes:
                found.append(Dynamic(value, dims, nodes))
    return found
