"""Networks built for Monte Carlo dropout."""
