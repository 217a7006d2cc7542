"""Whole recipes of 8-bit quantization, and what a model of their quality is told of them."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from effc.ir.cost import node_cost, typical_sizes
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.passes.bits.layers import KINDS
from effc.passes.registry import parse_pipeline, pipeline_text

KNOBS: dict[str, tuple[str, ...]] = {
    "observer": ("auto", "minmax", "percentile", "entropy", "mse"),
    "weight_observer": ("minmax", "mse"),
    "activations": ("auto", "static", "dynamic"),
    "residual": ("auto", "float"),
    "edges": ("quantized", "first", "last", "both"),
}
EDGES = {
    "quantized": "",
    "first": "skip_first=true",
    "last": "skip_last=true",
    "both": "skip_first=true skip_last=true",
}


@dataclass(frozen=True)
class Candidate:
    """A recipe: calibrator, clipping of weights, granularity of activations, what stays in float.

    Attributes:
        values: A value per knob.
    """

    values: tuple[str, ...]

    @property
    def settings(self) -> dict[str, str]:
        """By knob."""
        return dict(zip(KNOBS, self.values, strict=True))

    @property
    def passes(self) -> str:
        """The pipeline, as it prints."""
        words = {name: value for name, value in self.settings.items() if name != "edges"}
        options = [f"{name}={value}" for name, value in words.items()]
        options.append(EDGES[self.settings["edges"]])
        return pipeline_text(parse_pipeline(f"quantize{{{' '.join(filter(None, options))}}}"))

    @property
    def features(self) -> list[float]:
        """One number per value of every knob: 1 for the one it has."""
        return [
            float(value == chosen)
            for chosen, values in zip(self.values, KNOBS.values(), strict=True)
            for value in values
        ]


def candidates() -> Iterator[Candidate]:
    """All recipes; those that differ only in what dynamic activations ignore come once."""
    for values in itertools.product(*KNOBS.values()):
        found = Candidate(values)
        is_dynamic = found.settings["activations"] == "dynamic"
        if not (is_dynamic and (found.settings["observer"], found.settings["residual"])
                != ("auto", "auto")):  # fmt: skip
            yield found


def graph_features(program: Program) -> list[float]:
    """What distinguishes models: layers and multiply-adds by kind, size, depthwise layers."""
    sizes = typical_sizes(program)
    macs: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    counts: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    depthwise, attention = 0, 0
    for node in program.forward.graph.nodes:
        name = op_name(node)
        attention += "scaled_dot_product" in name
        if name not in KINDS:
            continue
        counts[name] += 1
        macs[name] += node_cost(program, node).at(sizes)["macs"]
        depthwise += name == "aten.conv2d.default" and _groups(node) > 1
    total, layers = sum(macs.values()) or 1.0, sum(counts.values()) or 1.0
    shares = [macs[name] / total for name in KINDS] + [counts[name] / layers for name in KINDS]
    return [
        *shares, math.log1p(layers), math.log1p(total), math.log1p(program.weight_nbytes),
        depthwise / layers, attention / layers,
    ]  # fmt: skip


def _groups(node: Any) -> int:
    return int(node.args[6]) if len(node.args) > 6 else 1
