"""What the description inside a torch.export archive may say, rule by rule.

`models/model.json` reaches `eval`, `import`, attribute look-ups and generated source when torch
loads it; each rule closes one of these ways. A rule yields the reasons for a refusal.
"""

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from effc.ir.trace.expressions import is_guard, is_size_expression

Json = Any
SHOWN = 60
NAME = re.compile(r"[^\W\d]\w*")
WEIGHT_PATH = re.compile(r"[\w.\-/:<> ]+")
OPERATOR = re.compile(r"torch\.ops\.(?P<space>\w+)\.(?P<name>\w+)\.(?P<overload>\w+)")
SCALAR = re.compile(
    r"_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_"
    r"|not_|lshift|rshift)|math\.(ceil|floor|trunc|sqrt|pow)|torch\._?sym_\w+"
)
HIGHER_ORDER = re.compile(
    r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop"
    r"|map_impl|scan|associative_scan|invoke_subgraph|flex_attention|wrap_activation_checkpoint"
    r"|tag_activation_checkpoint)"
)
FORBIDDEN = re.compile(  # operators that reach files, processes or the interpreter
    "aten::(save|from_file)|(prim|profiler|c10d|_c10d_functional|_c10d_functional_autograd"
    "|symm_mem|inductor|debugprims|_dtensor|_test|static_runtime|debug_mode_ops|export"
    "|higher_order)::.*"
)
IDENTIFIER_KEYS = ("name", "as_name")
WEIGHT_KEYS = ("parameter_name", "buffer_name", "tensor_constant_name", "user_input_name")
TARGET_KEYS = ("target", "as_operator")
OBJECT_KEYS = ("as_custom_obj", "custom_obj", "script_object_name", "custom_obj_name")


def problems(model: Json) -> Iterator[str]:
    """Why a model description is refused; nothing if it is plain data."""
    for owner in objects(model):
        for key, value in owner.items():
            yield from _problems_of(key, value)
    for guard in model.get("guards_code") or []:
        if not is_guard(str(guard)):
            yield f"a guard that is not a comparison of sizes: {shown(guard)}"
    for symbol in model.get("range_constraints") or {}:
        if not NAME.fullmatch(symbol):
            yield f"a symbol that is not a name: {shown(symbol)}"


def _problems_of(key: str, value: Json) -> Iterator[str]:
    if key == "expr_str" and not is_size_expression(str(value)):
        yield f"a size that is not arithmetic: {shown(value)}"
    elif key in IDENTIFIER_KEYS and isinstance(value, str) and value and not NAME.fullmatch(value):
        yield f"a node name that is not a name: {shown(value)}"
    elif key in WEIGHT_KEYS and not WEIGHT_PATH.fullmatch(str(value)):
        yield f"a weight name that is not a path: {shown(value)}"
    elif key in TARGET_KEYS and not is_allowed_target(str(value)):
        yield f"a call of {shown(value)}, which is not an operator"
    elif key in OBJECT_KEYS or (key == "custom_obj_values" and value):
        yield "a custom object"
    elif key == "forward_arg_names":
        for name in value or []:
            if not NAME.fullmatch(str(name)):
                yield f"a parameter that is not a name: {shown(name)}"


def is_allowed_target(target: str) -> bool:
    """Whether a node may call this: an operator, or arithmetic on sizes."""
    if SCALAR.fullmatch(target) or HIGHER_ORDER.fullmatch(target):
        return True
    match = OPERATOR.fullmatch(target)
    return match is not None and not FORBIDDEN.fullmatch(f"{match['space']}::{match['name']}")


def is_registered(target: str) -> bool:
    """Whether torch knows an operator, asked without an attribute look-up."""
    match = OPERATOR.fullmatch(target)
    if match is None:
        return True
    overload = "" if match["overload"] == "default" else match["overload"]
    schemas = torch._C._jit_get_schemas_for_operator(f"{match['space']}::{match['name']}")
    return any(schema.overload_name == overload for schema in schemas)


def nodes(model: Json) -> Iterator[dict[str, Json]]:
    """Every node of the graph and its subgraphs."""
    return (owner for owner in objects(model) if "target" in owner and "inputs" in owner)


def objects(value: Json) -> Iterator[dict[str, Json]]:
    """Every JSON object at any depth; those of one list in order."""
    waiting = deque([value])
    while waiting:
        current = waiting.popleft()
        if isinstance(current, dict):
            yield current
            waiting += current.values()
        elif isinstance(current, list):
            waiting += current


def shown(value: Json) -> str:
    """A short, one-line form of a value for a message."""
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
