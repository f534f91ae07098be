"""What was computed is kept up to the last whole chunk, and only for the same question."""

import shutil

import pytest
import torch

from dropout_core.errors import InvalidInput
from mcdrop.pool.checkpoint import Checkpoint

TOLD = {"the bundle": "sha256:1", "the passes": "32"}
FIRST = {"score": torch.tensor([0.5, 0.25], dtype=torch.float64), "numbers": torch.tensor([1, 1])}
SECOND = {"score": torch.tensor([0.125], dtype=torch.float64), "numbers": torch.tensor([1])}


@pytest.fixture
def kept(tmp_path):
    """Two chunks of the first need, one of the third."""
    path = tmp_path / "ranked.csv.partial"
    with Checkpoint(path, TOLD, resume=False) as checkpoint:
        checkpoint.add(0, FIRST)
        checkpoint.add(0, SECOND)
        checkpoint.add(2, FIRST)
    return path


def known(path):
    """The chunks of the first three needs."""
    with Checkpoint(path, TOLD, resume=True) as checkpoint:
        return [checkpoint.of(need) for need in range(3)]


def same(found, wanted):
    return [{name: values.tolist() for name, values in one.items()} for one in found] == [
        {name: values.tolist() for name, values in one.items()} for one in wanted
    ]


def test_chunks_are_found_again(kept):
    first, second, third = known(kept)
    assert same(first, [FIRST, SECOND])
    assert second == []
    assert same(third, [FIRST])
    assert {name: values.dtype for name, values in third[0].items()} == {
        "score": torch.float64,
        "numbers": torch.int64,
    }


def test_wherever_a_record_is_cut_the_whole_ones_before_it_stay(kept, tmp_path):
    content, lengths = kept.read_bytes(), set()
    cut = tmp_path / "cut"
    for length in range(len(content) - 1, 0, -37):
        cut.write_bytes(content[:length])
        try:
            found = sum(map(len, known(cut)))
        except InvalidInput:  # not even the question is whole
            found = None
        lengths.add(found)
    assert lengths == {None, 0, 1, 2}


def test_after_a_cut_it_goes_on_where_it_was(kept):
    kept.write_bytes(kept.read_bytes()[:-5])
    with Checkpoint(kept, TOLD, resume=True) as checkpoint:
        assert checkpoint.of(2) == []
        checkpoint.add(2, SECOND)
    assert same(known(kept)[2], [SECOND])


def test_a_damaged_record_and_those_after_it_are_not_believed(kept):
    content = bytearray(kept.read_bytes())
    place = content.index(FIRST["score"].numpy().tobytes())
    content[place] ^= 1
    kept.write_bytes(content)
    assert known(kept) == [[], [], []]


def test_another_question_is_refused_by_its_name(kept):
    with pytest.raises(InvalidInput, match="the bundle changed since"):
        Checkpoint(kept, {**TOLD, "the bundle": "sha256:2"}, resume=True)
    with pytest.raises(InvalidInput, match="the bundle, the passes changed since"):
        Checkpoint(kept, dict.fromkeys(TOLD, "other"), resume=True)


def test_a_file_without_chunks_does_not_stay(tmp_path):
    with Checkpoint(tmp_path / "none", TOLD, resume=False):
        assert (tmp_path / "none").exists()
    assert not (tmp_path / "none").exists()


def test_nothing_computed_is_thrown_away_unasked(kept, tmp_path):
    copy = shutil.copy(kept, tmp_path / "copy")
    with pytest.raises(InvalidInput, match="go on with --resume, or remove it"):
        Checkpoint(kept, TOLD, resume=False)
    assert kept.read_bytes() == copy.read_bytes()
    with pytest.raises(InvalidInput, match=r"there is no .*other to resume"):
        Checkpoint(tmp_path / "other", TOLD, resume=True)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InvalidInput, match="is no checkpoint"):
        Checkpoint(tmp_path / "text", TOLD, resume=True)
