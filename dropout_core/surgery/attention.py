"""Dropout on the attention of a network: torch's layers become ours, with the same weights."""

from collections.abc import Sequence

from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.attention import AttentionDropout, MultiheadAttention
from dropout_core.surgery.changes import Instead, Kind, RateChange, built, named, paths_of, slots_of, within
from dropout_core.surgery.report import Change, Notes, described


class TorchLikeAttention(MultiheadAttention):
    """Our attention, called as torch's is: weights are returned unless declined, and masks may be [B · H, Q, K]."""

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend: (output [B, Q, E], weights or None)."""
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.unflatten(0, (query.shape[0], self.num_heads))
        return super().forward(
            query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )


def drop_attention(
    model: nn.Module, p: float, names: Sequence[str] | None, kind: Kind | None, notes: Notes
) -> list[Change]:
    """The changes that give attention, all or that of the names, this rate; with notes of them.

    Raises InvalidInput where there is none, and for a kind that makes no AttentionDropout.
    """
    if names is not None:
        named(model, names)
    dropout = AttentionDropout(p) if kind is None else built(kind, p)
    if not isinstance(dropout, AttentionDropout):
        raise InvalidInput(f"kind made a {type(dropout).__name__}; for attention an AttentionDropout is wanted.")
    guided = None if kind is None else dropout.guided
    found = {
        module: ", ".join(paths)
        for module, paths in paths_of(model).items()
        if isinstance(module, nn.MultiheadAttention) and (names is None or any(within(path, names) for path in paths))
    }
    if not found:
        raise InvalidInput(
            "no nn.MultiheadAttention was found. Attention that is written out takes an AttentionDropout."
        )
    changes = [_change(model, path, module, dropout.p, guided, notes) for module, path in found.items()]
    return [change for change in changes if change is not None]


def _change(
    model: nn.Module, path: str, module: nn.MultiheadAttention, p: float, guided: bool | None, notes: Notes
) -> Change | None:
    """What to do to one attention layer, if anything, and a note of it. guided: None is what it is, or not."""
    was = described(module)
    if isinstance(module, MultiheadAttention):
        if guided not in (None, module.guided):
            notes.left(path, was, f"its guided is {module.guided}; set it beside p")
            return None
        notes.changed(path, was, f"p={p}")
        return RateChange(path, module, "p", p)
    was = f"{type(module).__name__}(dropout={module.dropout})"
    slots, reason = slots_of(model, module), _cannot_be_ours(module)
    if reason is None and slots:
        new = _ours(module, p, bool(guided))
        notes.changed(path, was, described(new))
        return Instead(path, slots, module, new)
    reason = reason or "it is the network itself"
    if guided:
        notes.left(path, was, f"{reason}: torch's own dropout is not guided")
        return None
    notes.changed(path, was, f"dropout={p}, in torch's own code, as {reason}")
    return RateChange(path, module, "dropout", p)


def _cannot_be_ours(module: nn.MultiheadAttention) -> str | None:
    """Why our attention cannot stand in for this one."""
    hooks = any(hooks for name, hooks in vars(module).items() if name.endswith("_hooks"))
    reasons = {
        "it is no plain nn.MultiheadAttention": type(module) is not nn.MultiheadAttention,
        "its rows are not first (batch_first=False)": not module.batch_first,
        "its keys or values have sizes of their own": not module._qkv_same_embed_dim,
        "it adds keys (add_bias_kv, add_zero_attn)": module.bias_k is not None or module.add_zero_attn,
        "it has hooks": hooks,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _ours(module: nn.MultiheadAttention, p: float, guided: bool) -> TorchLikeAttention:
    """Our attention with the very parameters of torch's."""
    new = TorchLikeAttention(module.embed_dim, module.num_heads, p, guided, device="meta")
    new.in_proj_weight, new.in_proj_bias, new.out_proj = module.in_proj_weight, module.in_proj_bias, module.out_proj
    return new
