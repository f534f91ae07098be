import pytest

from mcdrop.api.v1.payload import query_fields
from mcdrop.errors import NotAcceptable, UnsupportedMediaType
from mcdrop.http.media_types import JSON, NDJSON, NPY, NPZ, body_media_type, negotiate

OFFERED = (JSON, NPZ, NDJSON)


@pytest.mark.parametrize(
    ("sent", "form"),
    [
        ("", JSON),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/vnd.rows+json", JSON),
        ("text/plain", JSON),
        ("application/x-www-form-urlencoded", JSON),
        ("application/x-npy", NPY),
        (" APPLICATION/X-NPZ ;x=1", NPZ),
    ],
)
def test_a_body_is_of_the_form_it_says(sent, form):
    assert body_media_type(sent) == form


@pytest.mark.parametrize(
    "sent", ["nonsense", "application/octet-stream", "multipart/form-data; boundary=x", "application/x-npy2", "json"]
)
def test_a_form_that_is_not_read_is_refused_with_those_that_are(sent):
    with pytest.raises(UnsupportedMediaType) as refusal:
        body_media_type(sent)
    said = f"the body's Content-Type is {sent!r}; send application/json, application/x-npy or application/x-npz."
    assert str(refusal.value) == said


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", JSON),
        ("  ", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("application/x-npz", NPZ),
        ("application/x-ndjson", NDJSON),
        ("APPLICATION/X-NPZ", NPZ),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("application/x-npz;q=0.5, application/json;q=0.4", NPZ),
        ("application/x-npz;q=0.5, application/json;q=0.5", JSON),
        ("application/json;q=0.1, */*;q=0.2", NPZ),
        ("application/json;q=0, application/*", NPZ),
        ("*/*;q=0.9, application/*;q=0.1, application/x-ndjson;q=0.2", NDJSON),
        ("application/x-npz ; level=1 ; Q=1.0 , application/json ; q = 0.9", NPZ),
        ("application/json;q=much, application/x-npz;q=0.001", NPZ),
        ("application/json;q=nan, application/x-npz;q=0.001", NPZ),
        ("application/json;q=2, application/x-npz;q=0.001", NPZ),
        (",,application/x-npz,", NPZ),
    ],
)
def test_an_answer_is_of_the_form_that_is_liked_best(accept, form):
    assert negotiate(accept, OFFERED) == form


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json;q=0", "*/*;q=0", "application/json;q=0, application/x-npz; q=0.0", "x"]
)
def test_where_no_form_is_liked_those_there_are_are_named(accept):
    with pytest.raises(NotAcceptable) as refusal:
        negotiate(accept, (JSON, NPZ) if "json" in accept else OFFERED)
    assert f"the Accept header is {accept!r}; this endpoint writes application/json, application/x-npz" in str(
        refusal.value
    )


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ([], {}),
        ([("passes", "8"), ("seed", "null"), ("samples", "true")], {"passes": 8, "seed": None, "samples": True}),
        ([("tolerance", "0.05")], {"tolerance": 0.05}),
        ([("tolerance", '{"mean": 0.05}')], {"tolerance": {"mean": 0.05}}),
        ([("outputs", "mean"), ("outputs", "margin")], {"outputs": ["mean", "margin"]}),
        ([("quantiles", "0.1"), ("passes", "8"), ("quantiles", "0.9")], {"quantiles": [0.1, 0.9], "passes": 8}),
        ([("outputs", "")], {"outputs": []}),
        ([("ids", "7"), ("ids", "null")], {"ids": ["7", "null"]}),
        ([("score", "3"), ("sampling", "iid"), ("masks", "null")], {"score": "3", "sampling": "iid", "masks": "null"}),
        ([("passes", "eight"), ("seed", "")], {"passes": "eight", "seed": ""}),
    ],
    ids=str,
)
def test_fields_stand_in_the_query_of_an_address(query, fields):
    assert query_fields(query) == fields
