"""A saved model, and the ways to damage it."""

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `sample_models`, which lies in the current folder as a user's would."""
    monkeypatch.chdir(HERE)
    monkeypatch.syspath_prepend(str(HERE))
    sys.modules.pop("sample_models", None)
    import sample_models

    yield sample_models
    sys.modules.pop("sample_models", None)


class Saved(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": torch.relu(self.layer(x)), "z": x.sum()}


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.pt2` file written by torch.export.save, with a dynamic first dimension."""
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(
        Saved().eval(), (torch.randn(2, 4),), dynamic_shapes=({0: batch},)
    )
    path = tmp_path_factory.mktemp("saved") / "net.pt2"
    torch.export.save(exported, path)
    return path


@pytest.fixture
def rewrite(saved_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a changed copy of the saved model."""

    def write(
        edit: Edit | None = None,
        members: dict[str, bytes] | None = None,
        config: Edit | None = None,
        constants: Edit | None = None,
    ) -> Path:
        """Change the description, add or replace members, change a table of tensors."""
        edits = {
            "models/model.json": edit,
            "data/weights/model_weights_config.json": config,
            "data/constants/model_constants_config.json": constants,
        }
        contents = _members(saved_model) | (members or {})
        for name, change in edits.items():
            if change is not None:
                document = json.loads(contents[name])
                change(document)
                contents[name] = json.dumps(document).encode()
        path = tmp_path / "changed.pt2"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in contents.items():
                archive.writestr(f"net/{name}", content)
        return path

    return write


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
