"""Captures an nn.Module as a program whose noise is an input."""
