"""Writes a captured program as ONNX halves."""
