"""Reads an ONNX file of any origin as a network with noise sites."""
