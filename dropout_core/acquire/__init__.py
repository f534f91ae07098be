"""Acquisition scores."""
