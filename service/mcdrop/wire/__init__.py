"""Decoding of bytes into values, and encoding. Nothing here knows HTTP or models."""
