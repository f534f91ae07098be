"""Dropouts as people write them by hand, each with its twin: a draw compared, a Boolean chosen by, a mask kept."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.nets import FoldedTime, Twin


class Compared(Twin):
    """A comparison as a number."""

    kind = "unscaled"
    sites = (((3,), 0.25),)

    def dropped(self, h):
        return h * (torch.rand_like(h) > 0.25).to(h.dtype) / 0.75

    def forward(self, x):
        h = self.body(x)
        return self.head(self.dropped(h) if self.training else h)


class ComparedOfAnotherType(Compared):
    """The draw is in float32, whatever the network is in."""

    def dropped(self, h):
        return h * (torch.rand(h.shape) < 0.75) / 0.75


class ComparedWithAValue(Compared):
    kind = "bernoulli"

    def dropped(self, h):
        keep = h.detach() * 0 + 0.75
        return h * (keep > torch.rand_like(h)) / 0.75


class Chosen(Compared):
    """The draw says what goes."""

    sites = (((3,), 0.75),)

    def dropped(self, h):
        return torch.where(torch.rand_like(h) < 0.25, 0, h / 0.75)

    def masked(self, x, masks):
        return self.head(self.body(x) * (masks[0] == 0) / 0.75)


class Filled(Chosen):
    def dropped(self, h):
        return h.masked_fill_(torch.empty_like(h).uniform_().le(0.25), 0).mul_(1 / 0.75)


class OfAConstant(Compared):
    def dropped(self, h):
        return h * torch.bernoulli(torch.full_like(h, 0.75)) / 0.75


class OfABoolean(Compared):
    def dropped(self, h):
        return h / 0.75 * torch.empty(h.shape, dtype=torch.bool).bernoulli_(0.75)


class MixedWithItsMean(Compared):
    """What is dropped is replaced, and nothing scaled: the mean is another value than the input."""

    def forward(self, x):
        h = self.body(x)
        kept = torch.rand_like(h).ge(0.25)
        return self.head(torch.where(kept, h, 2 * h) if self.training else 1.25 * h)

    def masked(self, x, masks):
        h = self.body(x)
        return self.head(torch.where(masks[0] > 0, h, 2 * h))


class UsesTheMask(Compared):
    """Output and mask of one dropout: a unit that is kept counts twice."""

    sites = (((3,), 0.5),)

    def forward(self, x):
        h = self.body(x)
        if not self.training:
            return self.head(h + 0.5)
        dropped, mask = torch.native_dropout(h, 0.5, True)
        return self.head(dropped + mask)

    def masked(self, x, masks):
        return self.head(self.body(x) * masks[0] + (masks[0] > 0))


class Tokens(FoldedTime):
    """Whole steps go, but never a protected one."""

    kind = "unscaled"
    sites = (((2,), 0.75),)

    def forward(self, x):
        h = self.body(x)
        if self.training:
            protected = torch.tensor([True, False])
            gone = (torch.rand(h.shape[:2], device=h.device) < 0.25) & ~protected
            h = h * gone.logical_not()[..., None]
        else:
            h = h * torch.tensor([1, 0.75])[:, None]
        return self.head(h).sum(1)

    def masked(self, x, masks):
        kept = (masks[0] == 0) | torch.tensor([True, False])
        return self.head(self.body(x) * kept[:, None]).sum(1)


class EitherDraw(Compared):
    """Two draws decide together."""

    sites = (((3,), 0.25), ((3,), 0.5))

    def forward(self, x):
        h = self.body(x)
        if not self.training:
            return self.head(h * 0.875)
        return self.head(h * ((torch.rand_like(h) < 0.75) | (torch.rand_like(h) < 0.5)))

    def masked(self, x, masks):
        return self.head(self.body(x) * (masks[0] + masks[1] > 0))


class FoldedMask(FoldedTime):
    """A template made like a value tells which of the folded rows are whose."""

    kind = "unscaled"

    def forward(self, x):
        h = self.body(x.reshape(-1, 2))
        kept = torch.empty_like(h).bernoulli_(0.5) if self.training else 0.5
        return self.head(h + 2 * h.tanh() * kept).tanh().view(x.shape[0], 2, 2).mean(1)


class GroupedAttention(Twin):
    """Two neighbouring heads of queries share a head of keys and values."""

    row = (2, 2)
    sites = (((4, 1, 2), 0.5),)

    def heads(self, x):
        queries = torch.stack([x[:, :1], x[:, 1:], x[:, :1].flip(2), -x[:, 1:]], 1)
        keys = self.body(x)[..., :2]
        return queries, torch.stack([keys, keys.flip(2).tanh()], 1)

    def forward(self, x):
        q, k = self.heads(x)
        return F.scaled_dot_product_attention(q, k, k.tanh(), dropout_p=0.5 * self.training, enable_gqa=True).sum(
            (1, 2)
        )

    def masked(self, x, masks):
        q, k = self.heads(x)
        total = 0
        for head, mask in enumerate(masks[0]):
            shared = k[:, head // 2]
            total = total + ((q[:, head] @ shared.mT / 2**0.5).softmax(-1) * mask) @ shared.tanh()
        return total.sum(1)


class ProjectedLSTM(Twin):
    """Hidden states of four units, projected to three."""

    row = (2, 2)
    sites = (((2, 3), 0.5),)

    def __init__(self):
        super().__init__()
        self.body = nn.LSTM(2, 4, num_layers=2, batch_first=True, dropout=0.5, proj_size=3)

    def forward(self, x):
        return self.head(self.body(x)[0][:, -1])

    def masked(self, x, masks):
        first, second = (nn.LSTM(size, 4, batch_first=True, proj_size=3) for size in (2, 3))
        for part, number in ((first, 0), (second, 1)):
            weights = {name: getattr(self.body, name.replace("l0", f"l{number}")) for name in part.state_dict()}
            part.to(self.dtype).load_state_dict(weights)
        return self.head(second(first(x)[0] * masks[0])[0][:, -1])


HANDMADE = [
    Compared, ComparedOfAnotherType, ComparedWithAValue, Chosen, Filled, OfAConstant, OfABoolean, MixedWithItsMean,
    UsesTheMask, Tokens, EitherDraw, FoldedMask, GroupedAttention, ProjectedLSTM,
]  # fmt: skip
