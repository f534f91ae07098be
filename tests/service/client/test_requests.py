"""The keyword arguments of the client are the options of the library."""

from dataclasses import fields

from dropout_core.acquire.options import RankOptions
from dropout_core.engine.options import PassOptions
from mcdrop.client.requests import PredictFields, RankFields, RunFields

# What a server learns from the rows that are sent, or from the bundle.
DERIVED = {"output", "num_rows", "num_labelled", "num_targets"}
# What belongs to a request for other rows than the pool's.
ROWS = {"version", "ids", "labelled", "targets"}


def names(kind):
    return set(kind.__annotations__)


def test_the_fields_of_a_ranking_are_those_of_rank_options():
    options = {field.name for field in fields(RankOptions)} - DERIVED

    assert names(RankFields) - ROWS == options | names(RunFields) - {"version"}


def test_every_pass_option_is_an_argument_of_predict_and_rank():
    options = {field.name for field in fields(PassOptions)}

    assert names(RunFields) == options | {"version"}
    assert names(RunFields) < names(PredictFields)
    assert names(RunFields) < names(RankFields)
