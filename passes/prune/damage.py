"""What it costs to cut a group to a count, measured at the outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from effc.ir.coupling.groups import Group
from effc.ir.coupling.kept import Kept
from effc.ir.coupling.masking import Masked
from effc.ir.program import Program, attribute, set_attribute
from effc.passes.bits.metrics.study import Study
from effc.passes.prune.importance.scoring import Scoring
from effc.passes.prune.repair import repair

STAGE = "measure cuts"
LARGEST = float(np.finfo(np.float32).max)  # in the place of infinity, which solvers cannot add


def cut_losses(
    scoring: Scoring,
    study: Study,
    groups: Sequence[Group],
    orders: Sequence[NDArray[np.int64]],
    levels: Sequence[Sequence[int]],
    key: str,
) -> list[list[float]]:
    """Divergence of the outputs with one group at a time cut to each count, made good by `columns`.

    What was measured is kept in the study's store. A smaller count is never said to lose less.

    Args:
        scoring: The whole program; with statistics that hold second moments, what reads the group
            is fitted first.
        study: Of the same program: the sample, and how outputs are compared.
        groups: Which.
        orders: Per group, its atoms, those that go first first.
        levels: Per group, the counts that may stay, falling from the whole size.
        key: Of what the orders depend on.

    Returns:
        Per group and count.
    """
    found = []
    for done, (group, order, counts) in enumerate(zip(groups, orders, levels, strict=True)):
        study.ctx.progress(STAGE, done, len(groups))
        name = f"cuts {key} {done} {group.name} {' '.join(map(str, counts))}"
        losses = study.recalled(name).get("losses")
        if losses is None:
            cuts = [order[: group.size - count] for count in counts]
            losses = [_measured(scoring, study, cut) for cut in cuts]
            study.remember(name, {"losses": losses})
        found.append(np.maximum.accumulate(losses).tolist())
    study.ctx.progress(STAGE, len(groups), len(groups))
    return found


def _measured(scoring: Scoring, study: Study, cut: NDArray[np.int64]) -> float:
    """Mean divergence of the outputs on the sample."""
    if not len(cut):
        return 0.0
    kept = Kept(scoring.coupling, cut)
    with _restored(scoring.program), torch.no_grad():
        if scoring.has_moments:
            repair(scoring, kept)
        outputs = [
            Masked(scoring.program, kept).run(*batch.inputs, enable_io_processing=False)
            for batch in study.sample
        ]
    return min(study.divergence_on(study.sample, outputs), LARGEST)


@contextmanager
def _restored(program: Program) -> Iterator[None]:
    """Put the weights back in the end."""
    module = program.forward
    names = dict.fromkeys(str(n.target) for n in module.graph.find_nodes(op="get_attr"))
    before = {name: attribute(module, name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if attribute(module, name) is not value:
                set_attribute(module, name, value)
