"""Bytes to values and back; nothing here knows HTTP or models."""
