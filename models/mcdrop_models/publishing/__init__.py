"""Publishes networks as bundles and exports bundles as ONNX files."""
