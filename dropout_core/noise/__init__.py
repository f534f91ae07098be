"""Noise as a pure function of seed, site, pass and coordinates."""
