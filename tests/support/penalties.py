"""Networks with penalties, and the penalties of their layers by hand."""

import math

from torch import nn

from dropout_core.layers.variational import kl_of_log_alpha


class Net(nn.Module):
    """Layers under names, and a forward over them that counts its runs."""

    def __init__(self, forward, **named):
        super().__init__()
        self.way, self.runs = forward, 0
        for name, layer in named.items():
            self.add_module(name, layer)

    def forward(self, x):
        self.runs += 1
        return self.way(self, x)


def divergence(p, lengthscale, squares, features):
    """Gal et al. 2017, eq. 3 and 4, by plain numbers."""
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    return lengthscale**2 * squares / (2 * (1 - p)) - features * entropy


def squares(*layers):
    return sum(weight**2 for layer in layers for weight in layer.weight.flatten().tolist())


def kl(layer):
    return float(kl_of_log_alpha(layer.log_alpha.detach()).expand_as(layer.weight).sum())
