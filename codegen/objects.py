"""Turns kernels into machine code through LLVM."""

from collections.abc import Sequence
from pathlib import Path

import tvm

from effc.codegen.kernel import Stage
from effc.ir.errors import BuildError
from effc.ir.target import Target


def tvm_target(target: Target) -> tvm.target.Target:
    """TVM's form of a target."""
    found = tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": target.triple,
            "mcpu": target.cpu,
            "mattr": [f"+{feature}" for feature in target.features],
        }
    )
    return found.with_host(found)


def write_object(stages: Sequence[Stage], target: Target, path: Path) -> None:
    """Compile functions into one object file.

    Raises:
        BuildError: If LLVM refuses a function.
    """
    write_module(module_of(stages), target, path)


def module_of(stages: Sequence[Stage]) -> tvm.IRModule:
    """Functions as one module."""
    return tvm.IRModule({stage.symbol: stage.function for stage in stages})


def write_module(module: tvm.IRModule, target: Target, path: Path) -> None:
    """Compile a module into an object file.

    Raises:
        BuildError: If LLVM refuses a function.
    """
    built = tvm_target(target)
    module = tvm.tirx.transform.BindTarget(built)(module)
    try:
        compiled = tvm.get_global_func("target.build.llvm")(module, built)
        compiled.write_to_file(str(path))
    except (tvm.error.InternalError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise BuildError(f"code generation failed: {reason}") from error
