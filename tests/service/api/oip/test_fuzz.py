"""Whatever is sent to the Open Inference Protocol ends in a query that can be computed, or in a refusal."""

import json

from hypothesis import given
from hypothesis import strategies as st

from dropout_core.errors import InvalidInput, UnknownMeasure
from mcdrop.api.oip.decode import ResponseOptions, decode
from mcdrop.errors import RequestError
from mcdrop.inference.query import RequestLimits
from mcdrop.wire.json import JsonParser
from mcdrop.wire.oip_frame import Frame
from tests.support import service_nets as nets

LIMITS = RequestLimits(max_passes=100, max_samples=10_000, max_length=100)
PARSER = JsonParser()
ROWS = nets.images(2, seed=3).numpy()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=6,
)
DOCUMENT = {
    "id": "a",
    "inputs": [
        {"name": "x", "shape": [2, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": ROWS.nbytes}},
    ],
    "outputs": [{"name": "mean", "parameters": {"binary_data": True}}],
    "parameters": {"passes": 8, "seed": 1, "quantiles": "0.1,0.9", "samples": True, "timeout": 10**6},
}


def places(value, found=()):
    """The way to every part of a document."""
    yield found
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*found, key))


PLACES = [place for place in places(DOCUMENT) if place]


def with_part(document, place, part):
    """A copy of a document in which one part is another."""
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = part
    return changed


def decoded(predictor, body, length):
    """Return the query and its response options; None if it is refused by an error that blames the client."""
    try:
        return decode(Frame.of(body, length), predictor, LIMITS, PARSER)
    except (InvalidInput, RequestError, UnknownMeasure):
        return None


def framed(document):
    head = json.dumps(document).encode()
    return head + ROWS.tobytes(), str(len(head))


def test_the_document_itself_is_a_query(digits):
    query, options = decoded(digits, *framed(DOCUMENT))

    assert (query.num_rows, options.timeout_s, options.id) == (2, 1.0, "a")


@given(place=st.sampled_from(PLACES), part=JSON)
def test_any_part_may_be_any_json(digits, place, part):
    found = decoded(digits, *framed(with_part(DOCUMENT, place, part)))

    assert found is None or isinstance(found[1], ResponseOptions)


@given(data=st.data())
def test_any_byte_may_be_another(digits, data):
    body, length = framed(DOCUMENT)
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, int(length) + 8))] = data.draw(st.integers(0, 255))

    decoded(digits, bytes(damaged), length)


@given(cut=st.integers(0, 600), length=st.integers(-1, 1200).map(str) | st.text(max_size=3))
def test_wrong_lengths_are_refused(digits, cut, length):
    body, _ = framed(DOCUMENT)

    decoded(digits, body[:cut], length)
    decoded(digits, body, length)
