"""A multilayer perceptron that predicts a mean and a variance."""

import torch
from torch import Tensor, nn

from dropout_core.layers import Dropout


class GaussianMLP(nn.Module):
    """Raw features [B, F] → mean and log variance [B, 2] of a standardised target.

    Standardising the features is part of the network, so that callers send them raw. The predicted variance is
    aleatoric, the disagreement of passes epistemic (Kendall, Gal 2017).
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
        """Mean and log variance [B, 2] of raw features [B, F]."""
        outputs: Tensor = self.layers((x - self.center) / self.spread)
        return outputs


def gaussian_nll(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean negative log likelihood, in nats, of targets [B] under outputs [B, 2] (mean, log variance)."""
    mean, log_variance = outputs.unbind(-1)
    half_log_two_pi = 0.5 * torch.log(torch.tensor(2.0 * torch.pi))
    return (0.5 * (log_variance + (target - mean).square() * torch.exp(-log_variance)) + half_log_two_pi).mean()
