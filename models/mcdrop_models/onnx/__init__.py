"""Networks in ONNX: what they look like inside, where their noise is, and how they are cut, sampled and measured."""
