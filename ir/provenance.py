"""Where a node comes from in the user's model, and which passes touched it.

Both live in `node.meta["custom"]`, the one annotation that survives saving, loading, re-export and
decomposition.
"""

from collections.abc import Iterable

from torch import fx

SOURCE, TOUCHED = "source", "touched"


def source(node: fx.Node) -> str:
    """The module path in the user's model, such as `encoder.layer.3.attention.query`."""
    return node.meta.get("custom", {}).get(SOURCE, "")


def touched(node: fx.Node) -> tuple[str, ...]:
    """The passes that made or changed a node, in order."""
    return tuple(node.meta.get("custom", {}).get(TOUCHED, ()))


def set_source(node: fx.Node, path: str) -> None:
    """Record where a node comes from."""
    node.meta["custom"] = {**node.meta.get("custom", {}), SOURCE: path}


def derive(new: fx.Node, old: fx.Node, rule: str) -> None:
    """Give a node made by a rule the source of the node it stands for, and note the rule."""
    custom = dict(old.meta.get("custom", {}))
    custom[TOUCHED] = [*custom.get(TOUCHED, []), rule]
    new.meta["custom"] = custom


def traced_path(node: fx.Node) -> str:
    """The module path torch.export recorded for a node, without its root entry."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_empty_nn_module")]
    return paths[-1] if paths else ""


def record_sources(nodes: Iterable[fx.Node]) -> None:
    """Fill the source of every node that has none from what torch.export recorded."""
    for node in nodes:
        if not source(node):
            set_source(node, traced_path(node))


def label(node: fx.Node) -> str:
    """A name for messages: the source path where there is one, else the node's own name."""
    return source(node) or node.name
