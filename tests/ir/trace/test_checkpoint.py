import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from effc.ir.errors import EffcError, ModelError
from effc.ir.trace import open_model
from effc.ir.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.filter = torch.nn.Conv1d(3, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.layer(x))
        return self.filter(hidden.transpose(1, 2)), hidden.sum()


class Loops(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() > 0):
            x = x - 1
        return x


@pytest.fixture(params=["trace", "script"])
def script(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Small]:
    torch.manual_seed(0)
    module = Small().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if request.param == "trace":
            found = torch.jit.trace(module, (torch.randn(2, 5, 4),))
        else:
            found = torch.jit.script(module)
        found.save(str(tmp_path / "small.pt"))
    return tmp_path / "small.pt", module


def test_torchscript(script: tuple[Path, Small]) -> None:
    path, module = script
    program = open_model(path, inputs=["x:f32[batch=1..8,5,4]"])
    verify(program)
    assert program.name == "small"
    expected = "(x: f32[batch, 5, 4]) -> (output_0: f32[batch, 2, 5], output_1: f32[])"
    assert str(program.signature) == expected
    assert str(program.symbols["batch"]) == "batch=1..8"
    names = ["filter.bias", "filter.weight", "layer.bias", "layer.weight"]
    assert sorted(program.weights()) == names
    x = torch.randn(7, 5, 4)
    found = program.run({"x": x})
    assert torch.allclose(found["output_0"], module(x)[0], atol=1e-6)


def test_torchscript_in_memory_and_with_examples(script: tuple[Path, Small]) -> None:
    path, _ = script
    program = open_model(path, example_inputs=(torch.randn(2, 5, 4),))
    assert str(program.signature.inputs[0]) == "x: f32[2, 5, 4]"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(str(path))
    program = open_model(loaded, inputs=["x:f32[2,5,4]"], name="memory")
    assert program.name == "memory"


def test_torchscript_needs_inputs(script: tuple[Path, Small]) -> None:
    with pytest.raises(EffcError) as caught:
        open_model(script[0])
    assert str(caught.value) == (
        "a TorchScript model does not carry the shapes of its inputs; give each with "
        '--input "name:dtype[dims]"; it takes x'
    )
    with pytest.raises(EffcError) as caught:
        open_model(script[0], inputs=["y:f32[2]"])
    assert str(caught.value) == "--input names y, which the model lacks; it takes x"


def test_torchscript_that_cannot_be_converted(tmp_path: Path) -> None:
    path = tmp_path / "loops.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Loops()).save(str(path))
    with pytest.raises(ModelError) as caught:
        open_model(path, inputs=["x:f32[2]"])
    assert str(caught.value).startswith(
        "cannot convert the TorchScript model loops (save the original module with "
        "torch.export.save, or give package.module:factory): prim::Loop"
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_modules_need_trust(zipped: bool, samples: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(samples.net(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError) as caught:
        open_model(path, inputs=["x:f32[2,4]"])
    assert str(caught.value).startswith(f"{path} is a pickled module that imports ")
    program = open_model(path, inputs=["x:f32[2,4]"], trust_pickle=True)
    x = torch.randn(2, 4)
    assert torch.equal(program.run({"x": x})["total"], samples.net()(x)["total"])


def test_pickled_modules_whose_class_is_gone(
    samples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pt"
    torch.save(samples.net(), path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("tests/ir/trace")])
    sys.modules.pop("sample_models")
    with pytest.raises(ModelError) as caught:
        open_model(path, inputs=["x:f32[2,4]"], trust_pickle=True)
    expected = f"cannot unpickle {path}: ModuleNotFoundError: No module named 'sample_models'"
    assert str(caught.value).startswith(expected)


def test_a_pickle_that_holds_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(ModelError) as caught:
        open_model(path, trust_pickle=True)
    assert str(caught.value).startswith(f"{path} holds a dict, not a module; give package.module")
