"""Pytree descriptions inside a torch.export archive, made plain."""

import json
from typing import Any

from effc.ir.trace.archive_rules import NAME, shown

Json = Any


def plain_tree(spec: str, fields: dict[str, Json]) -> str:
    """A pytree description with containers of other libraries turned into plain ones.

    torch imports a module for some of these types, and knows others only after an import; which
    class held the tensors does not matter here, their labels do.

    Args:
        spec: What `torch.utils._pytree.treespec_dumps` wrote.
        fields: Field names of named tuples, by type name.

    Raises:
        ValueError: If it is not such a description.
    """
    try:
        protocol, tree = json.loads(spec)
        return json.dumps([protocol, _plain_node(tree, fields)])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a description of containers: {shown(spec)}") from error


def check_keywords(in_spec: str) -> None:
    """Check that the keyword arguments of a plain input description are names.

    torch writes them into the source of a function.

    Raises:
        ValueError: Naming the one that is not.
    """
    _, tree = json.loads(in_spec)
    for part in tree["children_spec"]:
        for label in json.loads(part["context"]) or [] if part["context"] else []:
            if not NAME.fullmatch(label):
                raise ValueError(f"a parameter that is not a name: {shown(label)}")


def _plain_node(node: Json, fields: dict[str, Json]) -> Json:
    children = [_plain_node(child, fields) for child in node["children_spec"]]
    if node["type"] is None:
        return {"type": None, "context": None, "children_spec": []}
    kind, context = "builtins.tuple", "null"
    if node["type"] == "builtins.list":
        kind = "builtins.list"
    elif labels := _labels(node, fields, len(children)):
        kind, context = "builtins.dict", json.dumps(labels)
    elif node["type"] == "builtins.dict" and not children:
        kind, context = "builtins.dict", "[]"
    return {"type": kind, "context": context, "children_spec": children}


def _labels(node: Json, fields: dict[str, Json], count: int) -> list[str]:
    """The keys of a container, where it has one string or number per child."""
    context = node["context"]
    if node["type"] == "collections.namedtuple":
        labels = (fields.get(context) or {}).get("field_names") or []
    elif isinstance(context, dict):
        labels = context.get("dict_context") or []
    else:
        labels = json.loads(context) if isinstance(context, str) else []
    is_plain = isinstance(labels, list) and all(isinstance(x, str | int) for x in labels)
    return [str(label) for label in labels] if is_plain and len(labels) == count else []
