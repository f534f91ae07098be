import pytest
import torch

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.layers import EmbeddingDropout, WordDropout

TOKENS = torch.randint(0, 50, (8, 40), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("per", ["row", "batch"])
def test_a_type_is_gone_wherever_it_stands(per):
    torch.manual_seed(0)
    layer = EmbeddingDropout(50, 3, 0.5, per=per)
    gone = (layer(TOKENS) == 0).all(-1)
    by_row = []
    for tokens, dropped in zip(TOKENS, gone, strict=True):
        fates = {int(token): {bool(d) for d in dropped[tokens == token]} for token in tokens.unique()}
        assert all(len(fate) == 1 for fate in fates.values())
        by_row.append({token for token, fate in fates.items() if True in fate})
    everywhere = [len({token in dropped for row, dropped in zip(TOKENS, by_row, strict=True) if token in row}) == 1
                  for token in range(50)]  # fmt: skip
    assert all(everywhere) == (per == "batch")


def test_a_pass_drops_the_same_types_in_every_row():
    layer = EmbeddingDropout(50, 1, 0.5).double()
    program = capture(torch.nn.Sequential(layer, torch.nn.Flatten()), TOKENS)
    for chunk in Engine(program).run(program.weights, TOKENS, PassOptions(4, 0, sampling="iid")):
        (outputs,) = chunk.outputs
        fates = [{bool(d) for d in (outputs == 0)[token == TOKENS]} for token in TOKENS.unique()]
        assert all(len(fate) == 1 for fate in fates)
        assert {True, False} == set().union(*fates)


def test_a_padding_index_has_no_gradient():
    layer = EmbeddingDropout(5, 3, 0.5, padding_idx=0)
    layer(torch.zeros(4, 6, dtype=torch.int64)).sum().backward()
    assert not layer.weight.grad.any()


def test_weights_that_change_while_read_are_refused():
    with pytest.raises(InvalidInput, match="max_norm"):
        EmbeddingDropout(5, 3, 0.5, max_norm=1.0)


def test_an_unknown_option_is_refused():
    with pytest.raises(InvalidInput, match="it is one of row, batch"):
        EmbeddingDropout(5, 3, 0.5, per="pass")


@pytest.mark.parametrize("layer", [EmbeddingDropout(5, 3, 0.5), WordDropout(0.5, 1)], ids=["embedding", "word"])
@pytest.mark.parametrize("tokens", [torch.ones(2, 3), torch.ones(3, dtype=torch.int64)], ids=["floats", "one row"])
def test_what_are_no_tokens_is_refused(layer, tokens):
    with pytest.raises(InvalidInput, match=r"int \[B, \*\] is wanted"):
        layer(tokens)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_dropped_words_are_unknown_and_spared_ones_stay(dtype):
    torch.manual_seed(0)
    tokens = TOKENS.to(dtype)
    changed = WordDropout(0.5, unknown=99, spared=(3, 4))(tokens)
    assert changed.dtype == dtype
    assert set(changed[changed != tokens].tolist()) == {99}
    assert torch.equal(changed == 3, tokens == 3)
    assert torch.equal(changed == 4, tokens == 4)
    assert torch.equal(WordDropout(1.0, unknown=99, spared=(3,))(tokens), torch.where(tokens == 3, tokens, 99))
