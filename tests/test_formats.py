"""lowprec.formats: records, tokens, sizes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.formats import FORMATS, RANDOM_SOURCES, Format, Rounding, as_format, parse_token


def test_the_formats_of_the_kernels():
    assert list(FORMATS) == ["4", "8", "16", "32f"]
    assert [f.max_code for f in FORMATS.values() if not f.is_float] == [7, 127, 32767]
    assert [f.dtype for f in FORMATS.values()] == [np.uint8, np.int8, np.int16, np.float32]
    assert [f.packed for f in FORMATS.values()] == [True, False, False, False]


@pytest.mark.parametrize("token", FORMATS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 31, 32, 33, 2**33 + 1])
def test_row_bytes_hold_the_row_and_no_byte_more(token, n):
    f = FORMATS[token]
    assert f.row_bytes(n) * 8 >= n * f.bits > (f.row_bytes(n) - 1) * 8


@given(st.integers(1, 999_999), st.booleans())
def test_tokens_round_trip(bits, is_float):
    f = Format(bits, is_float)
    assert parse_token(str(f)) == f
    assert parse_token(f.token) is not None
    assert f.token.endswith("f") == is_float


def test_formats_are_values():
    assert Format(8) == FORMATS["8"]
    assert Format(32) != FORMATS["32f"]
    assert len({Format(8), Format(8), Format(8, True)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        FORMATS["8"].bits = 4


@pytest.mark.parametrize("value", ["8", 8, np.int64(8), Format(8), FORMATS["8"]])
def test_as_format(value):
    assert as_format(value) is FORMATS["8"]


def test_as_format_knows_floats_by_their_token_alone():
    assert as_format("32f") is FORMATS["32f"]
    with pytest.raises(ValueError, match="got '32'"):
        as_format(32)


@pytest.mark.parametrize("bits", [1, 2, 8, 16, 33])
def test_max_code(bits):
    assert Format(bits).max_code == (1 if bits == 1 else 2 ** (bits - 1) - 1)


def test_no_codes_and_no_array_where_there_are_none():
    with pytest.raises(ValueError, match="has no codes"):
        _ = FORMATS["32f"].max_code
    with pytest.raises(ValueError, match="has no array type"):
        _ = Format(18).dtype
    assert Format(64, True).dtype == np.float64
    assert Format(16, True).dtype == np.float16


def test_rounding_names_the_kernel_it_needs():
    assert [Rounding("stochastic", r).suffix for r in RANDOM_SOURCES] == ["_sr", "_srx", "_srb"]
    assert Rounding("nearest", "mt19937").suffix == ""
    assert Rounding("stochastic", "shared").suffix_for(FORMATS["32f"]) == ""
    assert Rounding("stochastic", "xorshift").suffix_for(FORMATS["4"]) == "_srx"
    assert Rounding("nearest", "xorshift").source == "nearest"
    assert Rounding("stochastic", "xorshift").source == "xorshift"
