"""Networks as graphs of pure operators with named noise sites."""
