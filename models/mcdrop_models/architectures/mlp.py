"""A multilayer perceptron that predicts a mean and a variance."""

import torch
from torch import Tensor, nn

from dropout_core.layers import Dropout


class GaussianMLP(nn.Module):
    """A regression network: raw features [B, F] → mean and log variance [B, 2] of a standardised target.

    The network standardises the features itself, so that callers send them raw. The predicted variance is the aleatoric
    uncertainty; the variance of the means over passes is the epistemic one.

    Args:
        center: The mean of each feature, [F].
        spread: The standard deviation of each feature, [F].
        width: The width of the hidden layers.
        rate: The dropout rate.

    References:
        Kendall, Gal 2017, What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?
    """

    center: Tensor
    spread: Tensor

    def __init__(self, center: Tensor, spread: Tensor, width: int = 64, rate: float = 0.3) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("spread", spread)
        self.layers = nn.Sequential(
            nn.Linear(len(center), width), nn.ReLU(), Dropout(rate),
            nn.Linear(width, width), nn.ReLU(), Dropout(rate),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean and the log variance [B, 2] of raw features [B, F]."""
        outputs: Tensor = self.layers((x - self.center) / self.spread)
        return outputs


def gaussian_nll(outputs: Tensor, target: Tensor) -> Tensor:
    """Return the mean negative log likelihood of targets under predicted normal distributions, in nats.

    Args:
        outputs: Mean and log variance, [B, 2].
        target: The targets, [B].

    Returns:
        A scalar.
    """
    mean, log_variance = outputs.unbind(-1)
    half_log_two_pi = 0.5 * torch.log(torch.tensor(2.0 * torch.pi))
    return (0.5 * (log_variance + (target - mean).square() * torch.exp(-log_variance)) + half_log_two_pi).mean()
