"""What a kernel has to do at least: multiply-adds, and bytes that must move once."""

from dataclasses import dataclass

from effc.codegen.region import Region
from effc.ir.opspec import op_name, spec_of
from effc.ir.symbols import Size, product, simplify

TINY_MACS, TINY_NBYTES = 1 << 16, 1 << 16


@dataclass(frozen=True)
class Work:
    """The least work of a kernel.

    Attributes:
        macs: Multiply-adds of its anchor.
        nbytes: Bytes of everything it reads and writes, each once.
        precision: What is multiplied: `int8`, `bfloat16`, `float32`, or nothing.
    """

    macs: Size = 0
    nbytes: Size = 0
    precision: str = ""

    @property
    def is_tiny(self) -> bool:
        """Whether one thread does it in about the time that two threads take to meet."""
        limits = ((self.macs, TINY_MACS), (self.nbytes, TINY_NBYTES))
        return all(isinstance(size, int) and size <= limit for size, limit in limits)


def work_of(region: Region) -> Work:
    """Count the work of a region."""
    accesses = (*region.inputs, *region.outputs)
    nbytes = simplify(sum((product([*a.shape, a.dtype.itemsize]) for a in accesses), start=0))
    anchor = region.anchor()
    spec = spec_of(anchor) if anchor is not None else None
    if anchor is None or spec is None or spec.macs is None:
        return Work(0, nbytes)
    return Work(spec.macs(anchor, region.names), nbytes, precision_of(op_name(anchor)))


def precision_of(name: str) -> str:
    """What an anchor multiplies."""
    if "integer" in name:
        return "int8"
    return "bfloat16" if "half" in name else "float32"
