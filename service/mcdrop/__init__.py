"""The server, its client and the command line."""
