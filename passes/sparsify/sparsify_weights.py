"""The pass `sparsify-weights`: zeros in weights, anywhere or in patterns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import fx

from effc.ir.errors import ModelError, Refusal, UsageError
from effc.ir.ops.blocks import DEPTHS
from effc.ir.program import Program
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.layers import layer_names
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.bits.rounding.walk import Found, Inputs, Walk
from effc.passes.bits.weight_writer import bias_of
from effc.passes.calibrate.statistics import Statistics, statistics_of
from effc.passes.lower.blocks import lanes_of
from effc.passes.sparsify.dsnot import refined
from effc.passes.sparsify.job import Job, Reading, Sparse, lost
from effc.passes.sparsify.methods import FUNCTIONS, WITHOUT_DATA, Method
from effc.passes.sparsify.obert import FISHER_NBYTES, Fisher, fisher_nbytes, fisher_of
from effc.passes.sparsify.patterns import Pattern
from effc.passes.sparsify.ratios import Spread, needs_data, ratios
from effc.passes.sparsify.resume import Solved
from effc.passes.sparsify.sites import Site, sites_of

RULE = "sparsify-weights"
RATIO = 0.5
MASKS_ONLY = ("magnitude", "wanda", "random")
Refinement = Literal["none", "dsnot"]


@dataclass(frozen=True)
class SparsifyWeights(Pass):
    """Zeros in the weights of linears and convolutions; shapes stay.

    Blocks of zeros as tall as a vector make linears faster (`lower-blocks`). Zeros anywhere and
    N:M make what is stored smaller once it is compressed, not faster.

    Attributes:
        pattern: `unstructured`; N:M such as `2:4`, N of M neighbouring inputs stay; blocks such as
            `16x4`, rows (outputs) by columns (inputs).
        ratio: The share that goes; N:M has its own.
        method: `magnitude`, `wanda`, `sparsegpt`, `obert`, `pst`, or `random`, the control. All but
            the first and last need calibration data.
        refine: `dsnot` swaps weights under masks of `magnitude`, `wanda` and `random`.
        spread: How the share differs between layers: `uniform`, `global`, `lamp`, `owl`.
        sequential: Whether linears are done for what the sparse layers before them compute, or for
            what the whole model computes. Convolutions have statistics of the whole model.
    """

    name: ClassVar[str] = RULE
    layer_options: ClassVar[tuple[str, ...]] = ("pattern", "ratio")
    pattern: str = "unstructured"
    ratio: float | None = None
    method: Method = "wanda"
    refine: Refinement = "none"
    spread: Spread = "uniform"
    sequential: bool = True

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Choose and zero, layer after layer.

        Raises:
            UsageError: For options that do not go together, or where no weight can get zeros.
            DataError: If the calibration data cannot be used.
            ModelError: If a weight holds NaN or infinite values.
        """
        check_patterns(ctx, layer_names(program))
        pattern = self._checked(ctx)
        wanted = pattern.ratio(RATIO if self.ratio is None else self.ratio)
        sites, refusals = sites_of(program, ctx, RULE, pattern, wanted)
        if self.method == "obert":
            sites, refusals = _that_fit(sites, refusals)
        if not sites:
            raise _nothing(program, refusals)
        run = _Run(self, program, ctx, sites)
        run.all()
        if not run.notes:
            raise _nothing(program, run.refusals)
        return Outcome(True, {"layers": run.notes, **run.total()}, (*refusals, *run.refusals))

    @property
    def has_data(self) -> bool:
        """Whether methods look at calibration data."""
        return self.method not in WITHOUT_DATA or self.refine == "dsnot"

    def _checked(self, ctx: PassContext) -> Pattern:
        pattern = Pattern.parse(self.pattern)
        if self.ratio is not None and not 0 < self.ratio < 1:
            what = "nothing" if self.ratio >= 1 else "everything"
            raise UsageError(f"pass {RULE}: ratio={self.ratio:g} leaves {what}")
        own = pattern.ratio(RATIO)
        if pattern.is_fixed and self.ratio is not None and abs(self.ratio - own) > 1e-6:
            raise UsageError(f"pass {RULE}: pattern={self.pattern} has the ratio {own:g}")
        if pattern.is_fixed and self.spread != "uniform":
            raise UsageError(f"pass {RULE}: spread={self.spread} needs a pattern of any ratio")
        if self.refine == "dsnot" and (pattern.is_block or self.method not in MASKS_ONLY):
            raise UsageError(
                f"pass {RULE}: refine=dsnot goes with {', '.join(MASKS_ONLY)} and no blocks"
            )
        if ctx.calibration is None and (self.has_data or needs_data(self.spread, self.method)):
            raise UsageError(f"pass {RULE}: method={self.method} needs data; give --calib")
        return pattern


class _Run:
    """One program on its way.

    Args:
        options: Of the pass.
        program: To change.
        ctx: Data, seed and store.
        sites: The weights, in graph order.
    """

    def __init__(
        self, options: SparsifyWeights, program: Program, ctx: PassContext, sites: list[Site]
    ) -> None:
        self.options, self.program, self.ctx, self.sites = options, program, ctx, sites
        self.notes: dict[str, dict[str, Any]] = {}
        self.refusals: list[Refusal] = []
        self.solved = Solved.of(options, program, ctx) if options.has_data else Solved(None)
        self.fisher: dict[str, Fisher] = {}
        self.statistics = self._statistics()
        self.shares = self._shares()
        if options.method == "obert":
            runs = {str(site.layer.weight.target): site.pattern.run for site in sites}
            self.fisher = fisher_of(program, ctx, runs)
        self.elements = [0, 0]

    def all(self) -> None:
        """Convolutions first, then linears in the order of the graph."""
        walked: dict[fx.Node, Site] = {}
        for site in self.sites:
            if self.options.has_data and self.options.sequential and site.window is None:
                walked[site.layer.node] = site
                continue
            self._solve(site, self._reading(site))
        if walked:
            assert self.ctx.calibration is not None, "options are checked"
            wanted: dict[fx.Node, Callable[[Inputs], Found]] = {
                node: partial(self._reached, site) for node, site in walked.items()
            }
            Walk(self.program, self.ctx.calibration, is_paired=False).run(wanted)

    def total(self) -> dict[str, Any]:
        """What the report shows of the whole."""
        left, whole = self.elements
        lanes = lanes_of(self.ctx.target)
        gain = gain_of(Pattern.parse(self.options.pattern), lanes)
        return {"density": left / whole, "gain": gain}

    def _statistics(self) -> Statistics | None:
        """Of the whole model, where anything reads them."""
        options = self.options
        is_read = needs_data(options.spread, options.method)
        is_read |= options.has_data and not options.sequential
        is_read |= options.has_data and any(site.window is not None for site in self.sites)
        if not is_read:
            return None
        names = [site.layer.value.name for site in self.sites]
        return statistics_of(self.program, self.ctx, names, moments=True)

    def _reading(self, site: Site) -> Reading | None:
        if self.statistics is None:
            return None
        return Reading.of_statistics(self.statistics[site.layer.value.name], site.window)

    def _shares(self) -> dict[Site, float]:
        """The share of each weight that goes."""
        options = self.options
        sites = self.sites
        if needs_data(options.spread, options.method):
            sites = [site for site in sites if self._reading(site) is not None]
        found = ratios([self._job(s, self._reading(s)) for s in sites], options.spread,
                       options.method)  # fmt: skip
        return dict(zip(sites, found, strict=True))

    def _job(self, site: Site, reading: Reading | None, ratio: float | None = None) -> Job:
        share = site.ratio if ratio is None else ratio
        fisher = self.fisher.get(str(site.layer.weight.target))
        rng = self.ctx.rng(site.layer.name)
        return Job(site.matrix, site.pattern, share, reading, fisher, rng)

    def _reached(self, site: Site, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Do a linear the walk has reached."""
        weight = self._solve(site, Reading.of_inputs(inputs))
        return weight, bias_of(site.layer.node, self.program.forward)

    def _solve(self, site: Site, reading: Reading | None) -> torch.Tensor:
        """Find the zeros of a weight and write it."""
        if site not in self.shares or (self.options.has_data and reading is None):
            reason = "its second moments did not fit in memory"
            self.refusals.append(Refusal(RULE, site.layer.name, reason))
            return site.weight
        job = self._job(site, reading, self.shares[site])
        found = self.solved.get(site.layer.name)
        if found is None:
            found = self._found(job)
            self.solved.put(site.layer.name, found)
        if not np.isfinite(found.weight).all():
            raise ModelError(f"{self.options.method} gives {site.layer.name} infinite weights")
        self._note(site, job, found.weight, reading)
        self.ctx.progress(RULE, len(self.notes), len(self.sites))
        return site.replace(self.program, found.weight)

    def _found(self, job: Job) -> Sparse:
        found = FUNCTIONS[self.options.method](job)
        return refined(job, found.mask) if self.options.refine == "dsnot" else found

    def _note(self, site: Site, job: Job, after: Matrix, reading: Reading | None) -> None:
        left = int(np.count_nonzero(after))
        self.elements = [self.elements[0] + left, self.elements[1] + after.size]
        error = lost(job.weight, after, reading)
        self.notes[site.layer.name] = {"density": left / after.size, "relative_error": error}


def gain_of(pattern: Pattern, lanes: int) -> str:
    """What zeros buy: kernels pass over blocks of a vector of outputs."""
    if pattern.rows % lanes:
        return "size only"
    fast = [str(dtype)[6:] for dtype, depth in DEPTHS.items() if pattern.columns % depth == 0]
    return f"size, and time in {', '.join(fast)}"


def _nothing(program: Program, refusals: Sequence[Refusal]) -> UsageError:
    why = f": {refusals[0].reason}" if refusals else ""
    return UsageError(f"pass {RULE}: {program.name} has no weight that can get zeros{why}")


def _that_fit(sites: Iterable[Site], refusals: list[Refusal]) -> tuple[list[Site], list[Refusal]]:
    """Those whose Fisher blocks fit in memory together."""
    free, left, refused = FISHER_NBYTES, list[Site](), list(refusals)
    for site in sites:
        nbytes = fisher_nbytes(len(site.weight), site.weight[0].numel(), site.pattern.run)
        if nbytes > free:
            reason = "its Fisher matrix exceeds the memory left for them"
            refused.append(Refusal(RULE, site.layer.name, reason))
            continue
        free -= nbytes
        left.append(site)
    return left, refused
