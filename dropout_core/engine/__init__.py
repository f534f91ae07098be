"""Runs T stochastic passes of a captured network."""
