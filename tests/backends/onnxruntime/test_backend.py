"""The ONNX Runtime backend: what it writes, how it runs, and what it refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.backends.artifact import manifest_of, write_manifest
from effc.backends.onnxruntime.backend import OnnxRuntimeBackend, written_as
from effc.backends.onnxruntime.session import EXACT_BLOCKS, MODEL, SETTINGS, Runtime
from effc.backends.runner import Model
from effc.ir.errors import ArtifactError, EffcError, ModelError, UnsupportedError, UsageError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import traced
from effc.version import __version__

TARGET = Target.parse("onnxruntime{cores=1}")


class Rows(nn.Module):
    """A layer, and a result of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.layer(x)
        return {"scores": y, "best": y.argmax(-1)}


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.fixture
def program() -> Program:
    return traced(Rows().eval(), torch.randn(3, 6), dynamic={"x.0": "rows"})


@pytest.fixture
def folder(program: Program, tmp_path: Path) -> Path:
    OnnxRuntimeBackend().build(program, TARGET, tmp_path)
    write_manifest(manifest_of(program, TARGET, tmp_path, __version__), tmp_path)
    return tmp_path


def test_outputs_are_the_programs(program, folder):
    x = torch.randn(5, 6)
    with Model(folder) as model:
        found = model(x)
        assert model.memory_nbytes == sum(
            (folder / name).stat().st_size for name in (MODEL, SETTINGS)
        )
    expected = program.run({"x": x})
    assert torch.allclose(found["scores"], expected["scores"], atol=1e-5)
    assert torch.equal(found["best"], expected["best"])


def test_settings_lie_beside_the_model(folder):
    settings = json.loads((folder / SETTINGS).read_text())
    assert settings == {"opset": 13, "ir_version": 7, "config": EXACT_BLOCKS, "environment": {}}


class Retention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.effc.linear_attention(x, x, x, None, None, None, 0.5)[0]


def test_an_opset_onnx_runtime_does_not_load_unasked(tmp_path):
    x = torch.randn(1, 2, 3, 4)
    program = traced(Retention(), x)
    OnnxRuntimeBackend().build(program, TARGET, tmp_path)
    write_manifest(manifest_of(program, TARGET, tmp_path, __version__), tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    assert settings["opset"] == 27
    assert settings["environment"] == {"ALLOW_RELEASED_ONNX_OPSET_ONLY": "0"}
    with pytest.raises(ModelError, match="cannot load"):
        Runtime(tmp_path / MODEL, 1, {})
    with Model(tmp_path) as model:
        assert torch.allclose(model(x), program.run({"x": x})["output"], atol=1e-5)
    assert "ALLOW_RELEASED_ONNX_OPSET_ONLY" not in os.environ


def test_a_profile_is_one_step(folder):
    with Model(folder) as model:
        ((name, seconds),) = model.session.profile({"x": np.zeros((2, 6), np.float32)})
    assert name == "onnxruntime forward"
    assert seconds > 0


def test_a_closed_model_says_so(folder):
    model = Model(folder)
    model.close()
    model.close()
    assert model.memory_nbytes == 0
    with pytest.raises(UsageError, match="closed"):
        model.run({"x": np.zeros((2, 6), np.float32)})


def test_weights_have_one_width(folder):
    with pytest.raises(UsageError, match="one width"):
        Model(folder, bits=4)


def test_strided_and_read_only_inputs(folder):
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32).T
    x.setflags(write=False)
    with Model(folder) as model:
        strided, dense = model.run({"x": x}), model.run({"x": np.ascontiguousarray(x)})
    assert np.array_equal(strided["scores"], dense["scores"])


@pytest.mark.parametrize("name", [MODEL, SETTINGS])
def test_manifests_that_list_too_little(program, folder, name):
    manifest = manifest_of(program, TARGET, folder, __version__)
    files = {key: entry for key, entry in manifest.files.items() if key != name}
    write_manifest(manifest.model_copy(update={"files": files}).sealed(), folder)
    with pytest.raises(ArtifactError, match=f"lists no {name}"):
        Model(folder)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [(MODEL, b"no model", ModelError), (SETTINGS, b"[]", ArtifactError),
     (SETTINGS, b"{", ArtifactError), (SETTINGS, b'{"config": 3}', ArtifactError)],
)  # fmt: skip
def test_damage_behind_a_matching_manifest(program, folder, name, content, kind):
    (folder / name).write_bytes(content)
    write_manifest(manifest_of(program, TARGET, folder, __version__), folder)
    with pytest.raises(EffcError) as caught:
        Model(folder)
    assert type(caught.value) is kind
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_operators_without_a_form_are_refused_before_anything_is_written(tmp_path):
    program = traced(Unknown(), torch.randn(3))
    with pytest.raises(UnsupportedError, match=r"special_bessel_j0.*it has no form in ONNX"):
        OnnxRuntimeBackend().build(program, TARGET, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rare_operators_are_spelled_out_where_onnx_lacks_them():
    program = traced(Scattered(), torch.zeros(2, 4), torch.ones(2, 3))
    exportable, missing = written_as(program)
    assert missing == []
    assert exportable is not program


class Scattered(nn.Module):
    """Adds by index, which ONNX has from opset 16 on and the export spells out."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        places = torch.tensor([[0, 2, 2], [3, 0, 3]])
        return x.scatter_reduce(1, places, y, "sum")
