"""Weights of an imported program under the names the model gives them."""

import re

from torch.export import ExportedProgram

from effc.ir.program import Program, attribute, set_attribute

NO_ADDRESS = 0


def name_weights(program: Program, exported: ExportedProgram, names: dict[int, str]) -> None:
    """Rename weights torch.export has numbered.

    Args:
        program: Changed in place.
        exported: What it was made of.
        names: The model's names by the address of the data.
    """
    module = program.forward
    taken: set[str] = set()
    for node in module.graph.find_nodes(op="get_attr"):
        tensor = exported.constants.get(node.target)
        if tensor is None:
            continue
        address = tensor.untyped_storage().data_ptr()
        wanted = names.get(address, "") if address != NO_ADDRESS else ""
        path = _free(_path(wanted) or "constant", taken)
        value = attribute(module, node.target)
        delattr(module, node.target)
        set_attribute(module, path, value)
        node.target = path
    module.recompile()


def _path(name: str) -> str:
    """A dotted path of identifiers like a name."""
    parts = [re.sub(r"\W+", "_", part).strip("_") for part in re.split(r"[./]", name)]
    return ".".join(part for part in parts if part)


def _free(path: str, taken: set[str]) -> str:
    """A path that is neither another one nor a container of one."""
    candidate, number = path, 1
    while _clashes(candidate, taken):
        candidate, number = f"{path.replace('.', '_')}_{number}", number + 1
    taken.add(candidate)
    return candidate


def _clashes(path: str, taken: set[str]) -> bool:
    return any(
        path == other or path.startswith(other + ".") or other.startswith(path + ".")
        for other in taken
    )
