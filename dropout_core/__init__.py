"""Monte Carlo dropout: any trained network, its dropout on, T passes, and how far they disagree."""

from dropout_core.estimate.estimate import Estimate as Estimate
from dropout_core.predict import predict as predict
