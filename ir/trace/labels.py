"""Names of a traced module's inputs and outputs, from its parameters and return value."""

from typing import Any

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind


def input_labels(
    original: ExportedProgram, decomposed: ExportedProgram, state: dict[str, str]
) -> dict[str, str]:
    """The user's name of each input, by its name in the decomposed graph.

    Decomposition renames inputs to `arg_0` where a file does not carry the names of parameters.
    """
    inputs, renamed = (
        [spec.arg.name for spec in specs if spec.kind == InputKind.USER_INPUT]
        for specs in (original.graph_signature.input_specs, decomposed.graph_signature.input_specs)
    )
    specs = decomposed.graph_signature.input_specs
    mutated = {spec.arg.name: state[spec.target] for spec in specs if spec.target in state}
    return {**dict(zip(renamed, inputs, strict=True)), **mutated}


def output_labels(exported: ExportedProgram) -> list[str]:
    """A name per user output: its path in what the module returns, such as `logits`."""
    from torch.utils import _pytree as pytree

    spec = exported.call_spec.out_spec
    tree = pytree.tree_unflatten([object()] * spec.num_leaves, spec)
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return [_label(path) for path, _ in leaves]


def _label(path: tuple[Any, ...]) -> str:
    parts = [
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path
    ]
    if not parts:
        return "output"
    return "_".join(["output", *parts] if parts[0].isdigit() else parts)
