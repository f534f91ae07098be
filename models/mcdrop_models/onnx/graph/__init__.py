"""Building blocks of ONNX graphs."""
