"""Least squares: the layers that read what is cut make up for it with what is left."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from effc.ir.coupling.call import weight_key
from effc.ir.coupling.kept import Kept, Rows
from effc.ir.opspec import op_name
from effc.ir.program import attribute, set_attribute
from effc.passes.calibrate.statistics import CONVOLUTION, LINEAR, windows_of
from effc.passes.calibrate.value import ValueStatistics
from effc.passes.calibrate.windows import Window
from effc.passes.prune.importance.scoring import Scoring

DAMPING = 1e-3
Matrix = NDArray[np.float64]


def repair(study: Scoring, kept: Kept) -> list[str]:
    """Change weights so that layers compute from what is left nearly what they did from all.

    With H = X^T X over calibration data and K the columns that stay, W' = W H_K (H_KK)^-1 has the
    least squared error. Where a layer has a bias, second moments are taken around the mean, and the
    bias takes up the mean of what goes (FLAP, An et al., 2023, arXiv 2312.11983).

    Args:
        study: The whole program with statistics that hold second moments; weights are replaced.
        kept: What stays.

    Returns:
        Names of the weights that changed.
    """
    changed = []
    for node in study.program.forward.graph.nodes:
        if op_name(node) not in (LINEAR, CONVOLUTION):
            continue
        weight: Any = node.args[1]
        stays = kept.of(node.args[0])[-1 if op_name(node) == LINEAR else 1]
        if stays is None or weight.op != "get_attr":
            continue
        if len(study.readers[weight_key(weight)]) > 1 or not _repaired(study, node, stays):
            continue
        changed.append(str(weight.target))
    return changed


def _repaired(study: Scoring, node: fx.Node, stays: Rows) -> bool:
    source, weight = node.args[0], node.args[1]
    known = study.statistics[source.name]
    module = study.program.forward
    old = attribute(module, str(weight.target))
    flat = np.asarray(old.detach().flatten(1).double())
    moment = _moment(node, known)
    if moment is None or not moment.any():
        return False
    columns = np.repeat(stays, flat.shape[1] // len(stays))
    mean = np.zeros(len(columns))
    bias = _bias(study, node)
    if bias is not None and op_name(node) == LINEAR:
        mean = known.channel_sum / known.rows
    centred = moment / known.rows - np.outer(mean, mean)
    new = flat.copy()
    new[:, columns] = _solved(flat, centred, columns)
    set_attribute(module, str(weight.target), torch.from_numpy(new).reshape(old.shape).to(old))
    if bias is not None and mean.any():
        value = attribute(module, str(bias.target))
        shift = flat @ mean - new[:, columns] @ mean[columns]
        set_attribute(
            module, str(bias.target), (value.double() + torch.from_numpy(shift)).to(value)
        )
    return True


def _solved(flat: Matrix, moment: Matrix, columns: Rows) -> Matrix:
    """W H_K (H_KK + d I)^-1, d a small share of the mean diagonal; exact where d is 0."""
    own = moment[np.ix_(columns, columns)]
    damping = DAMPING * float(np.diag(own).mean()) * np.eye(len(own))
    gone = moment[np.ix_(~columns, columns)]
    extra = np.linalg.solve(own + damping, gone.T).T
    return flat[:, columns] + flat[:, ~columns] @ extra


def _moment(node: fx.Node, known: ValueStatistics) -> Matrix | None:
    if op_name(node) == LINEAR:
        return known.moment
    window = Window.of(node)
    if window is None or window.groups != 1 or window not in windows_of(node.args[0]):
        return None
    found = known.windows.get(str(window))
    return None if found is None else found[0]


def _bias(study: Scoring, node: fx.Node) -> fx.Node | None:
    """The bias of a product that nothing else reads."""
    bias: Any = node.args[2] if len(node.args) > 2 else None
    if not isinstance(bias, fx.Node) or bias.op != "get_attr":
        return None
    return bias if len(study.readers[weight_key(bias)]) == 1 else None
