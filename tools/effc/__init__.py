"""effc: a compiler that makes trained models small, fast and deployable.

import effc

program = effc.trace(module, example_inputs)
artifact = effc.compile(program, target="native", calibration=batches, out="out/")
print(artifact.report)
outputs = effc.load("out/")(inputs)
"""

import importlib
from typing import TYPE_CHECKING, Any

from effc.version import __version__

if TYPE_CHECKING:
    from effc.api import compile, load, trace
    from effc.artifact import Artifact
    from effc.backends.runner import Model
    from effc.ir.errors import EffcError
    from effc.ir.program import Program
    from effc.ir.target import Target
    from effc.passes.base import Outcome, Pass, PassContext
    from effc.passes.manager import PassManager

_EXPORTS = {
    "Artifact": "effc.artifact",
    "EffcError": "effc.ir.errors",
    "Model": "effc.backends.runner",
    "Outcome": "effc.passes.base",
    "Pass": "effc.passes.base",
    "PassContext": "effc.passes.base",
    "PassManager": "effc.passes.manager",
    "Program": "effc.ir.program",
    "Target": "effc.ir.target",
    "compile": "effc.api",
    "load": "effc.api",
    "trace": "effc.api",
}

__all__ = [
    "Artifact", "EffcError", "Model", "Outcome", "Pass", "PassContext", "PassManager", "Program",
    "Target", "__version__", "compile", "load", "trace",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that `import effc` itself is instant."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'effc' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
