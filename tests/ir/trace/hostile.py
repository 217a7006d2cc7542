"""Ways a model file can carry code, each leaving a harmless marker file where the code ran.

Run as a script, it loads archives with torch itself and prints which of them ran their code: the
proof that the tests are not about nothing.
"""

import io
import json
import logging
import pickle
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

Change = dict[str, Any]


class Opens:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.marker, "w")


def torch_pickle(marker: Path, wrap: Callable[[Any], Any] = lambda evil: evil) -> bytes:
    buffer = io.BytesIO()
    torch.save(wrap(Opens(marker)), buffer)
    return buffer.getvalue()


def changes(marker: Path, modules: Path) -> dict[str, Change]:
    """For each way, how to change a saved `.pt2` (arguments of the fixture `rewrite`).

    Args:
        marker: The file the code creates.
        modules: A folder on the import path; modules that create the marker are written there.
    """
    call = f"__import__('builtins').open({str(marker)!r}, 'w')"
    for name in ("evil_factory", "evil_enum"):
        (modules / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\nfound = dict\n")
    return {
        "sample inputs": {
            "members": {
                "data/sample_inputs/model.pt": torch_pickle(marker, lambda evil: ((evil,), {}))
            }
        },
        "pickled weight": {
            "config": _pickled_weight,
            "members": {"data/weights/weight_0": torch_pickle(marker)},
        },
        "opaque constant": {
            "constants": lambda c: _constant(c, "opaque_obj_0"),
            "members": {"data/constants/opaque_obj_0": pickle.dumps(Opens(marker))},
        },
        "pickled constant": {
            "constants": lambda c: _constant(c, "tensor_0"),
            "members": {"data/constants/tensor_0": torch_pickle(marker)},
        },
        "legacy weights": {
            "members": {
                "data/weights/model.pt": torch_pickle(marker, lambda evil: {"layer.weight": evil})
            }
        },
        "size": {"edit": lambda j: _each(j, "expr_str", lambda _: call)},
        "guard": {"edit": lambda j: j.update(guards_code=[f"{call} is not None"])},
        "input name": {"edit": lambda j: _rename(j, "x", f"x={call}")},
        "default factory": {"edit": lambda j: _output_type(j, _defaultdict)},
        "enum": {"edit": lambda j: _output_type(j, _enum)},
    }


def _pickled_weight(config: dict[str, Any]) -> None:
    entry = config["config"]["layer.weight"]
    entry |= {"use_pickle": True, "path_name": "weight_0"}


def _constant(config: dict[str, Any], path: str) -> None:
    config["config"]["other"] = {
        "path_name": path,
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }


def _each(value: Any, key: str, change: Callable[[Any], Any]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                value[name] = change(inner)
            _each(inner, key, change)
    elif isinstance(value, list):
        for inner in value:
            _each(inner, key, change)


def _rename(document: dict[str, Any], old: str, new: str) -> None:
    text = json.dumps(document).replace(json.dumps(old), json.dumps(new))
    document.clear()
    document.update(json.loads(text))


def _output_type(document: dict[str, Any], change: Callable[[Any], None]) -> None:
    signature = document["graph_module"]["module_call_graph"][0]["signature"]
    spec = json.loads(signature["out_spec"])
    change(spec[1])
    signature["out_spec"] = json.dumps(spec)


def _defaultdict(node: dict[str, Any]) -> None:
    node["type"] = "collections.defaultdict"
    node["context"] = {
        "default_factory_module": "evil_factory",
        "default_factory_name": "found",
        "dict_context": ["y", "z"],
    }


def _enum(node: dict[str, Any]) -> None:
    member = {"__enum__": True, "fqn": "evil_enum:found", "name": "y"}
    node["context"] = json.dumps([member, "z"])


def main(marker: Path, archives: list[Path]) -> None:
    """Let torch load archives, and run what they hold; print those that created the marker."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(marker.parent))
    for archive in archives:
        with suppress(Exception):
            torch.export.load(archive).module()(torch.ones(2, 4))
        if marker.exists():
            print(archive.stem)
            marker.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
