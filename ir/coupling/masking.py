"""Running a whole program as if parts of it were cut: what goes is 0 in every value."""

from typing import Any

import torch
from torch import Tensor, fx

from effc.ir.coupling.call import is_tensor, named_arguments
from effc.ir.coupling.kept import Kept, Rows
from effc.ir.coupling.recurrent import RECURRENT
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program

STATISTICS = {
    f"aten.{name}"
    for name in (
        "layer_norm.default native_layer_norm.default rms_norm.default _fused_rms_norm.default "
        "group_norm.default mean.dim mean.default var.correction std.correction var.dim std.dim "
        "var_mean.correction amax.default amin.default logsumexp.default prod.dim_int max.default "
        "min.default"
    ).split()
}


class Masked(fx.Interpreter):
    """Runs a program on tensors of their whole sizes; after every call, what goes is set to 0.

    Norms, means and extrema go over what is left, as in a program that was cut.

    Args:
        program: The one `kept.coupling` was made of.
        kept: What stays.
        method: Which method to run.
    """

    def __init__(self, program: Program, kept: Kept, method: str = FORWARD) -> None:
        super().__init__(program.methods[method])
        self.program, self.kept, self.method = program, kept, method

    def outputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        signature = self.program.signatures[self.method]
        with torch.no_grad():
            results = self.run(
                *[inputs[spec.name] for spec in signature.inputs], enable_io_processing=False
            )
        names = [spec.name for spec in signature.outputs]
        return dict(zip(names, results, strict=True))

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and mask what it computes."""
        if n.op != "call_function":
            return super().run_node(n)
        if op_name(n) in STATISTICS:
            return self._of_what_is_left(n)
        is_recurrent = op_name(n) in RECURRENT
        value = self._of_masked_weights(n) if is_recurrent else super().run_node(n)
        axes = self.kept.coupling.state.axes[n]
        if isinstance(value, Tensor):
            return _masked(value, [self.kept.rows(axis) for axis in axes])
        if isinstance(value, list | tuple) and isinstance(axes, list):
            return [
                _masked(part, [self.kept.rows(axis) for axis in own])
                for part, own in zip(value, axes, strict=True)
            ]
        return value

    def _of_masked_weights(self, n: fx.Node) -> Any:
        """Call a recurrent layer, whose steps feed back, so that no unit that goes ever moves."""

        def masked(node: fx.Node) -> Any:
            value = self.env[node]
            return _masked(value, self.kept.of(node)) if is_tensor(node) else value

        operator: Any = n.target
        return operator(*fx.node.map_arg(n.args, masked), **fx.node.map_arg(n.kwargs, masked))

    def _of_what_is_left(self, n: fx.Node) -> Any:
        """Call on the positions that stay, and put the result in their places."""
        arguments = {}
        for name, given in named_arguments(n).items():
            value = fx.node.map_arg(given, lambda node: self.env[node])
            if is_tensor(given):
                value = _gathered(value, self.kept.of(given))
            arguments[name] = value
        source: Any = n.args[0]
        if "normalized_shape" in arguments:
            count = len(arguments["normalized_shape"])
            arguments["normalized_shape"] = list(arguments["input"].shape[-count:])
        rows = self.kept.of(source)
        if "num_groups" in arguments and rows[1] is not None:
            groups = arguments["num_groups"]
            arguments["num_groups"] = int(rows[1].reshape(groups, -1).any(1).sum())
        found = n.target(**arguments)
        axes = self.kept.coupling.state.axes[n]
        if isinstance(found, Tensor):
            return _scattered(found, [self.kept.rows(axis) for axis in axes])
        return [
            _scattered(part, [self.kept.rows(axis) for axis in own])
            for part, own in zip(found, axes, strict=True)
        ]


def _masked(value: Tensor, rows: list[Rows | None]) -> Tensor:
    for dimension, stays in enumerate(rows):
        if stays is not None:
            gone = torch.from_numpy((~stays).nonzero()[0])
            value = value.index_fill(dimension, gone, 0)
    return value


def _gathered(value: Tensor, rows: list[Rows | None]) -> Tensor:
    for dimension, stays in enumerate(rows):
        if stays is not None:
            value = value.index_select(dimension, torch.from_numpy(stays.nonzero()[0]))
    return value


def _scattered(value: Tensor, rows: list[Rows | None]) -> Tensor:
    for dimension, stays in enumerate(rows):
        if stays is not None:
            shape = list(value.shape)
            shape[dimension] = len(stays)
            whole = value.new_zeros(shape)
            value = whole.index_copy(dimension, torch.from_numpy(stays.nonzero()[0]), value)
    return value
