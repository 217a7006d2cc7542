"""Least squares layer by layer: each layer is fitted on what the cut layers before it compute."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from effc.ir.coupling.call import weight_key
from effc.ir.coupling.kept import Kept
from effc.ir.coupling.masking import Masked
from effc.ir.errors import DataError
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, set_attribute
from effc.passes.calibrate.batches import CalibrationData
from effc.passes.calibrate.statistics import CONVOLUTION, LINEAR
from effc.passes.calibrate.windows import Window
from effc.passes.prune.importance.scoring import Scoring

DAMPING = 1e-3
MOST_ROWS = 256


def repair_in_order(study: Scoring, kept: Kept) -> list[str]:
    """Change weights so that each layer computes from what is cut nearly what it did from all.

    The whole program and the masked one run side by side, node by node, over all batches. At every
    linear and convolution, the residual R between both outputs is regressed on the masked input X:
    the weight (and bias) change by R^T X (X^T X + d I)^-1. Layers whose input did not change, or
    whose weight has other readers, stay.

    Args:
        study: The whole program and calibration data; weights are replaced.
        kept: What stays.

    Returns:
        Names of the weights that changed.

    Raises:
        DataError: If there is no calibration data.
    """
    pairs = [_Pair.of(study.program, kept, inputs) for inputs in _batches(study.program, study)]
    nodes = [n for n in study.program.forward.graph.nodes if n.op not in ("placeholder", "output")]
    last = _last_readers(nodes)
    changed: dict[fx.Node, Tensor] = {}
    with torch.no_grad():
        for node in nodes:
            for pair in pairs:
                pair.run(node)
            if _is_fitted(study, node) and any(pair.differs(node.args[0]) for pair in pairs):
                changed |= _fitted(study, kept, node, pairs)
            for pair in pairs:
                pair.free(last.get(node, ()))
    for node, value in changed.items():
        set_attribute(study.program.forward, str(node.target), value)
    return [str(node.target) for node in changed]


@dataclass
class _Pair:
    """The whole program and the masked one on one batch."""

    whole: fx.Interpreter
    masked: Masked

    @classmethod
    def of(cls, program: Program, kept: Kept, inputs: Sequence[Tensor]) -> "_Pair":
        module = program.methods[FORWARD]
        pair = cls(fx.Interpreter(module), Masked(program, kept))
        for node, value in zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True):
            pair.whole.env[node] = pair.masked.env[node] = value
        return pair

    def run(self, node: fx.Node) -> None:
        for one in (self.whole, self.masked):
            one.env[node] = one.run_node(node)

    def differs(self, node: Any) -> bool:
        return not torch.equal(self.whole.env[node], self.masked.env[node])

    def free(self, nodes: Sequence[fx.Node]) -> None:
        for node in nodes:
            del self.whole.env[node], self.masked.env[node]


def _fitted(
    study: Scoring, kept: Kept, node: fx.Node, pairs: Sequence[_Pair]
) -> dict[fx.Node, Tensor]:
    """New weight and bias of a layer; the masked runs go on with them."""
    weight, bias = _weight(node), _bias(study, node)
    old = pairs[0].masked.env[weight]
    stays = kept.of(node.args[0])[-1 if op_name(node) == LINEAR else 1]
    columns = old.flatten(1).shape[1]
    left = torch.ones(columns, dtype=torch.bool)
    if stays is not None:
        left = torch.from_numpy(stays).repeat_interleave(columns // len(stays))
    size = int(left.sum()) + (bias is not None)
    moment, cross = torch.zeros(size, size).double(), torch.zeros(len(old), size).double()
    for pair in pairs:
        rows = _rows(node, pair.masked.env[node.args[0]])[:, left].double()
        if bias is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        error = _outputs(node, pair.whole.env[node] - pair.masked.env[node]).double()
        moment += rows.T @ rows
        cross += error.T @ rows
    if not bool(moment.any()):
        return {}
    damping = DAMPING * moment.diagonal().mean() * torch.eye(size).double()
    change = torch.linalg.solve(moment + damping, cross.T).T
    flat = old.flatten(1).double()
    flat[:, left] += change[:, : int(left.sum())]
    new = {weight: flat.reshape(old.shape).to(old)}
    if bias is not None:
        before = pairs[0].masked.env[bias]
        new[bias] = (before.double() + change[:, -1]).to(before)
    for pair in pairs:
        pair.masked.env.update(new)
        pair.masked.env[node] = pair.masked.run_node(node)
    return new


def _is_fitted(study: Scoring, node: fx.Node) -> bool:
    if op_name(node) not in (LINEAR, CONVOLUTION):
        return False
    weight = node.args[1]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return False
    if len(study.readers[weight_key(weight)]) > 1:
        return False
    window = Window.of(node) if op_name(node) == CONVOLUTION else None
    return op_name(node) == LINEAR or (window is not None and window.groups == 1)


def _weight(node: fx.Node) -> fx.Node:
    found: Any = node.args[1]
    return found


def _bias(study: Scoring, node: fx.Node) -> fx.Node | None:
    """The bias of a layer that nothing else reads."""
    bias: Any = node.args[2] if len(node.args) > 2 else None
    if not isinstance(bias, fx.Node) or bias.op != "get_attr":
        return None
    return bias if len(study.readers[weight_key(bias)]) == 1 else None


def _rows(node: fx.Node, value: Tensor) -> Tensor:
    """What each output of a layer is a product of: [outputs, columns of the weight]."""
    window = Window.of(node) if op_name(node) == CONVOLUTION else None
    if window is None:
        return value.reshape(-1, value.shape[-1])
    found = functional.unfold(value, window.kernel, window.dilation, window.padding, window.stride)
    return found.transpose(1, 2).reshape(-1, found.shape[1])


def _outputs(node: fx.Node, value: Tensor) -> Tensor:
    """A layer's output as [outputs, features]."""
    value = value.movedim(1, -1) if op_name(node) == CONVOLUTION else value
    return value.reshape(-1, value.shape[-1])


def _batches(program: Program, study: Scoring) -> Iterator[list[Tensor]]:
    """The first batches, with `MOST_ROWS` rows or a few more."""
    if study.ctx.calibration is None:
        raise DataError("the repair needs calibration data; give it with --calib")
    rows = 0
    for batch in CalibrationData(program, study.ctx.calibration):
        inputs = [batch[spec.name] for spec in program.signature.inputs]
        yield inputs
        rows += inputs[0].shape[0] if inputs[0].dim() else 1
        if rows >= MOST_ROWS:
            return


def _last_readers(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """By node, the calls and weights that nothing after it reads."""
    found: dict[fx.Node, list[fx.Node]] = {}
    place = {node: at for at, node in enumerate(nodes)}
    for node in nodes:
        readers = [place[user] for user in node.users if user in place]
        if node.op == "call_function" and len(readers) == len(node.users) and readers:
            found.setdefault(nodes[max(readers)], []).append(node)
    return found
