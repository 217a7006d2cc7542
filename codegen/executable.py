"""From a lowered program to a list of steps: kernels, their memory, their weights."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from effc.codegen import select
from effc.codegen.barriers import Conflicts, Touch, meeting_points
from effc.codegen.calls import Call, calls_of, fingerprint
from effc.codegen.coverage import add
from effc.codegen.isa import Isa
from effc.codegen.kernel import Kernel, Param, Stage
from effc.codegen.memory import Life, MemoryPlan, plan
from effc.codegen.region import Region
from effc.codegen.schedule import Chosen, Schedule, nothing_chosen, point_of
from effc.codegen.work import Work, work_of
from effc.ir import provenance
from effc.ir.errors import BuildError, Unsupported, UnsupportedError
from effc.ir.opspec import op_name
from effc.ir.program import Program, Signature, attribute
from effc.ir.symbols import Size, product, simplify
from effc.ir.target import Target
from effc.passes.lower.borders import Border
from effc.passes.lower.placement import Placements

SLACK = 64


@dataclass(frozen=True)
class Pointer:
    """An address: the start of some memory plus an offset.

    Attributes:
        base: `input`, `output`, `arena`, `weight` or `scratch`.
        key: Which one.
        offset: Bytes from its start.
    """

    base: str
    key: Hashable
    offset: Size = 0


@dataclass(frozen=True)
class Fill:
    """A border to fill before a step runs.

    Attributes:
        start: Start of the padded map.
        shape: Padded `[images, channels, height, width]`.
        border: Its rows and columns.
        itemsize: Bytes of an element.
        fill: Where the zero points lie, or None for zeros.
        fill_stride: 1 if every image has a zero point of its own, else 0.
    """

    start: Pointer
    shape: tuple[Size, ...]
    border: Border
    itemsize: int
    fill: Pointer | None
    fill_stride: int


@dataclass(frozen=True)
class Choice:
    """A kernel and why it is as it is.

    Attributes:
        key: What it computes: the fingerprint of its region.
        kernel: Its functions.
        schedule: The schedule somebody chose for it, or None for its family's default.
    """

    key: str
    kernel: Kernel
    schedule: Schedule | None = None


@dataclass
class Step:
    """One call of a stage.

    Attributes:
        stage: The function.
        pointers: Its arguments.
        name: Where it comes from in the user's model.
        choice: The kernel it belongs to.
        fills: Borders to fill first.
        must_meet: Whether threads must meet after it.
        is_alone: Whether the first thread runs all of it, as it is too small to be shared.
        work: What the kernel has to do; of its other steps, nothing.
    """

    stage: Stage
    pointers: tuple[Pointer, ...]
    name: str
    choice: Choice
    fills: tuple[Fill, ...] = ()
    must_meet: bool = True
    is_alone: bool = False
    work: Work = field(default_factory=Work)

    @property
    def family(self) -> str:
        """The kernel's family."""
        return self.choice.kernel.family


@dataclass
class Executable:
    """Everything the driver emitter needs.

    Attributes:
        signature: Inputs and outputs.
        symbols: Names of the symbolic dimensions, in order.
        steps: In order.
        stages: Every function once.
        memory: The plan of the arena.
        weights: Packed and plain weights by name.
        scratch: Bytes each thread needs, one size per kernel that needs any.
    """

    signature: Signature
    symbols: tuple[str, ...]
    steps: list[Step] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    memory: MemoryPlan = field(default_factory=lambda: MemoryPlan({}, []))
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    scratch: list[Size] = field(default_factory=list)


def executable_of(
    program: Program,
    method: str,
    placements: Placements,
    target: Target,
    chosen: Chosen = nothing_chosen,
) -> Executable:
    """Make kernels for every region of a placed program and lay out their memory.

    Args:
        program: Lowered.
        method: Which of its methods.
        placements: Where its tensors lie.
        target: What to build for.
        chosen: The schedule of a kernel by the fingerprint of its region; what is no point of the
            kernel's space is left out.
    """
    return _Assembler(program, method, placements, target, chosen).run()


class _Assembler:
    def __init__(
        self,
        program: Program,
        method: str,
        placements: Placements,
        target: Target,
        chosen: Chosen,
    ) -> None:
        self.chosen = chosen
        self.program, self.placements = program, placements
        self.module, self.isa, self.target = placements.module, Isa.of(target), target
        self.refused: dict[str, Unsupported] = {}
        self.packed_names: dict[Any, str] = {}
        self.signature = program.signatures[method]
        self.result = Executable(self.signature, tuple(program.symbols))
        self.kernels: dict[str, Choice] = {}
        self.uses: dict[Hashable, list[int]] = {}
        self.sizes: dict[Hashable, Size] = {}
        self.bases = self._known_bases()

    def run(self) -> Executable:
        """Visit the regions in order."""
        for call in calls_of(self.placements, self.program.names):
            self._call(call)
        if self.refused:
            raise UnsupportedError(f"target {self.target}", list(self.refused.values()))
        lives = [Life(k, self.sizes[k], min(u), max(u)) for k, u in self.uses.items()]
        self.result.memory = plan(lives)
        conflicts = Conflicts(self.result.memory, lives)
        touches = [_touches(step) for step in self.result.steps]
        alone = [step.is_alone for step in self.result.steps]
        meetings = meeting_points(touches, conflicts, alone)
        for step, meets in zip(self.result.steps, meetings, strict=True):
            step.must_meet = meets
        return self.result

    def _known_bases(self) -> dict[fx.Node, Pointer]:
        """Inputs and outputs are the caller's memory."""
        graph = self.module.graph
        bases = {n: Pointer("input", i) for i, n in enumerate(graph.find_nodes(op="placeholder"))}
        for position, node in enumerate(graph.output_node().args[0]):
            bases[self.placements.places[node].root] = Pointer("output", position)
        return bases

    def _call(self, call: Call) -> None:
        key = fingerprint(call.region)
        if key not in self.kernels:
            try:
                self.kernels[key] = self._kernel(call.region, key)
            except BuildError as error:
                source = provenance.source(call.node)
                add(self.refused, _leading_operator(call.region), source, str(error))
                return
            for stage in self.kernels[key].kernel.stages:
                self.result.stages[stage.symbol] = stage
        self._steps(call, self.kernels[key])

    def _kernel(self, region: Region, key: str) -> Choice:
        """The kernel of a region, with the schedule somebody chose for it or the default."""
        values = self.chosen(key)
        found = None if values is None else point_of(select.space(region, self.isa), values)
        name = f"effc_k{len(self.kernels)}"
        kernel = select.build(region, self.isa, name, self.result.symbols, found)
        return Choice(key, kernel, found)

    def _steps(self, call: Call, choice: Choice) -> None:
        first, kernel, node = len(self.result.steps), choice.kernel, call.node
        work = work_of(call.region)
        for stage in kernel.stages:
            pointers = tuple(
                self._pointer(param, node, kernel, call.operands, call.results)
                for param in stage.params
            )
            name = provenance.source(node) or node.name
            is_alone = work.is_tiny or stage.tasks == 1
            self.result.steps.append(Step(stage, pointers, name, choice, is_alone=is_alone))
        if kernel.scratch != 0:
            self.result.scratch.append(kernel.scratch)
        self.result.steps[-1].work = work
        fills = tuple(fill for node in call.results if (fill := self._fill(node)))
        self.result.steps[first].fills = fills
        for step in range(first, len(self.result.steps)):
            for pointer in self.result.steps[step].pointers:
                if pointer.base == "arena":
                    self.uses.setdefault(pointer.key, []).extend([first, step])
        for result in call.results:
            pointer = self._base(self.placements.places[result].root)
            if pointer.base == "arena":
                self.uses.setdefault(pointer.key, []).append(first)

    def _pointer(
        self,
        param: Param,
        call: fx.Node,
        kernel: Kernel,
        operands: list[fx.Node],
        results: list[fx.Node],
    ) -> Pointer:
        if param.kind == "scratch":
            return Pointer("scratch", 0)
        if param.kind == "packed":
            return self._packed(str(param.which), kernel, operands)
        if param.kind == "temporary":
            key = (call, param.which)
            self.sizes[key] = simplify(kernel.temporaries[str(param.which)] + SLACK)
            return Pointer("arena", key)
        node = (operands if param.kind == "input" else results)[int(param.which)]
        return self._address(node)

    def _address(self, node: fx.Node) -> Pointer:
        place = self.placements.places[node]
        base = self._base(place.root)
        return Pointer(
            base.base, base.key, simplify(place.offset * node.meta["val"].element_size())
        )

    def _base(self, root: fx.Node) -> Pointer:
        if root in self.bases:
            return self.bases[root]
        if root.op == "get_attr":
            tensor = attribute(self.module, root.target)
            return Pointer("weight", self._weight(root.target, storable(tensor)))
        itemsize = root.meta["val"].element_size()
        self.sizes[root] = simplify(self.placements.sizes[root] * itemsize + SLACK)
        return Pointer("arena", root)

    def _packed(self, which: str, kernel: Kernel, operands: list[fx.Node]) -> Pointer:
        pack = kernel.packed[which]
        tensors: list[torch.Tensor | None] = [
            attribute(self.module, node.target) if node.op == "get_attr" else None
            for node in operands
        ]
        label = operands[pack.weight].target
        name = f"{label}.{which}"
        known = (label, which, str(pack), *[id(t) for t in tensors if t is not None])
        if known not in self.packed_names:
            self.packed_names[known] = self._weight(name, pack(tensors), fresh=True)
        return Pointer("weight", self.packed_names[known])

    def _weight(self, name: str, value: np.ndarray, fresh: bool = False) -> str:
        """Register a weight; a packed one gets a free name."""
        wanted, number = name, 1
        while fresh and wanted in self.result.weights:
            wanted, number = f"{name}_{number}", number + 1
        self.result.weights[wanted] = value
        return wanted

    def _fill(self, node: fx.Node) -> Fill | None:
        border = self.placements.borders.get(node)
        if border is None:
            return None
        shape = self.program.shape(node)
        padded = (*shape[:2], shape[2] + 2 * border.rows, shape[3] + 2 * border.columns)
        fill = self._address(border.fill) if border.fill is not None else None
        is_per_image = border.fill is not None and product(self.program.shape(border.fill)) != 1
        return Fill(
            self._base(node),
            tuple(map(simplify, padded)),
            border,
            node.meta["val"].element_size(),
            fill,
            int(is_per_image),
        )


def _touches(step: Step) -> list[Touch]:
    """The memory a step uses that some step writes."""
    pairs = zip(step.stage.params, step.pointers, strict=True)
    found = [
        Touch(pointer.base, pointer.key, param.kind in ("output", "temporary"))
        for param, pointer in pairs
        if pointer.base in ("arena", "output")
    ]
    found += [Touch(fill.start.base, fill.start.key, True) for fill in step.fills]
    reads = [fill.fill for fill in step.fills if fill.fill is not None]
    return found + [Touch(r.base, r.key, False) for r in reads if r.base in ("arena", "output")]


def _leading_operator(region: Region) -> str:
    """The operator a region is about."""
    return op_name(region.anchor() or region.calls[0])


def storable(tensor: torch.Tensor) -> np.ndarray:
    """A weight as the bytes kernels read."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    if tensor.dtype == torch.bool:
        return tensor.view(torch.uint8).numpy()
    return tensor.numpy()
