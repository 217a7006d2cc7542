"""ONNX Runtime as a target: a QDQ model and the settings to run it with."""
