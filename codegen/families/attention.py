"""Softmax attention as one kernel: scores, mask, softmax and weighted sum of a tile of queries.

A first stage packs the keys so that a vector holds neighbouring keys. Then every task takes some
tiles of queries through the keys in blocks whose scores stay in first-level cache; no score matrix
ever exists.
"""

from torch import fx

from effc.codegen.families.attention_frame import Frame
from effc.codegen.families.attention_pack import pack_stage
from effc.codegen.families.attention_problem import problem_of
from effc.codegen.families.attention_tile import (
    Attention,
    AttentionSchedule,
    default_of,
    schedules,
)
from effc.codegen.isa import Isa
from effc.codegen.kernel import Kernel
from effc.codegen.region import Region
from effc.codegen.schedule import Space
from effc.ir.errors import BuildError


def space(region: Region, isa: Isa) -> Space:
    """Every schedule of an attention, the default first."""
    return schedules(region, problem_of(region, _anchor_of(region), isa))


def build(
    region: Region,
    isa: Isa,
    name: str,
    symbols: tuple[str, ...],
    schedule: AttentionSchedule | None = None,
) -> Kernel:
    """Make the kernel of a region whose anchor is softmax attention."""
    anchor = _anchor_of(region)
    problem = problem_of(region, anchor, isa)
    chosen = schedule or default_of(region, problem)
    pack = pack_stage(region, problem, isa, f"{name}_pack", symbols)
    frame = Frame(region, anchor, problem, isa, name, symbols)
    attend = Attention(frame, anchor, chosen)
    temporaries = frame.sizes.temporaries(region.inputs[problem.key].shape[:-2])
    stages = (pack, attend.stage())
    return Kernel("attention", stages, temporaries=temporaries, scratch=attend.scratch())


def _anchor_of(region: Region) -> fx.Node:
    anchor = region.anchor()
    if anchor is None:
        raise BuildError("an attention region without attention")
    return anchor
