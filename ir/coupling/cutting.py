"""Cutting: weights, constants and sizes in arguments, so that what goes is not computed."""

from typing import Any

import torch
from torch import Tensor, fx

from effc.ir.coupling.call import Call, weight_key
from effc.ir.coupling.kept import Kept
from effc.ir.edit import Editor
from effc.ir.opspec import spec_of
from effc.ir.program import Program, attribute, set_attribute
from effc.ir.provenance import derive
from effc.ir.verify import propagate


def cut(program: Program, kept: Kept, rule: str) -> None:
    """Remove from a program what does not stay.

    Tensors are replaced, never written to. Products keep the values they had with what goes
    masked to zero; norms and means go over what is left.

    Args:
        program: Edited in place; the one `kept.coupling` was made of.
        kept: What stays.
        rule: Name of the pass, for the provenance of calls that change.
    """
    new: dict[Any, tuple[Tensor, Tensor]] = {}
    for method, module in program.methods.items():
        editor = Editor(program, method, rule)
        nodes = list(module.graph.nodes)
        keys = {node: weight_key(node) for node in nodes if node.op == "get_attr"}
        for node in nodes:
            if node.op == "call_function":
                _resize(node, kept, editor)
        for node, key in keys.items():
            _shrink(node, key, kept, new)
        for node in nodes:
            if node.op == "get_attr":
                value = attribute(module, node.target)
                node.meta["val"] = editor.fake(value)
        propagate(program, method)
        module.recompile()


def _shrink(node: fx.Node, key: Any, kept: Kept, new: dict[Any, tuple[Tensor, Tensor]]) -> None:
    """Replace a weight by what is left of it; tied ones by the same tensor."""
    rows = kept.of(node)
    if all(stays is None for stays in rows):
        return
    module = node.graph.owning_module
    if key not in new:
        old = tensor = attribute(module, str(node.target)).detach()
        for dimension, stays in enumerate(rows):
            if stays is not None:
                places = torch.from_numpy(stays.nonzero()[0])
                tensor = tensor.index_select(dimension, places)
        new[key] = (old, tensor.contiguous())  # the old one lives on, so its address stays taken
    set_attribute(module, str(node.target), new[key][1])


def _resize(node: fx.Node, kept: Kept, editor: Editor) -> None:
    spec = spec_of(node)
    if spec is None or spec.resize is None:
        return
    call = Call.of(kept.coupling.state, node)
    changes = spec.resize(call, kept, editor)
    changed = {name: value for name, value in changes.items() if _differs(call, name, value)}
    if changed:
        _set_arguments(node, changed)
        derive(node, node, editor.rule)


def _differs(call: Call, name: str, value: Any) -> bool:
    known = call.arguments.get(name, ())
    return list(known) != value if isinstance(value, list) else known is not value


def _set_arguments(node: fx.Node, changes: dict[str, Any]) -> None:
    """Put arguments in place by their names in the schema, positional where they can be."""
    schema: Any = node.target._schema
    given = list(node.args)
    keywords = dict(node.kwargs)
    for at, argument in enumerate(schema.arguments):
        if argument.name not in changes:
            continue
        if at < len(given):
            given[at] = changes[argument.name]
        else:
            keywords[argument.name] = changes[argument.name]
    node.args, node.kwargs = tuple(given), keywords
