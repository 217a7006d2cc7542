"""The front door for ONNX models."""

from effc.ir.trace.onnx.door import open_model_proto, open_onnx

__all__ = ["open_model_proto", "open_onnx"]
