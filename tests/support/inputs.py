"""Small networks with several inputs, several outputs or rows of any length, each with its twin as in nets.py."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.layers.recurrent import VariationalLSTM
from tests.support.captured import made
from tests.support.nets import Twin

F64 = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def tokens(*shape, seed=0):
    return torch.randint(0, 10, shape, generator=torch.Generator().manual_seed(seed))


class TwoInputs(Twin):
    """An optional third input shifts the answer."""

    def __init__(self):
        super().__init__()
        self.side = nn.Linear(1, 3)

    def forward(self, x, weight, *, shift=None):
        h = self.drop(self.body(x) + self.side(weight).tanh())
        return self.head(h) if shift is None else self.head(h) + shift

    def masked(self, inputs, masks):
        h = self.body(inputs["x"]) + self.side(inputs["weight"]).tanh()
        return self.head(h * masks[0]) + inputs.get("shift", 0)

    @staticmethod
    def inputs(rows):
        return {"x": drawn(rows, 2), "weight": drawn(rows, 1, seed=1)}


class Shifted(TwoInputs):
    @staticmethod
    def inputs(rows):
        return {**TwoInputs.inputs(rows), "shift": drawn(rows, 2, seed=2)}


class Summed(Twin):
    """forward(*parts): inputs that have no names of their own."""

    def forward(self, *parts):
        return self.head(self.drop(self.body(sum(parts))))

    def masked(self, inputs, masks):
        return self.head(self.body(inputs["parts_0"] + inputs["parts_1"]) * masks[0])

    @staticmethod
    def inputs(rows):
        return {"parts_0": drawn(rows, 2), "parts_1": drawn(rows, 2, seed=1)}


class TokensAndMask(Twin):
    """Whole numbers beside a mask of zeros and ones; the mean of the tokens that the mask shows."""

    sites = (((2,), 0.5),)

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 2)
        self.head = nn.Linear(2, 2)

    def pooled(self, input_ids, attention_mask):
        shown = attention_mask.unsqueeze(-1).to(self.dtype)
        return (self.table(input_ids) * shown).sum(1) / shown.sum(1)

    def forward(self, input_ids, attention_mask):
        return self.head(self.drop(self.pooled(input_ids, attention_mask)))

    def masked(self, inputs, masks):
        return self.head(self.pooled(**inputs) * masks[0])

    @staticmethod
    def inputs(rows):
        shown = torch.ones(rows, 5, dtype=torch.int64)
        shown[::2, 3:] = 0
        return {"input_ids": tokens(rows, 5), "attention_mask": shown}


class TokensAllShown(TokensAndMask):
    """The usual example of a mask: one that hides nothing."""

    @staticmethod
    def inputs(rows):
        return {"input_ids": tokens(rows, 5), "attention_mask": torch.ones(rows, 5, dtype=torch.bool)}


class Answers(NamedTuple):
    hidden: torch.Tensor
    answer: torch.Tensor


class Pair(Twin):
    """A tuple whose second element matters, and something that is no tensor."""

    result = 1

    def forward(self, x):
        h = self.drop(self.body(x))
        return h, self.head(h), "note"

    def masked(self, inputs, masks):
        return super().masked(inputs["x"], masks)

    @staticmethod
    def inputs(rows):
        return {"x": drawn(rows, 2)}


class Named(Pair):
    """A named tuple: by place, too."""

    def forward(self, x):
        return Answers(*super().forward(x)[:2])


class Dictionary(Pair):
    result = "logits"

    def forward(self, x):
        hidden, answer, _ = super().forward(x)
        return {"loss": None, "logits": answer, "hidden": (hidden, hidden.tanh())}


class Nested(Dictionary):
    """One that stands inside another."""

    result = "hidden.1"

    def masked(self, inputs, masks):
        return (self.body(inputs["x"]) * masks[0]).tanh()


SEVERAL = [TwoInputs, Shifted, Summed, TokensAndMask, TokensAllShown, Pair, Named, Dictionary, Nested]


class Attention(nn.Module):
    """Attention over tokens of any number, of which a mask shows some; dropout on its weights and behind it."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        h = self.table(input_ids).unflatten(-1, (2, 4)).transpose(1, 2)
        shown = attention_mask.bool()[:, None, None, :]
        h = F.scaled_dot_product_attention(h, h, h.tanh(), shown, dropout_p=0.2 * self.training)
        h = F.dropout(self.mix(h.transpose(1, 2).flatten(2)), 0.3, self.training).tanh()
        return self.head((h * attention_mask.unsqueeze(-1)).sum(1) / attention_mask.sum(1, keepdim=True))

    @staticmethod
    def inputs(rows, length):
        return {"input_ids": tokens(rows, length), "attention_mask": torch.ones(rows, length, dtype=torch.int64)}

    @staticmethod
    def padded(inputs, count):
        return {name: F.pad(value, (0, count)) for name, value in inputs.items()}


class Steps(nn.Module):
    """A recurrent layer over as many steps as each row has, and a head on its last state."""

    def __init__(self):
        super().__init__()
        self.layer = VariationalLSTM(3, 4, p_input=0.3, p_recurrent=0.2, p_output=0.1)
        self.head = nn.Linear(4, 2)

    def forward(self, x, lengths):
        return self.head(self.layer(x, lengths)[1][0][-1])

    @staticmethod
    def inputs(rows, length):
        return {"x": drawn(rows, length, 3).float(), "lengths": torch.arange(rows) % length + 1}

    @staticmethod
    def padded(inputs, count):
        return {"x": F.pad(inputs["x"], (0, 0, 0, count), value=7.0), "lengths": inputs["lengths"]}


FREE = {
    Attention: {"input_ids": {1: "length"}, "attention_mask": {1: "length"}},
    Steps: {"x": {1: "length"}},
}


def network(kind):
    """One of these networks, its weights drawn under one seed, in eval mode."""
    return made(kind).to(getattr(kind, "dtype", torch.float32)).eval()
