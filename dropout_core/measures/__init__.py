"""Pure functions of passes: moments, uncertainty measures, quantiles and Monte Carlo errors."""
