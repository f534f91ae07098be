import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dropout_core.errors import InvalidInput
from dropout_core.noise.limits import MAX_SEED
from dropout_core.noise.philox import keep_mask, normal, philox, philox_words, uniform, words
from tests.support import references

KNOWN_ANSWERS = {  # Random123, kat_vectors: philox4x32 10
    "zeros": ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "digits of pi": (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}
GOLDEN = [  # seed, site, pass, shape, first word, last word
    (0, 0, 0, (7,), 0x17CC6835, 0x410F1AF5),
    (0, 0, 0, (3, 6), 0x17CC6835, 0x92CCBEF5),
    (0, 0, 0, (2, 3, 9), 0x17CC6835, 0xAA773DCF),
    (0, 0, 0, (2, 3, 2, 5), 0x17CC6835, 0x91476AFD),
    (0, 0, 0, (2, 2, 3, 2, 5), 0x17CC6835, 0xC30211D6),
    (0, 0, 0, (2, 2, 2, 2, 2, 5), 0x17CC6835, 0xE70B0084),
    (2**63 - 1, 5, 999, (7,), 0x5647F852, 0x11832A17),
    (2**63 - 1, 5, 999, (3, 6), 0x5647F852, 0xD467A271),
    (2**63 - 1, 5, 999, (2, 3, 9), 0x5647F852, 0x2733C6B4),
    (2**63 - 1, 5, 999, (2, 3, 2, 5), 0x5647F852, 0x120A5143),
    (2**63 - 1, 5, 999, (2, 2, 3, 2, 5), 0x5647F852, 0xC0DC0AEF),
    (2**63 - 1, 5, 999, (2, 2, 2, 2, 2, 5), 0x5647F852, 0xA9F32326),
]
GOLDEN_NORMALS = [-1.3227290217953427, 0.20660249386932725, -1.1299370253193455]  # seed, site and pass 0
WORD = st.integers(0, 2**32 - 1)
SHAPES = [(7,), (3, 6), (2, 3, 9), (2, 3, 2, 5), (2, 2, 3, 2, 5), (2, 2, 2, 2, 2, 5)]
by_rank = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank {len(shape)}")


def parsed(hexadecimal):
    return tuple(int(word, 16) for word in hexadecimal.split())


def passes(*numbers):
    return torch.tensor(numbers)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS.values(), ids=KNOWN_ANSWERS.keys())
def test_philox_gives_the_known_answers(counter, key, answer):
    assert philox(parsed(key), parsed(counter)) == parsed(answer)
    tensors = tuple(torch.tensor(word) for word in parsed(counter))
    assert tuple(philox_words(parsed(key), tensors).tolist()) == parsed(answer)


@given(st.tuples(WORD, WORD), st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=5))
def test_philox_of_integers_and_of_tensors_agree(key, counters):
    drawn = philox_words(key, tuple(torch.tensor(column) for column in zip(*counters, strict=True)))
    for index, counter in enumerate(counters):
        assert philox(key, counter) == tuple(drawn[index].tolist())
        assert philox(key, counter) == references.philox(key, counter)


@pytest.mark.parametrize(("seed", "site", "number", "shape", "first", "last"), GOLDEN)
def test_golden_words_pin_noise_version_1(seed, site, number, shape, first, last):
    drawn = words(seed, site, passes(number), shape).flatten()
    assert (int(drawn[0]), int(drawn[-1])) == (first, last)


def test_golden_mask_pins_noise_version_1():
    kept = keep_mask(0, 0, passes(0, 1), (16,), 0.5).int().flatten().tolist()
    assert "".join(map(str, kept)) == "01010100010100011100000000101100"


@given(
    seed=st.integers(0, MAX_SEED),
    site=st.integers(0, 999),
    number=st.integers(0, 2**31),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    data=st.data(),
)
def test_every_word_is_the_philox_of_its_coordinates(seed, site, number, shape, data):
    coordinates = [data.draw(st.integers(0, size - 1)) for size in shape]
    drawn = words(seed, site, passes(number), shape)[(0, *coordinates)]
    assert int(drawn) == references.word(seed, site, number, coordinates)


def test_a_site_without_coordinates_has_one_draw_a_pass():
    drawn = words(3, 1, passes(0, 1, 2), ())
    assert drawn.tolist() == words(3, 1, passes(0, 1, 2), (1,))[:, 0].tolist()


@by_rank
def test_a_longer_shape_contains_the_draws_of_a_shorter_one(shape):
    short = words(1, 2, passes(0, 5), shape)
    for axis in range(len(shape)):
        longer = [size + 6 * (axis == i) for i, size in enumerate(shape)]
        assert torch.equal(words(1, 2, passes(0, 5), longer)[tuple(map(slice, (2, *shape)))], short)


def test_draws_do_not_depend_on_the_range_of_passes():
    whole = words(1, 2, torch.arange(100), (3, 5))
    assert torch.equal(words(1, 2, torch.arange(30), (3, 5)), whole[:30])
    assert torch.equal(words(1, 2, torch.arange(70, 90), (3, 5)), whole[70:90])
    assert torch.equal(words(1, 2, passes(99, 0, 7), (3, 5)), whole[[99, 0, 7]])


@by_rank
def test_all_coordinates_sites_passes_and_seeds_have_draws_of_their_own(shape):
    """128 bits of four neighbours: two equal ones would not be chance."""
    blocks = (*shape[:-1], shape[-1] * 4)
    drawn = [words(seed, site, torch.arange(3), blocks) for seed in (0, 1, 2**32, 2**62) for site in (0, 1, 2)]
    quadruples = torch.stack(drawn).reshape(-1, 4)
    assert len(quadruples.unique(dim=0)) == len(quadruples)


@pytest.mark.parametrize("rank", range(1, 7))
def test_the_longest_axes_share_no_draws(rank):
    for axis in range(rank):
        shape = [1] * rank
        shape[axis] = 2**16 * (4 if axis == rank - 1 else 1)
        if axis != rank - 1:
            shape[-1] = 4
        quadruples = words(0, 0, passes(0), shape).reshape(-1, 4)
        assert len(quadruples.unique(dim=0)) == len(quadruples) == 2**16


@pytest.mark.parametrize("p", [0.01, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_the_realised_rate_is_p(p):
    kept = keep_mask(0, 0, torch.arange(20), (100, 100), p).double()
    standard_error = math.sqrt(p * (1 - p) / kept.numel())
    assert abs(float(kept.mean()) - (1 - p)) < 5 * standard_error


def test_uniform_draws_have_the_moments_of_the_uniform_law():
    """Var U = 1/12, and Var (U − 1/2)² = 1/80 − 1/144 = 1/180."""
    drawn = uniform(0, 0, torch.arange(20), (100, 100))
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    assert abs(float(drawn.mean()) - 1 / 2) < 5 * math.sqrt(1 / 12 / drawn.numel())
    assert abs(float((drawn - 0.5).square().mean()) - 1 / 12) < 5 * math.sqrt(1 / 180 / drawn.numel())


def standard(seed, site, numbers, shape=(64, 64)):
    """Draws of mean 0 and variance 1."""
    return (uniform(seed, site, numbers, shape) - 0.5) * math.sqrt(12)


PAIRS = {
    "neighbouring sites": lambda u, t: (u(0, 0, t), u(0, 1, t)),
    "neighbouring passes": lambda u, t: (u(0, 0, t), u(0, 0, t + 1)),
    "neighbouring seeds": lambda u, t: (u(0, 0, t), u(1, 0, t)),
    "seeds that differ in their high word": lambda u, t: (u(0, 0, t), u(2**32, 0, t)),
    "seed and site exchanged": lambda u, t: (u(0, 1, t), u(1, 0, t)),
    "neighbours on the last axis": lambda u, t: (u(0, 0, t)[..., 1:], u(0, 0, t)[..., :-1]),
    "neighbours on the first axis": lambda u, t: (u(0, 0, t)[:, 1:], u(0, 0, t)[:, :-1]),
    "counters that follow each other": lambda u, t: (u(0, 0, t)[..., 4:], u(0, 0, t)[..., :-4]),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_draws_are_uncorrelated_between(pair):
    """The mean product of two independent standard variables has standard error 1 / sqrt(n)."""
    a, b = pair(standard, torch.arange(0, 40, 2))
    assert abs(float((a * b).mean())) < 5 / math.sqrt(a.numel())


def test_p_0_keeps_all_and_p_1_keeps_none():
    assert keep_mask(0, 0, torch.arange(50), (100,), 0.0).all()
    assert not keep_mask(0, 0, torch.arange(50), (100,), 1.0).any()


@given(st.floats(0, 1))
def test_a_unit_is_dropped_where_its_uniform_draw_is_below_p(p):
    """p is resolved to 2^-32, half of which is the error of rounding."""
    drawn, kept = uniform(4, 2, passes(0), (500,)), keep_mask(4, 2, passes(0), (500,), p)
    assert kept[drawn >= p + 2.0**-33].all()
    assert not kept[drawn < p - 2.0**-33].any()


def test_a_draw_equal_to_p_is_kept():
    for index, word in enumerate(words(4, 2, passes(0), (20,))[0].tolist()):
        assert keep_mask(4, 2, passes(0), (20,), word / 2**32)[0, index]
        assert not keep_mask(4, 2, passes(0), (20,), (word + 1) / 2**32)[0, index]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)], ids=str)
def test_an_empty_shape_has_no_draws(shape):
    assert words(0, 0, passes(0, 1), shape).shape == (2, *shape)


def test_no_passes_have_no_draws():
    assert words(0, 0, torch.arange(0), (3,)).shape == (0, 3)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_bounds_is_refused(seed):
    with pytest.raises(InvalidInput, match=rf"seed is {seed}; it must lie between 0 and 2\^63 - 1"):
        words(seed, 0, passes(0), (3,))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_rate_out_of_bounds_is_refused(p):
    with pytest.raises(InvalidInput, match=f"drop probability is {p}; it must lie between 0 and 1"):
        keep_mask(0, 0, passes(0), (3,), p)


def test_a_seventh_coordinate_is_refused():
    with pytest.raises(InvalidInput, match="7 coordinates; noise is defined for at most 6"):
        words(0, 0, passes(0), (1,) * 7)


@pytest.mark.parametrize(
    ("shape", "bits"), [((1, 1, 1, 1, 1, 2**18 + 1), 16), ((2**16 + 1, 1, 1, 1, 1), 16), ((1, 2**24 + 1, 1), 24)]
)
def test_an_axis_too_long_for_its_bits_is_refused(shape, bits):
    with pytest.raises(InvalidInput, match=rf"longer than 2\^{bits} along one axis"):
        words(0, 0, passes(0), shape)


@given(seed=st.integers(0, MAX_SEED), site=st.integers(0, 999), number=st.integers(0, 2**31))
def test_a_normal_draw_is_the_quantile_of_its_word(seed, site, number):
    drawn = normal(seed, site, passes(number), (3, 5))
    for word, value in zip(words(seed, site, passes(number), (3, 5)).flatten(), drawn.flatten(), strict=True):
        assert float(value) == pytest.approx(NormalDist().inv_cdf((int(word) + 0.5) / 2**32), rel=1e-9, abs=1e-12)


def test_golden_normals_pin_noise_version_1():
    assert normal(0, 0, passes(0), (3,))[0].tolist() == pytest.approx(GOLDEN_NORMALS, rel=1e-12)


def test_normal_draws_have_the_moments_of_the_law():
    """Standard errors of mean, variance and fourth moment: 1, √2 and √96, over √n."""
    drawn = normal(3, 1, torch.arange(500), (200,))
    for power, wanted, spread in ((1, 0, 1), (2, 1, math.sqrt(2)), (4, 3, math.sqrt(96))):
        assert abs(float((drawn**power).mean()) - wanted) < 5 * spread / math.sqrt(drawn.numel())
