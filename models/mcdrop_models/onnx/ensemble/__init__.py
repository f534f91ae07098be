"""Writes one ONNX file that contains the whole ensemble."""
