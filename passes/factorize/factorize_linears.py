"""The pass `factorize-linears`: weights as products of smaller ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.layers import layer_names
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.bits.rounding.walk import Found, Inputs, Walk
from effc.passes.bits.weight_writer import bias_of
from effc.passes.bits.weights import TensorKey, tensor_key
from effc.passes.calibrate.statistics import statistics_of
from effc.passes.factorize.factors import Factors, Vector, block_shuffle, energies, low_rank
from effc.passes.factorize.ranks import Choice, by_budget, by_energy, uniform
from effc.passes.factorize.writing import RANKS, write
from effc.passes.sparsify.job import Reading, lost
from effc.passes.sparsify.patterns import Pattern
from effc.passes.sparsify.sites import LINEAR, Site, sites_of

RULE = "factorize-linears"
NO_GAIN = "factors with so many parameters are no smaller than the weight"
NO_MOMENT = "the second moments of its input did not fit in memory"
DAMPING = 0.01
Form = Literal["low-rank", "block-shuffle"]
Spread = Literal["uniform", "energy", "budget"]


@dataclass(frozen=True)
class FactorizeLinears(Pass):
    """Linears become two smaller ones, the best for what they read on calibration data.

    Attributes:
        form: `low-rank`, two thin matrices; `block-shuffle`, two block-diagonal ones (Monarch).
        ratio: The share of parameters that goes; that of a rule counts with `spread=uniform`.
        spread: How much goes of a layer: `uniform`; `budget`, ranks that explain most of their
            layer's output per parameter, `ratio` holding for all together; `energy`, the smallest
            rank that explains a share of the output.
        energy: That share, for `spread=energy`.
        blocks: For `block-shuffle`: blocks of either matrix.
        align: Ranks are multiples of it.
        whiten: Whether inputs are looked at; without, the error of the weight is the least.
        sequential: Whether a layer is factorised for what the factors before it compute.
        compensation: For `sequential`: share of the change of the weight that best makes up for
            what was done to its input.
    """

    name: ClassVar[str] = RULE
    layer_options: ClassVar[tuple[str, ...]] = ("ratio",)
    form: Form = "low-rank"
    ratio: float = 0.3
    spread: Spread = "uniform"
    energy: float = 0.95
    blocks: int = 4
    align: int = 16
    whiten: bool = True
    sequential: bool = True
    compensation: float = 0.5

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Choose ranks, find factors layer after layer, rewrite.

        Raises:
            UsageError: For options that make no sense, or where no layer gets smaller.
            DataError: If the calibration data cannot be used.
            ModelError: If a weight holds NaN or infinite values.
        """
        self._check(ctx)
        check_patterns(ctx, layer_names(program))
        sites, refusals = sites_of(program, ctx, RULE, Pattern(), self.ratio)
        sites, refused = _split(sites, self._reason)
        refusals += refused
        moments = self._moments(program, ctx, sites)
        sites, refused = _split(sites, lambda site: "" if site in moments else NO_MOMENT)
        refusals += refused
        ranks = self._ranks(sites, moments)
        refusals += [Refusal(RULE, s.layer.name, NO_GAIN) for s in sites if not ranks[s]]
        chosen = [site for site in sites if ranks[site]]
        if not chosen:
            why = f": {refusals[0].reason}" if refusals else ""
            raise UsageError(f"pass {RULE}: {program.name} has no linear that gets smaller{why}")
        run = _Run(self, program, ctx, ranks, moments)
        run.all(chosen)
        rewrite(program, run.found)
        return Outcome(True, {"layers": run.notes, "parameters": run.parameters}, (*refusals,))

    def _check(self, ctx: PassContext) -> None:
        if not 0 < self.ratio < 1:
            what = "nothing" if self.ratio >= 1 else "everything"
            raise UsageError(f"pass {RULE}: ratio={self.ratio:g} leaves {what}")
        if not 0 < self.energy < 1:
            raise UsageError(f"pass {RULE}: energy={self.energy:g} is not between 0 and 1")
        if self.align < 1 or self.blocks < 2:
            raise UsageError(f"pass {RULE}: align is at least 1, blocks at least 2")
        if self.form != "low-rank" and self.spread != "uniform":
            raise UsageError(f"pass {RULE}: spread={self.spread} goes with form=low-rank")
        if self.whiten and ctx.calibration is None:
            raise UsageError(f"pass {RULE}: whiten=true needs data; give --calib")

    def _reason(self, site: Site) -> str:
        """Why a layer has no such factors; empty if it has."""
        if site.layer.kind != "linear":
            return "only linears are factorised"
        if self.form == "low-rank":
            return ""
        out, columns = site.weight.shape
        if out % self.blocks or columns % self.blocks:
            return f"its {out} outputs or {columns} inputs are no multiple of {self.blocks} blocks"
        if site.layer.value.meta["val"].dim() not in RANKS:
            return "its input has fewer than 2 or more than 4 dimensions"
        return ""

    def _ranks(self, sites: list[Site], moments: dict[Site, Matrix | None]) -> dict[Site, int]:
        """The rank of every layer; 0 where it stays."""
        empty = np.zeros(0)
        if self.form == "block-shuffle":
            ranks = [self._rank_of_blocks(site) for site in sites]
            return dict(zip(sites, ranks, strict=True))
        if self.spread == "uniform":
            choices = [_choice(site, empty) for site in sites]
            return {
                site: uniform([one], site.ratio, self.align)[0]
                for site, one in zip(sites, choices, strict=True)
            }
        choices = [_choice(site, energies(site.matrix, moments[site])) for site in sites]
        if self.spread == "energy":
            ranks = by_energy(choices, self.energy, self.align)
        else:
            ranks = by_budget(choices, self.ratio, self.align)
        return dict(zip(sites, ranks, strict=True))

    def _rank_of_blocks(self, site: Site) -> int:
        """The rank of pairs of blocks that leaves a share of the parameters."""
        out, columns = site.weight.shape
        rank = int((1 - site.ratio) * out * columns / (self.blocks * (out + columns)))
        most = min(out, columns) // self.blocks
        return min(max(rank, 1), most) if self.blocks * (out + columns) < out * columns else 0

    def _moments(
        self, program: Program, ctx: PassContext, sites: list[Site]
    ) -> dict[Site, Matrix | None]:
        """Second moments of what each layer reads in the whole model, where they are known.

        None where nothing asks for them: ranks come from a ratio, or a walk sees the inputs.
        """
        is_ranked = self.form == "low-rank" and self.spread != "uniform"
        if not sites or not self.whiten or (self.sequential and not is_ranked):
            return dict.fromkeys(sites)
        names = [site.layer.value.name for site in sites]
        known = statistics_of(program, ctx, names, moments=True)
        found = {site: known[site.layer.value.name].moment for site in sites}
        return {site: moment for site, moment in found.items() if moment is not None}

    def factors(self, weight: Matrix, moment: Matrix | None, rank: int) -> Factors:
        """Those of the form."""
        if self.form == "low-rank":
            return low_rank(weight, moment, rank)
        return block_shuffle(weight, moment, self.blocks, rank)


class _Run:
    """One program on its way.

    Args:
        options: Of the pass.
        program: To look at.
        ctx: Data and progress.
        ranks: By layer.
        moments: By layer, what it reads in the whole model; None for white inputs.
    """

    def __init__(
        self,
        options: FactorizeLinears,
        program: Program,
        ctx: PassContext,
        ranks: dict[Site, int],
        moments: dict[Site, Matrix | None],
    ) -> None:
        self.options, self.program, self.ctx, self.ranks = options, program, ctx, ranks
        self.moments = moments
        self.found: dict[TensorKey, Factors] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self.parameters = [0, 0]

    def all(self, sites: list[Site]) -> None:
        """Layer after layer, in the order of the graph."""
        options = self.options
        if options.whiten and options.sequential:
            assert self.ctx.calibration is not None, "options are checked"
            wanted: dict[fx.Node, Callable[[Inputs], Found]] = {
                site.layer.node: partial(self._reached, site) for site in sites
            }
            Walk(self.program, self.ctx.calibration, options.compensation > 0).run(wanted)
            return
        for site in sites:
            self._solve(site, site.matrix, self.moments[site])

    def _reached(self, site: Site, inputs: Inputs) -> Found:
        weight, share = site.matrix, self.options.compensation
        if share > 0:
            weight = weight + share * (inputs.target(weight, DAMPING) - weight)
        dense = self._solve(site, weight, Reading.of_inputs(inputs).moment)
        made = torch.from_numpy(dense).to(site.weight.dtype)
        return made, bias_of(site.layer.node, self.program.forward)

    def _solve(self, site: Site, weight: Matrix, moment: Matrix | None) -> Matrix:
        """Factors of a layer; their product."""
        found = self.options.factors(weight, moment, self.ranks[site])
        self.found[tensor_key(site.weight)] = found
        reading = None if moment is None else Reading(moment, np.zeros(len(moment)), 1)
        after = found.first.size + found.second.size
        self.parameters = [self.parameters[0] + site.weight.numel(), self.parameters[1] + after]
        self.notes[site.layer.name] = {
            "rank": self.ranks[site],
            "parameters": [site.weight.numel(), after],
            "relative_error": lost(site.matrix, found.dense, reading),
        }
        self.ctx.progress(RULE, len(self.notes), len(self.ranks))
        return found.dense


def rewrite(program: Program, found: dict[TensorKey, Factors]) -> None:
    """Put factors in place of the linears that read their weights."""
    for method in program.methods:
        editor = Editor(program, method, RULE)
        for node in list(editor.graph.nodes):
            if op_name(node) != LINEAR or node.args[1].op != "get_attr":
                continue
            key = tensor_key(attribute(editor.module, str(node.args[1].target)))
            if key in found:
                write(editor, node, found[key])
        editor.remove_dead()
        editor.finish()


def _choice(site: Site, known: Vector) -> Choice:
    return Choice(len(site.weight), site.weight[0].numel(), known)


def _split(sites: list[Site], reason: Callable[[Site], str]) -> tuple[list[Site], list[Refusal]]:
    """Those without a reason against them, and the refusals of the others."""
    refused = [Refusal(RULE, site.layer.name, reason(site)) for site in sites if reason(site)]
    return [site for site in sites if not reason(site)], refused
