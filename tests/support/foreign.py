"""Networks that nobody here wrote, tiny and with random weights, and what is known of each beforehand.

FLOPs are those of matrix products and convolutions, two for each multiplication, of two rows: as counted by hand.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: nothing is ever downloaded
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

ROWS = 2


@dataclass(frozen=True)
class Foreign:
    """build: the network, in the mode its maker leaves it in. inputs: two rows. sites: kinds and rates, in order."""

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    sites: list[tuple[str, float]]
    prefix_flops: int
    suffix_flops: int
    result: str | None = None


class Translator(nn.Module):
    """torch's own encoder and decoder on sequences with the steps first; the target is the source's first steps."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.TransformerEncoderLayer(8, 2, 16), nn.TransformerDecoderLayer(8, 2, 16, norm_first=True)
        self.encoder = nn.TransformerEncoder(layers[0], 1, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(layers[1], 1)
        self.head = nn.Linear(8, 3)

    def forward(self, source: Tensor) -> Tensor:
        steps = source.transpose(0, 1)
        unseen = nn.Transformer.generate_square_subsequent_mask(3)
        return self.head(self.decoder(steps[:3], self.encoder(steps), tgt_mask=unseen, tgt_is_causal=True)[-1])


class Reader(nn.Module):
    """The last step of torch's recurrent layers, in both directions."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body = layer(4, 6, num_layers=3, dropout=0.3, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, steps: Tensor) -> Tensor:
        return self.head(self.body(steps)[0][:, -1])


def dense(count: int, before: int, after: int) -> int:
    """A linear layer on so many vectors of each row."""
    return 2 * ROWS * count * before * after


def attended(queries: int, keys: int, width: int) -> int:
    """The scores of all heads together; weighing the values takes as many."""
    return 2 * ROWS * queries * keys * width


def convolved(places: int, channels: int, inputs: int, side: int) -> int:
    """inputs: the input channels that each output channel sees."""
    return 2 * ROWS * places * channels * inputs * side**2


def recurrent(gates: int, features: int) -> int:
    """One layer of six units in both directions over five steps."""
    return 2 * 2 * ROWS * 5 * gates * 6 * (features + 6)


def drawn(*shape: int) -> Tensor:
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))


def vit() -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(
            image_size=8, patch_size=4, num_channels=1, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2, num_labels=3,
        )
    )  # fmt: skip


def convnext() -> nn.Module:
    return ConvNextForImageClassification(
        ConvNextConfig(
            image_size=8, patch_size=2, num_channels=1, num_stages=2, hidden_sizes=[4, 8], depths=[1, 2],
            drop_path_rate=0.4, layer_scale_init_value=1.0, num_labels=3,
        )
    )  # fmt: skip


def bert() -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=12, max_position_embeddings=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2, classifier_dropout=0.3,
            num_labels=3,
        )
    )  # fmt: skip


def distilbert() -> nn.Module:
    return DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=12, max_position_embeddings=8, dim=8, n_layers=2, n_heads=2, hidden_dim=16, dropout=0.0,
            attention_dropout=0.2, seq_classif_dropout=0.3, num_labels=3,
        )
    )  # fmt: skip


TEXT = {
    "input_ids": torch.tensor([[1, 7, 4, 9, 2], [1, 5, 11, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
LAYER = 4 * dense(5, 8, 8) + 2 * attended(5, 5, 8) + 2 * dense(5, 8, 16)
TO_SCORES = 3 * dense(5, 8, 8) + attended(5, 5, 8)
BLOCK = {4: convolved(16, 4, 1, 7) + 2 * dense(16, 4, 16), 8: convolved(4, 8, 1, 7) + 2 * dense(4, 8, 32)}

FOREIGN = {
    # dropout after the embeddings: only the patches are projected before it
    "ViT": Foreign(
        vit,
        {"pixel_values": drawn(1, 8, 8)},
        [("dropout", 0.1), *[("dropout", 0.2), ("dropout", 0.1), ("dropout", 0.1)] * 2],
        convolved(4, 8, 1, 4),
        2 * LAYER + dense(1, 8, 3),
        "logits",
    ),
    # the first block never drops, and the second is dropped behind its last layer
    "ConvNeXt": Foreign(
        convnext,
        {"pixel_values": drawn(1, 8, 8)},
        [("unscaled", 0.2), ("unscaled", 0.4)],
        convolved(16, 4, 1, 2) + BLOCK[4] + convolved(4, 8, 4, 2) + BLOCK[8],
        BLOCK[8] + dense(1, 8, 3),
        "logits",
    ),
    "BERT": Foreign(
        bert,
        TEXT,
        [("dropout", 0.1), ("dropout", 0.2), ("dropout", 0.1), ("dropout", 0.1), ("dropout", 0.3)],
        0,
        LAYER + dense(1, 8, 8) + dense(1, 8, 3),
        "logits",
    ),
    # all up to the first attention weights is free of noise
    "DistilBERT": Foreign(
        distilbert,
        TEXT,
        [("dropout", 0.2), ("dropout", 0.2), ("dropout", 0.3)],
        TO_SCORES,
        2 * LAYER - TO_SCORES + dense(1, 8, 8) + dense(1, 8, 3),
        "logits",
    ),
    # the scores of the first attention of either are free of noise
    "Transformer": Foreign(
        Translator,
        {"source": drawn(5, 8)},
        [("dropout", 0.1)] * 10,
        TO_SCORES + 3 * dense(3, 8, 8) + attended(3, 3, 8),
        LAYER - TO_SCORES
        + dense(3, 8, 8) + attended(3, 3, 8)
        + 2 * dense(3, 8, 8) + 2 * dense(5, 8, 8) + 2 * attended(3, 5, 8)
        + 2 * dense(3, 8, 16) + dense(1, 8, 3),
    ),
    "LSTM": Foreign(
        lambda: Reader(nn.LSTM),
        {"steps": drawn(5, 4)},
        [("dropout", 0.3)] * 2,
        recurrent(4, 4),
        2 * recurrent(4, 12) + dense(1, 12, 3),
    ),
    "GRU": Foreign(
        lambda: Reader(nn.GRU),
        {"steps": drawn(5, 4)},
        [("dropout", 0.3)] * 2,
        recurrent(3, 4),
        2 * recurrent(3, 12) + dense(1, 12, 3),
    ),
}  # fmt: skip
