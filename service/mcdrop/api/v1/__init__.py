"""The names on the wire."""
