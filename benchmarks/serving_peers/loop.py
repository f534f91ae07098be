"""What people write for T passes: dropout left on, the network called T times, the answers put together."""

import torch
from serving_nets import seeded
from torch import Tensor, nn


def living(name: str) -> nn.Module:
    """The network with the weights that mcdrop serves too, its dropout on. One thread for an operator, as there."""
    torch.set_num_threads(1)
    return seeded(name).train()


@torch.no_grad()
def passes(model: nn.Module, x: Tensor, times: int) -> Tensor:
    """Probabilities [T, B, C]."""
    return torch.stack([model(x).softmax(-1) for _ in range(times)])


def summary(probs: Tensor) -> dict[str, Tensor]:
    """What is said of each row: [B, C] or [B]."""
    mean = probs.mean(0)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum(-1)
    expected = -(probs * probs.clamp_min(1e-12).log()).sum(-1).mean(0)
    return {
        "mean": mean,
        "variance": probs.var(0, correction=0),
        "predictive_entropy": entropy,
        "mutual_information": entropy - expected,
    }
