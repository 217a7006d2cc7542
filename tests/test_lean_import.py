"""`import effc` is cheap: no compiler, no ONNX, no transformers."""

import json
import subprocess
import sys

import pytest

HEAVY = ["tvm", "onnx", "onnxruntime", "transformers"]
PROGRAM = "import json, sys; import {module}; print(json.dumps(sorted(sys.modules)))"


def loaded_by(module: str) -> set[str]:
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(result.stdout)}


@pytest.mark.parametrize("module", ["effc", "effc.passes.manager, effc.passes.clean.canonicalize"])
def test_nothing_heavy_is_loaded(module: str) -> None:
    loaded = loaded_by(module)
    assert "effc" in loaded
    assert loaded & set(HEAVY) == set()
