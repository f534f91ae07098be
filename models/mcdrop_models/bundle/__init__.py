"""Reads and writes published bundles."""
