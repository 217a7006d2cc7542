"""Lets the tests of this folder import `onnx_models`, and the checks of the export."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "export")]
