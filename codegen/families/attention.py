"""Softmax attention as one kernel: scores, mask, softmax and weighted sum of a tile of queries.

A first stage packs the keys so that a vector holds neighbouring keys. Then every task takes a tile
of queries: its scores stay in memory of the calling thread, and no score matrix ever exists.
"""

from effc.codegen.families.attention_pack import Packed, pack_stage
from effc.codegen.families.attention_pairs import AttentionOfPairs
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
    kind = AttentionOfPairs if problem.pairs else Attention
    attend = kind(region, anchor, problem, isa, name, symbols)
    stage = attend.stage()
    keys, values = Packed.of(region, problem, isa).nbytes(region.inputs[problem.key].shape[:-2])
    temporaries = {"keys": keys, "values": values} if problem.pairs else {"keys": keys}
    return Kernel("attention", (pack, stage), temporaries=temporaries, scratch=attend.scratch())
