"""The command `mcdrop`."""
