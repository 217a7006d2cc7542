"""The front door for `torch.nn.Module`: bind the inputs, export, translate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram

from effc.ir.errors import EffcError
from effc.ir.program import Program
from effc.ir.trace.arguments import Arguments, bind, dynamic_shapes
from effc.ir.trace.exported import program_of
from effc.ir.trace.failures import explain, telling_sizes, violations
from effc.ir.trace.inputs import WantedInputs, example_tensors
from effc.ir.trace.names import symbol_dims
from effc.ir.trace.quiet import quiet


def trace_module(
    module: torch.nn.Module, wanted: WantedInputs, examples: Any = None, name: str | None = None
) -> Program:
    """Trace a module into a program, in evaluation mode.

    Args:
        module: Its mode is put back afterwards.
        wanted: Names, dtypes and shapes of the inputs; may be empty where there are examples.
        examples: A tensor, a tuple of positional arguments or a dict of keyword arguments; made
            from `wanted` if None.
        name: What the user calls the model; the class name if None.

    Raises:
        UsageError: If the inputs do not fit `forward`.
        ModelError: If torch.export cannot follow the module, with the reason in one line.
    """
    name = name or type(module).__name__
    try:
        return _trace(module, wanted, examples, name)
    except Exception as error:  # user code and torch raise whatever they raise
        if examples is None and not isinstance(error, EffcError) and not violations(error):
            error = _telling(module, wanted, error)
        raise explain(error, f"cannot trace {name}") from error


def _trace(module: torch.nn.Module, wanted: WantedInputs, examples: Any, name: str) -> Program:
    exported = export(module, bind(module, wanted, examples), wanted)
    with quiet():
        return program_of(exported, name, symbol_dims(exported, wanted))


def _telling(module: torch.nn.Module, wanted: WantedInputs, error: Exception) -> Exception:
    """Look for sizes at which torch.export names the dimension that is to blame.

    A model that needs `sequence` to be 7 fails at an example of 8 with a message about shapes; at 7
    it is followed to the end, and torch.export reports that it is not free.
    """
    for sizes in telling_sizes(wanted.symbols, str(error)):
        try:
            export(module, bind(module, wanted, example_tensors(wanted, sizes)), wanted)
        except Exception as other:  # the same kind of failure, or the report looked for
            if violations(other):
                return other
    return error


def export(module: torch.nn.Module, bound: Arguments, wanted: WantedInputs) -> ExportedProgram:
    """Run torch.export in evaluation mode; raises whatever torch and the module raise."""
    shapes = dynamic_shapes(bound, wanted)
    with quiet(), evaluation_mode(module), torch.no_grad():
        return torch.export.export(
            module, bound.args, bound.kwargs, dynamic_shapes=shapes, strict=False
        )


@contextmanager
def evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Put a module and its parts into evaluation mode while the block runs."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
