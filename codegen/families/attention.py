"""Softmax attention as one kernel: scores, mask, softmax and weighted sum of a tile of queries.

A first stage packs the keys so that a vector holds neighbouring keys. Then every task takes some
tiles of queries through the keys in blocks whose scores stay in first-level cache; no score matrix
ever exists.
"""

from effc.codegen.families.attention_frame import Frame
from effc.codegen.families.attention_pack import pack_stage
from effc.codegen.families.attention_problem import problem_of
from effc.codegen.families.attention_tile import Attention
from effc.codegen.isa import Isa
from effc.codegen.kernel import Kernel
from effc.codegen.region import Region
from effc.ir.errors import BuildError


def build(region: Region, isa: Isa, name: str, symbols: tuple[str, ...]) -> Kernel:
    """Make the kernel of a region whose anchor is softmax attention."""
    anchor = region.anchor()
    if anchor is None:
        raise BuildError("an attention region without attention")
    problem = problem_of(region, anchor, isa)
    pack = pack_stage(region, problem, isa, f"{name}_pack", symbols)
    frame = Frame(region, anchor, problem, isa, name, symbols)
    attend = Attention(frame, anchor)
    temporaries = frame.sizes.temporaries(region.inputs[problem.key].shape[:-2])
    stages = (pack, attend.stage())
    return Kernel("attention", stages, temporaries=temporaries, scratch=attend.scratch())
