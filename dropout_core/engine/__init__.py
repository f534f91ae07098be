"""Capture, engine, moments and measures."""
