"""Which weights can be sparsified, and why the others cannot."""

from dataclasses import dataclass

from torch import Tensor

from effc.ir.errors import ModelError, Refusal, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, attribute, set_attribute
from effc.ir.provenance import label
from effc.passes.base import PassContext
from effc.passes.bits.layers import LATER, Layer, weight_reason
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.bits.weights import TensorKey, tensor_key
from effc.passes.calibrate.windows import Window
from effc.passes.sparsify.patterns import Pattern

LINEAR, CONVOLUTION = "aten.linear.default", "aten.conv2d.default"
KINDS = {LINEAR: "linear", CONVOLUTION: "conv2d"}


@dataclass(frozen=True, eq=False)
class Site:
    """A weight that gets zeros.

    Attributes:
        layer: The first layer that reads it.
        pattern: Where zeros may be.
        ratio: The share that goes.
        weight: float32 [out, ...].
    """

    layer: Layer
    pattern: Pattern
    ratio: float
    weight: Tensor

    @property
    def matrix(self) -> Matrix:
        """float64 [out, columns]."""
        found: Matrix = self.weight.detach().flatten(1).double().numpy()
        return found

    @property
    def window(self) -> Window | None:
        """The window of a convolution."""
        return Window.of(self.layer.node) if self.layer.kind == "conv2d" else None

    def replace(self, program: Program, matrix: Matrix) -> Tensor:
        """Put another weight in place of this one wherever it is read; what was put there."""
        from_numpy = self.weight.new_tensor(matrix).reshape(self.weight.shape)
        key = tensor_key(self.weight)
        for module in program.methods.values():
            for node in module.graph.find_nodes(op="get_attr"):
                if tensor_key(attribute(module, str(node.target))) == key:
                    set_attribute(module, str(node.target), from_numpy)
        return from_numpy


def sites_of(
    program: Program, ctx: PassContext, rule: str, pattern: Pattern, ratio: float
) -> tuple[list[Site], list[Refusal]]:
    """The weights of `forward` in graph order, tied ones once, and what is left alone.

    Raises:
        UsageError: If a rule makes no sense.
        ModelError: If a weight holds NaN or infinite values.
    """
    module = program.methods[FORWARD]
    found: dict[TensorKey, Site] = {}
    refusals = []
    for node in module.graph.nodes:
        name, op = label(node), op_name(node)
        if op in LATER:
            reason = "only weights of linears and 2D convolutions are changed"
            refusals.append(Refusal(rule, name, reason))
        if op not in KINDS:
            continue
        layer = Layer(node, name, "linear" if op == LINEAR else "conv2d")
        own, share = _of_rules(name, ctx, pattern, ratio)
        reason = _reason(layer, ctx, own, share, program)
        if reason:
            refusals.append(Refusal(rule, name, reason))
            continue
        weight = attribute(module, str(layer.weight.target))
        if not bool(weight.isfinite().all()):
            raise ModelError(f"the weight of {name} holds NaN or infinite values")
        found.setdefault(tensor_key(weight), Site(layer, own, share, weight))
    return list(found.values()), refusals


def _of_rules(name: str, ctx: PassContext, pattern: Pattern, ratio: float) -> tuple[Pattern, float]:
    options = ctx.options_for(name)
    if "pattern" in options:
        pattern = Pattern.parse(options["pattern"])
    if "ratio" in options:
        try:
            ratio = float(options["ratio"])
        except ValueError as error:
            raise UsageError(f"ratio={options['ratio']} for layer {name} is no number") from error
        if not 0 <= ratio < 1:
            raise UsageError(f"ratio={ratio:g} for layer {name} is not from 0 to below 1")
    return pattern, 0.0 if ratio == 0 else pattern.ratio(ratio)


def _reason(
    layer: Layer, ctx: PassContext, pattern: Pattern, ratio: float, program: Program
) -> str:
    if layer.name in ctx.kept:
        return "kept as it is for the quality budget"
    if ctx.is_excluded(layer.name):
        return "excluded by the user"
    if ratio == 0:
        return "a rule keeps it as it is (ratio=0)"
    if reason := weight_reason(layer):
        return reason
    weight = layer.weight.meta["val"]
    if weight.dim() < 2:
        return "its weight is a vector"
    if layer.kind == "conv2d":
        window = Window.of(layer.node)
        if layer.value.meta["val"].dim() != 4 or window is None:
            return "its input has no batch dimension, or its padding is not given in numbers"
        if window.groups > 1:
            return "the filters of a grouped convolution are too small to lose weights"
    return pattern.reason(int(weight[0].numel())) or _shared(layer, program)


def _shared(layer: Layer, program: Program) -> str:
    """Who else reads the weight and would see the zeros."""
    module = program.methods[FORWARD]
    key = tensor_key(attribute(module, str(layer.weight.target)))
    for method in program.methods.values():
        for node in method.graph.find_nodes(op="get_attr"):
            if tensor_key(attribute(method, str(node.target))) != key:
                continue
            for user in node.users:
                if op_name(user) not in KINDS or user.args[1] is not node:
                    return f"its weight is also read by {label(user)}"
    return ""
