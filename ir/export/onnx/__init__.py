"""Programs as ONNX models."""

from effc.ir.export.onnx.graph import runtime_environment
from effc.ir.export.onnx.writer import onnx_model, save_onnx, unsupported

__all__ = ["onnx_model", "runtime_environment", "save_onnx", "unsupported"]
