"""Runs ONNX halves with onnxruntime."""
