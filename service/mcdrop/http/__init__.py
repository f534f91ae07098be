"""HTTP: bodies, compression, media types and error responses."""
