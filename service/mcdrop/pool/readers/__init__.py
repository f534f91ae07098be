"""Readers of pools stored as files."""
