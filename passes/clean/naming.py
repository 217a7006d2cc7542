"""Names of the weights that folding makes: next to the weights they come from."""

import re

from torch import fx

from effc.ir.provenance import source

_FOLDED = re.compile(r"_folded(_\d+)?$")


def next_to(path: str) -> str:
    """The name of a weight made from the weight at a path: `stem.0.weight_folded`."""
    return _FOLDED.sub("", path) + "_folded"


def folded_path(node: fx.Node) -> str:
    """The name of the weight that replaces a constant node.

    It is next to the first weight the node reads, or in the module that creates the constant.
    """
    waiting = [node]
    while waiting:
        inputs = waiting.pop(0).all_input_nodes
        for entry in inputs:
            if entry.op == "get_attr":
                return next_to(str(entry.target))
        waiting += inputs
    owner = source(node)
    return f"{owner}.constant" if owner else "constant"
