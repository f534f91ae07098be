"""Rank pools that do not fit into memory: read in parts, ranked part by part, and resumable."""
