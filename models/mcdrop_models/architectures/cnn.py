"""A small convolutional classifier with spatial dropout between its convolutions and dropout before its head."""

import torch
from torch import Tensor, nn

from dropout_core.layers import Dropout, SpatialDropout2d


class SmallCNN(nn.Module):
    """A convolutional classifier of grey images: [B, H, W] in 0 … `brightest` → logits [B, C].

    Spatial dropout drops whole feature maps, because neighbouring pixels of a map are correlated. The first two
    convolutions have no dropout, so that they run once for any number of passes.

    Args:
        image: The height and the width of the images.
        num_classes: The number of classes, C.
        brightest: The largest value of a pixel.
        spatial: The rate of the spatial dropout.
        head: The rate of the dropout before the last layer.

    References:
        Tompson et al. 2015, Efficient Object Localization Using Convolutional Networks.
    """

    brightest: Tensor

    def __init__(
        self,
        image: tuple[int, int],
        num_classes: int,
        brightest: float,
        spatial: float = 0.1,
        head: float = 0.5,
    ) -> None:
        super().__init__()
        self.register_buffer("brightest", torch.tensor(brightest))
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            SpatialDropout2d(spatial),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            SpatialDropout2d(spatial),
            nn.Flatten(),
        )
        height, width = ((size + 1) // 2 for size in image)
        self.head = nn.Sequential(
            nn.Linear(64 * height * width, 128), nn.ReLU(), Dropout(head), nn.Linear(128, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, C] of images [B, H, W]."""
        logits: Tensor = self.head(self.features((x / self.brightest).unsqueeze(1)))
        return logits
