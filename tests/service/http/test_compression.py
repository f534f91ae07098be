import gzip
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdrop.errors import BodyTooLarge, InvalidRequest, RequestError, UnsupportedMediaType
from mcdrop.http.compression import decompress

COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("spelled", [str.lower, str.upper, " {} ".format])
def test_what_was_compressed_comes_back_up_to_the_last_byte_that_is_accepted(encoding, spelled):
    body = b"rows" * 1000

    assert decompress(COMPRESS[encoding](body), spelled(encoding), len(body)) == body
    with pytest.raises(BodyTooLarge, match="more than the 3999 bytes"):
        decompress(COMPRESS[encoding](body), spelled(encoding), len(body) - 1)


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_plain_body_stays_as_it_is(encoding):
    assert decompress(b"plain", encoding, 5) == b"plain"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x"])
def test_others_are_refused_by_name(encoding):
    with pytest.raises(UnsupportedMediaType, match=f"{encoding}.*gzip or deflate"):
        decompress(b"", encoding, 9)


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_bomb_is_refused_before_it_takes_memory(encoding):
    bomb = COMPRESS[encoding](bytes(100 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decompress(bomb, encoding, 2**20)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", COMPRESS)
def test_one_whole_stream_is_wanted(encoding):
    whole = COMPRESS[encoding](b"rows")

    with pytest.raises(InvalidRequest, match="is incomplete"):
        decompress(whole[:-1], encoding, 100)
    with pytest.raises(InvalidRequest, match=f"{len(whole)} bytes follow"):
        decompress(whole + whole, encoding, 100)
    with pytest.raises(InvalidRequest, match=f"is not valid {encoding}"):
        decompress(b"rows", encoding, 100)


@given(st.binary(max_size=60), st.sampled_from(sorted(COMPRESS)), st.data())
def test_damaged_bodies_are_refused_as_requests(body, encoding, data):
    damaged = bytearray(COMPRESS[encoding](body))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] = data.draw(st.integers(0, 255))

    with suppress(RequestError):
        assert len(decompress(bytes(damaged), encoding, 100)) <= 100
