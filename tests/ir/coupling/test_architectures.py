"""Every architecture of the coverage list is cut by 30%, or says why not."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import assert_cut_equals_masked
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.trace.exported import program_of
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

pytest.importorskip("transformers")

RATIO = 0.3
QUICK = ["bert", "llama", "swin"]
HERE = Path(__file__).parent


def _module(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, HERE.parents[1] / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compiled_models = _module("codegen/test_architectures.py")
onnx_models = _module("ir/trace/onnx/exported_models.py")
MAKERS: dict[str, Callable[[], tuple[nn.Module, dict[str, Tensor]]]] = {
    name: lambda given=given: compiled_models.made(*given)
    for name, given in compiled_models.MODELS.items()
}
OTHERS = {name: maker for name, maker in onnx_models.MODELS.items() if name not in MAKERS}


def _other(maker: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model, inputs = maker()
    return onnx_models._First(model.eval()).eval(), {"x": inputs[0]}


MAKERS |= {name: lambda maker=maker: _other(maker) for name, maker in OTHERS.items()}
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MAKERS]


def clean(name: str) -> tuple[Program, dict[str, Tensor]]:
    """A model of the list with random weights after the clean passes, and its inputs."""
    model, inputs = MAKERS[name]()
    with torch.no_grad():
        program = program_of(torch.export.export(model, (), inputs, strict=False), "test")
    return PassManager.parse(CLEAN).run(program).program, inputs


@pytest.mark.parametrize("name", ALL)
def test_architecture(name: str) -> None:
    program, inputs = clean(name)
    smaller, groups = assert_cut_equals_masked(program, inputs, RATIO)
    assert groups
    assert smaller.weight_nbytes < 0.9 * program.weight_nbytes
    assert len(MAKERS) >= 30
