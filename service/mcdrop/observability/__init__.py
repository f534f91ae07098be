"""Events, metrics, logs and traces."""
