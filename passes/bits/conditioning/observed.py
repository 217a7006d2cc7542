"""What linear layers read on calibration data."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, fx

from effc.ir.errors import UsageError
from effc.ir.program import Program, attribute
from effc.passes.base import PassContext
from effc.passes.bits.rounding.walk import Inputs, Walk
from effc.passes.bits.weight_writer import bias_of


def observe(
    program: Program, ctx: PassContext, linears: Iterable[fx.Node], rule: str,
    look: Callable[[fx.Node, Inputs], None],
) -> None:  # fmt: skip
    """Show a function what each linear reads, over all calibration data.

    Raises:
        UsageError: If there is no data.
        DataError: If it cannot be used.
    """
    if ctx.calibration is None:
        raise UsageError(f"pass {rule} needs data; give --calib")
    module = program.forward

    def seen(node: fx.Node) -> Callable[[Inputs], tuple[Tensor, Tensor | None]]:
        def show(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
            look(node, inputs)
            return attribute(module, str(node.args[1].target)), bias_of(node, module)

        return show

    Walk(program, ctx.calibration, is_paired=False).run({node: seen(node) for node in linears})


def rows_of(inputs: Inputs) -> Tensor:
    """All rows a layer reads: [tokens, features]."""
    return torch.cat([batch.reshape(-1, batch.shape[-1]) for batch in inputs.now])
