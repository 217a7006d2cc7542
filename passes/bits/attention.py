"""Which attention of a program multiplies codes, and the nodes that make it."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import UsageError
from effc.ir.ops.attention import BLOCK
from effc.ir.program import FORWARD, Program, value_of
from effc.ir.provenance import label
from effc.ir.target import VNNI
from effc.passes.base import PassContext
from effc.passes.bits.activations import LARGEST
from effc.passes.bits.bfloat16 import ATTENTION, products_of, refused
from effc.passes.bits.encoding import Encoding, encoding_of
from effc.passes.bits.placement import Group
from effc.passes.calibrate.decibel import sqnr_db
from effc.passes.calibrate.observers import Observer
from effc.passes.calibrate.statistics import Statistics
from effc.passes.lower.half import attention_settings

FACTORS = ("query", "key", "value")
Factors: TypeAlias = dict[fx.Node, tuple[fx.Node, ...]]


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    Attributes:
        kind: `auto`, `float32`, `bfloat16` or `int8`.
        least_db: Predicted signal-to-noise ratio that weights and values must have for `auto` to
            choose codes.
        observe: Chooses the range of codes.
    """

    kind: str
    least_db: float
    observe: Observer


def candidates(program: Program, method: str, ctx: PassContext, kind: str) -> Factors:
    """The attention of a method that may multiply codes, with query, key and value.

    Raises:
        UsageError: If codes are asked for and there is no calibration data.
    """
    has_data = ctx.calibration is not None and method == FORWARD
    if kind == "int8" and not has_data:
        raise UsageError(f"attention=int8 needs calibration data for the method {method}")
    pays = ctx.target is not None and ctx.target.has(VNNI)
    if not (kind == "int8" or (kind == "auto" and pays and has_data)):
        return {}
    found = products_of(program.methods[method], {ATTENTION})
    wanted = [n for n in found if not ctx.is_excluded(label(n)) and refused(n) is None]
    return {node: node.args[:3] for node in wanted}


def quantize_attention(
    editor: Editor, wanted: Factors, statistics: Statistics, wish: Wish
) -> dict[str, dict[str, Any]]:
    """Let attention multiply codes where they are accurate enough.

    Args:
        editor: Of the method.
        wanted: The attention that may, with factors as they were before anything was quantized.
        statistics: Of the factors.
        wish: What the user asked for.

    Returns:
        Notes by layer.
    """
    notes: dict[str, dict[str, Any]] = {}
    for node, factors in wanted.items():
        encodings = [
            encoding_of(Group((factor,), (factor,)), statistics, wish.observe) for factor in factors
        ]
        ratios = {
            "softmax_sqnr_db": round(softmax_db(node, factors, encodings, statistics), 2),
            "value_sqnr_db": round(encodings[2].sqnr_db, 2),
        }
        if wish.kind == "int8" or min(ratios.values()) >= wish.least_db:
            notes[label(node)] = {"activation": "static uint8", **ratios}
            _write(editor, node, factors, encodings)
    return notes


def softmax_db(
    node: fx.Node, factors: tuple[fx.Node, ...], encodings: list[Encoding], statistics: Statistics
) -> float:
    """Predicted signal-to-noise ratio of the weights that come of the codes of query and key.

    The error of a score is the relative error of its weight. With errors that depend on nothing,
    its variance is `scale^2 E (P_q N_k + N_q P_k + N_q N_k)`, where P are the mean squares of
    queries and keys and N those of their errors.
    """
    powers, noises = [], []
    for factor, encoding in zip(factors[:2], encodings[:2], strict=True):
        values = statistics[factor.name]
        powers.append(float(values.channel_square.sum()) / values.count)
        noises.append(encoding.noise)
    features = value_of(factors[0]).shape[-1]
    scale: Any = attention_settings(node)[2]
    factor2 = 1 / features if scale is None else float(scale) ** 2
    crossed = powers[0] * noises[1] + noises[0] * powers[1] + noises[0] * noises[1]
    return sqnr_db(1.0, factor2 * features * crossed)


def _write(
    editor: Editor, node: fx.Node, factors: tuple[fx.Node, ...], encodings: list[Encoding]
) -> None:
    codes, scales, zero_points = [], [], []
    for name, factor, encoding in zip(FACTORS, factors, encodings, strict=True):
        path = f"{label(node)}_{name}"
        scale = editor.weight(f"{path}_scale", torch.tensor(encoding.scale), node)
        zero = torch.tensor(encoding.zero_point, dtype=torch.int32)
        zero_point = editor.weight(f"{path}_zero_point", zero, node)
        quantize = torch.ops.effc.quantize.default
        codes.append(
            editor.call(
                node, quantize, factor, scale, zero_point, 0, LARGEST, torch.uint8, before=node
            )
        )
        scales.append(scale)
        zero_points.append(zero_point)
    attention = editor.call(
        node, torch.ops.effc.attention_integer.default, *codes, scales[0], zero_points[0],
        scales[1], scales[2], zero_points[2], *attention_settings(node), BLOCK, before=node,
    )  # fmt: skip
    editor.replace(node, attention)
