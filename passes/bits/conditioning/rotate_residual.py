"""The pass `rotate-residual`: a rotation of the residual stream, folded into the weights."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor, fx

from effc.ir.edit import Editor
from effc.ir.errors import DataError, Refusal
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, attribute, value_of
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.bits.conditioning.sites import LINEAR, RMS_NORM
from effc.passes.bits.weights import tensor_key
from effc.passes.calibrate.statistics import statistics_of

RULE = "rotate-residual"
PRINCIPAL = "principal"
EMBEDDING = "aten.embedding.default"
ADD = "aten.add.Tensor"


@dataclass(frozen=True)
class RotateResidual(Pass):
    """Multiplies the residual stream of an RMS-norm transformer by an orthogonal matrix.

    S. Ashkboos et al., "QuaRot", 2024, arXiv 2404.00456: the weight of a norm moves into the
    linears that read it; a norm without weight commutes with rotations; so the rotation goes into
    the tables and linears that write the stream, its inverse into those that read it. Outputs in
    float stay; outliers of single channels are spread over all. `Q = H diag(signs) / sqrt(n)`, with
    H a Hadamard matrix times an orthogonal one where n is no power of two.

    With `basis=principal` Q holds the principal directions of what the norms compute, so that
    `prune-channels{scope=hidden importance=activation}` slices off those that carry least
    (SliceGPT, Ashkboos et al., 2024, arXiv 2401.15024). SliceGPT has a basis per block and
    multiplies by the change of basis on every residual connection; here all blocks share one,
    which adds nothing.

    Attributes:
        basis: `hadamard`, or `principal`, which needs calibration data.
        random: Whether signs are drawn; else the plain Hadamard matrix.
    """

    name: ClassVar[str] = RULE
    basis: Literal["hadamard", "principal"] = "hadamard"
    random: bool = True

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Rotate the streams of `forward` that can be.

        Raises:
            DataError: If principal directions are asked for and there is no data.
        """
        editor, refusals = Editor(program, FORWARD, RULE), []
        notes: dict[str, Any] = {}
        for stream in streams_of(editor.graph):
            name = label(stream.norms[0])
            reason = stream.reason(editor.module)
            if reason:
                refusals.append(Refusal(RULE, name, reason))
                continue
            width = int(value_of(stream.norms[0]).shape[-1])
            is_principal = self.basis == PRINCIPAL
            matrix = principal(program, stream, ctx) if is_principal else self.rotation(width, ctx)
            rotate(editor, stream, matrix)
            notes[name] = {"channels": width, "written by": len(stream.writers),
                           "read by": len(stream.readers)}  # fmt: skip
        editor.remove_dead()
        return Outcome(editor.finish(), {"rotated": notes}, tuple(refusals))

    def rotation(self, width: int, ctx: PassContext) -> Tensor:
        """An orthogonal matrix, float64 [width, width]."""
        rng = ctx.rng(RULE)
        power = width & -width
        matrix = hadamard(power).astype(np.float64) / np.sqrt(power)
        if power < width:
            drawn, _ = np.linalg.qr(rng.standard_normal((width // power, width // power)))
            matrix = np.kron(drawn, matrix)
        signs = rng.integers(0, 2, width) * 2.0 - 1 if self.random else np.ones(width)
        return torch.from_numpy(matrix * signs)


@dataclass(frozen=True)
class Stream:
    """Values that are added up, and what touches them.

    Attributes:
        values: The sums.
        writers: Tables and linears whose outputs are added.
        norms: RMS norms that read it.
        readers: Linears that read the norms.
        others: Whatever else touches it, which a rotation would break.
    """

    values: tuple[fx.Node, ...]
    writers: tuple[fx.Node, ...]
    norms: tuple[fx.Node, ...]
    readers: tuple[fx.Node, ...]
    others: tuple[fx.Node, ...]

    def reason(self, module: fx.GraphModule) -> str | None:
        """Why it cannot be rotated, or None."""
        if self.others:
            return f"{label(self.others[0])} ({op_name(self.others[0])}) touches the stream"
        weights = [one.args[0 if op_name(one) == EMBEDDING else 1] for one in self.writers]
        weights += [one.args[1] for one in self.readers]
        keys = [tensor_key(attribute(module, str(one.target))) for one in weights
                if isinstance(one, fx.Node) and one.op == "get_attr"]  # fmt: skip
        if len(keys) < len(weights):
            return "a weight that touches it is computed"
        if len(set(keys)) < len(keys):
            return "one weight both writes and reads it, or does so twice"
        return None


def streams_of(graph: fx.Graph) -> list[Stream]:
    """Every set of values joined by additions that an RMS norm reads, in graph order."""
    found, seen = [], set[fx.Node]()
    for node in graph.nodes:
        if op_name(node) != RMS_NORM or node.args[0] in seen:
            continue
        stream = _grown(node.args[0])
        seen |= {*stream.values, *stream.writers}
        found.append(stream)
    return found


def _grown(start: fx.Node) -> Stream:
    """Follow additions both ways from a value."""
    values, writers, norms, others = [], dict[fx.Node, None](), dict[fx.Node, None](), []
    queue, known = [start], {start}
    while queue:
        node = queue.pop()
        if op_name(node) == ADD and len(node.args) == 2 and not node.kwargs:
            values.append(node)
            sources = node.args
        elif op_name(node) in (EMBEDDING, LINEAR):
            writers[node] = None
            sources = ()
        else:
            others.append(node)
            continue
        for user in node.users:
            if op_name(user) == RMS_NORM:
                norms[user] = None
            elif op_name(user) != ADD:
                others.append(user)
        near = [*sources, *(user for user in node.users if op_name(user) == ADD)]
        for one in near:
            if isinstance(one, fx.Node) and one not in known:
                known.add(one)
                queue.append(one)
    readers = dict[fx.Node, None]()
    for norm in norms:
        for user in norm.users:
            if op_name(user) == LINEAR and user.args[0] is norm:
                readers[user] = None
            else:
                others.append(user)
    return Stream(tuple(values), tuple(writers), tuple(norms), tuple(readers), tuple(others))


def principal(program: Program, stream: Stream, ctx: PassContext) -> Tensor:
    """The principal directions of a stream as its norms give it, before their weights.

    Args:
        program: Whose stream; not rotated yet.
        stream: Without a reason against it.
        ctx: Calibration data.

    Returns:
        Q, float64 [channels, channels], the direction that carries most first.

    Raises:
        DataError: If there is no data.
    """
    known = statistics_of(program, ctx, {norm.name for norm in stream.norms}, moments=True)
    width = int(value_of(stream.norms[0]).shape[-1])
    total = np.zeros((width, width))
    for norm in stream.norms:
        moment = known[norm.name].moment
        if moment is None:
            raise DataError(f"{label(norm)}: second moments of {width} channels are too large")
        weight: Any = norm.args[2] if len(norm.args) > 2 else None
        gain = np.ones(width)
        if weight is not None:
            found = attribute(program.forward, str(weight.target)).detach().double().numpy()
            gain = np.where(found == 0, 1.0, found)
        total += moment / np.outer(gain, gain)
    _, vectors = np.linalg.eigh(total)
    return torch.from_numpy(np.ascontiguousarray(vectors[:, ::-1]))


def rotate(editor: Editor, stream: Stream, matrix: Tensor) -> None:
    """Write `x Q` into the stream and read it with `Q^T` folded into the readers.

    Args:
        editor: Of the method.
        stream: Without a reason against it.
        matrix: Q, float64 [channels, channels], orthogonal.
    """
    for norm in stream.norms:
        weight: Any = norm.args[2] if len(norm.args) > 2 else None
        gain = None if weight is None else _tensor(editor, weight)
        for reader in [one for one in stream.readers if one.args[0] is norm]:
            plain = _tensor(editor, reader.args[1])
            scaled = plain if gain is None else plain * gain
            _set(editor, reader, 1, scaled @ matrix)
        if weight is not None:
            _set(editor, norm, 2, torch.ones(len(matrix), dtype=torch.float64))
    for writer in stream.writers:
        if op_name(writer) == EMBEDDING:
            _set(editor, writer, 0, _tensor(editor, writer.args[0]) @ matrix)
            continue
        _set(editor, writer, 1, matrix.T @ _tensor(editor, writer.args[1]))
        if len(writer.args) > 2 and writer.args[2] is not None:
            _set(editor, writer, 2, _tensor(editor, writer.args[2]) @ matrix)


def _tensor(editor: Editor, node: Any) -> Tensor:
    return attribute(editor.module, str(node.target)).double()


def _set(editor: Editor, node: fx.Node, place: int, tensor: Tensor) -> None:
    old: Any = node.args[place]
    made = editor.weight(str(old.target), tensor.float(), like=old)
    editor.set_argument(node, place, made)
