"""The Statistics store: one streamed run over calibration data, kept and shared by passes."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from effc.ir.errors import DataError, Refusal
from effc.ir.opspec import op_name
from effc.ir.program import Program, value_of
from effc.ir.provenance import label
from effc.ir.text import fingerprint
from effc.passes.base import PassContext
from effc.passes.calibrate.batches import CalibrationData
from effc.passes.calibrate.collect import PROGRESS, Collection, Found, pack, unpack
from effc.passes.calibrate.store import Shelf
from effc.passes.calibrate.value import Layout, ValueStatistics
from effc.passes.calibrate.windows import Window

MOMENT_NBYTES = 2 << 30
FLOAT64_NBYTES = 8
LINEAR = "aten.linear.default"
CONVOLUTION = "aten.conv2d.default"


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of values of a program's method `forward`.

    Attributes:
        values: By name of the node that computes the value.
        refusals: The second moments that were asked for and not kept, and why.
    """

    values: dict[str, ValueStatistics]
    refusals: tuple[Refusal, ...] = ()

    def __getitem__(self, name: str) -> ValueStatistics:
        return self.values[name]


def statistics_of(
    program: Program, ctx: PassContext, values: Iterable[str], *, moments: bool = False
) -> Statistics:
    """Statistics of values over `ctx.calibration`.

    They are read from `ctx.store` where a run over this program and this data left them; what is
    missing is filled by one run, in which no activation is kept, and stored. The store addresses
    values by position in the graph, so it serves every program of equal fingerprint.

    Args:
        program: Its method `forward` is run in PyTorch.
        ctx: Calibration data, store and progress.
        values: Names of the nodes whose values to measure; they are floating tensors.
        moments: Also keep X^T X of inputs of linears, and of the windows of convolutions, up to
            `MOMENT_NBYTES` in all.

    Raises:
        DataError: If there is no data, it cannot be used, or the model computes NaN on it.
    """
    if ctx.calibration is None:
        raise DataError("statistics need calibration data")
    data = CalibrationData(program, ctx.calibration)
    wanted = set(values)
    nodes = {at: node for at, node in enumerate(program.forward.graph.nodes) if node.name in wanted}
    if moments:
        layouts, refusals = _with_moments(nodes)
    else:
        layouts, refusals = {at: Layout(is_map(node)) for at, node in nodes.items()}, []
    found = _found(program, ctx, data, layouts)
    return Statistics({node.name: found[at] for at, node in nodes.items()}, tuple(refusals))


def is_map(node: fx.Node) -> bool:
    """Whether a value's channels are dimension 1: of rank 4 and read by no linear."""
    return value_of(node).dim() == 4 and all(op_name(user) != LINEAR for user in node.users)


def _found(
    program: Program, ctx: PassContext, data: CalibrationData, layouts: dict[int, Layout]
) -> Found:
    if ctx.store is None:
        return Collection(program, data, layouts, ctx, None).run()
    key = f"{fingerprint(program)}-{data.fingerprint()}"
    shelf = Shelf(ctx.store / "statistics" / key, key)
    entry = shelf.read("statistics")
    known = unpack(entry[1]) if entry is not None else {}
    missing = {
        at: layout
        for at, layout in layouts.items()
        if at not in known
        or (layout.has_moment and known[at].moment is None)
        or any(str(window) not in known[at].windows for window in layout.windows)
    }
    if missing:
        known |= Collection(program, data, missing, ctx, shelf).run()
        shelf.write("statistics", {"values": len(known)}, pack(known))
        shelf.remove(PROGRESS)
    return known


def _with_moments(nodes: dict[int, fx.Node]) -> tuple[dict[int, Layout], list[Refusal]]:
    """Layouts with the second moments that fit in memory together, in graph order."""
    layouts: dict[int, Layout] = {}
    refusals: list[Refusal] = []
    free = MOMENT_NBYTES
    for at, node in nodes.items():
        features = value_of(node).shape[1 if is_map(node) else -1]
        is_read = any(op_name(user) == LINEAR for user in node.users)
        windows = windows_of(node)
        reason = None
        if not is_read and not windows:
            reason = "second moments are kept for inputs of linears and convolutions only"
        elif not isinstance(features, int):
            reason = "its number of features is not fixed"
        else:
            nbytes = FLOAT64_NBYTES * features**2 if is_read else 0
            nbytes += sum(window.nbytes(int(value_of(node).shape[1])) for window in windows)
            if nbytes > free:
                reason = f"second moments of {features} features exceed the memory left for them"
        if reason is None:
            free -= nbytes
            layouts[at] = Layout(is_map(node), is_read, windows)
        else:
            refusals.append(Refusal("calibrate", label(node), reason))
            layouts[at] = Layout(is_map(node))
    return layouts, refusals


def windows_of(node: fx.Node) -> tuple[Window, ...]:
    """The windows of the convolutions that read a value as their input, each once."""
    readers = [user for user in node.users if op_name(user) == CONVOLUTION]
    is_input = [user for user in readers if user.args[0] is node and value_of(node).dim() == 4]
    windows = [Window.of(user) for user in is_input]
    return tuple(dict.fromkeys(window for window in windows if window is not None))
