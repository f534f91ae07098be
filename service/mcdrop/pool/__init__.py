"""Pools too large to hold: read in parts, ranked part by part, resumed where they were left."""
