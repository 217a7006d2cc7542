"""Every pass by name, and the two-way text form of passes and pipelines.

fold-norms,prune-channels{ratio=0.3 importance=taylor},my_pkg.passes:MyPass{x=1}
"""

import dataclasses
import importlib
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from effc.ir.errors import UsageError
from effc.passes.base import Pass

PASSES: dict[str, str] = {
    "decompose-linear-attention": "effc.passes.lower.linear_attention:DecomposeLinearAttention",
    "decompose-rare": "effc.passes.lower.rare:DecomposeRare",
    "decompose-rows": "effc.passes.lower.decompose:DecomposeRows",
    "fuse-regions": "effc.passes.lower.regions:FuseRegions",
    "lower-blocks": "effc.passes.lower.blocks:LowerBlocks",
    "lower-half": "effc.passes.lower.half:LowerHalf",
    "select-rows": "effc.passes.lower.select_rows:SelectRows",
    "lower-integer": "effc.passes.lower.integer:LowerInteger",
    "allocate-bits": "effc.passes.bits.allocate_bits:AllocateBits",
    "allocate-channels": "effc.passes.prune.allocate_channels:AllocateChannels",
    "bfloat16": "effc.passes.bits.bfloat16:Bfloat16",
    "narrow-weights": "effc.passes.bits.narrow_weights:NarrowWeights",
    "quantize": "effc.passes.bits.quantize:Quantize",
    "quantize-weights": "effc.passes.bits.quantize_weights:QuantizeWeights",
    "recover": "effc.passes.recover.recover:Recover",
    "factorize-linears": "effc.passes.factorize.factorize_linears:FactorizeLinears",
    "merge-factors": "effc.passes.factorize.merge_factors:MergeFactors",
    "sparsify-weights": "effc.passes.sparsify.sparsify_weights:SparsifyWeights",
    "add-noise": "effc.passes.bits.conditioning.add_noise:AddNoise",
    "equalize-layers": "effc.passes.bits.conditioning.equalize_layers:EqualizeLayers",
    "peel-tokens": "effc.passes.bits.conditioning.peel_tokens:PeelTokens",
    "quantize-softmax": "effc.passes.bits.conditioning.quantize_softmax:QuantizeSoftmax",
    "rotate-residual": "effc.passes.bits.conditioning.rotate_residual:RotateResidual",
    "smooth-activations": "effc.passes.bits.conditioning.smooth_activations:SmoothActivations",
    "canonicalize": "effc.passes.clean.canonicalize:Canonicalize",
    "fold-constants": "effc.passes.clean.fold_constants:FoldConstants",
    "fold-identities": "effc.passes.clean.fold_identities:FoldIdentities",
    "fold-norms": "effc.passes.clean.fold_norms:FoldNorms",
    "prune-blocks": "effc.passes.prune.blocks:PruneBlocks",
    "prune-channels": "effc.passes.prune.channels:PruneChannels",
    "remove-dead": "effc.passes.clean.remove_dead:RemoveDead",
    "share-common": "effc.passes.clean.share_common:ShareCommon",
}

_ITEM = re.compile(r"\s*(?P<name>[\w.:-]+)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|$)")


def pass_class(name: str) -> type[Pass]:
    """The class of a registered pass, or of a user's `package.module:Class`.

    Raises:
        UsageError: If there is no such pass, with the names there are.
    """
    location = PASSES.get(name, name if ":" in name else "")
    if not location:
        raise UsageError(f"unknown pass {name!r}; there are: {', '.join(PASSES)}")
    module_name, _, class_name = location.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot import pass {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise UsageError(f"{name!r} is not a subclass of effc.Pass")
    return found


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """Read a comma-separated list of passes with their options.

    Raises:
        UsageError: For a syntax error, an unknown pass, an unknown option or a wrong value.
    """
    passes: list[Pass] = []
    position = 0
    while position < len(text):
        item = _ITEM.match(text, position)
        if item is None:
            raise UsageError(f"cannot read the pipeline at {text[position:]!r}")
        passes.append(_make(item["name"], item["options"] or ""))
        position = item.end()
    return tuple(passes)


def pass_text(instance: Pass) -> str:
    """The text form of a pass: its name and the options that differ from their defaults."""
    kind = type(instance)
    name = kind.name if kind.name in PASSES else f"{kind.__module__}:{kind.__qualname__}"
    changed = [
        f"{option.name}={_value_text(getattr(instance, option.name))}"
        for option in dataclasses.fields(instance)
        if getattr(instance, option.name) != option.default
    ]
    return f"{name}{{{' '.join(changed)}}}" if changed else name


def pipeline_text(passes: tuple[Pass, ...]) -> str:
    """The text form of a pipeline; `parse_pipeline` reads it back."""
    return ",".join(pass_text(instance) for instance in passes)


def _make(name: str, options: str) -> Pass:
    kind = pass_class(name)
    known = {option.name: option for option in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for word in options.split():
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if not equals or key not in known:
            allowed = ", ".join(known) or "none"
            raise UsageError(f"pass {name} has no option {word!r}; options are: {allowed}")
        values[key] = _value(name, key, known[key].type, value)
    return kind(**values)


def _value(pass_name: str, key: str, annotation: Any, value: str) -> Any:
    raw: Any = value
    if value == "none":
        raw = None
    elif "tuple" in str(annotation):
        raw = value.split("|") if value else []
    try:
        return TypeAdapter(annotation).validate_python(raw)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UsageError(f"pass {pass_name}: {key}={value}: {reason}") from error


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(map(_value_text, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
