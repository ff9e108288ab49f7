"""The random streams: pinned by a file, independent of one another, the published generators."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import reference as R
from hypothesis import given
from hypothesis import strategies as st

from lowprec import kernels

PINNED = Path(__file__).parent / "data" / "random_streams.csv"


def read_pinned():
    with open(PINNED, newline="") as f:
        rows = list(csv.DictReader(f))
    return [(r["generator"], int(r["seed"]), int(r["stream"]), int(r["index"]), int(r["value"], 16)) for r in rows]


def test_the_streams_are_the_pinned_ones():
    rows = read_pinned()
    assert len(rows) == 6 * 3 * (24 + 8 + 8)
    draw = {
        "lanes": lambda seed, stream: kernels._rng_blocks(seed, stream, 3).reshape(-1),
        "scalar": lambda seed, stream: kernels._rng_scalars(seed, stream, 8),
        "mt19937": lambda seed, stream: kernels._mt_words(seed, stream, 8),
    }
    for generator, seed, stream, index, value in rows:
        assert draw[generator](seed, stream)[index] == value, (generator, seed, stream, index)


def test_the_file_is_what_the_oracle_writes(tmp_path):
    R.write_random_streams(tmp_path / "streams.csv")
    assert (tmp_path / "streams.csv").read_text() == PINNED.read_text()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_any_stream_is_the_oracles(seed, stream):
    source, twister = R.Stream(seed, stream), R.Mt19937(seed, stream)
    assert kernels._rng_blocks(seed, stream, 5).tolist() == [source.block() for _ in range(5)]
    assert kernels._rng_scalars(seed, stream, 5).tolist() == [source.scalar() for _ in range(5)]
    assert kernels._mt_words(seed, stream, 5).tolist() == [twister.next() for _ in range(5)]


def test_published_values():
    # SplitMix64 from state 0, and MT19937's own test vector: init_by_array({0x123, 0x234, 0x345, 0x456})
    assert R.mix(0) == 0xE220A8397B1DCDAF
    assert kernels._mt_words(0x123 | 0x234 << 32, 0x345 | 0x456 << 32, 3).tolist() == [1067595299, 955945823, 477289528]


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (1, 0), (2**64 - 1, 3)])
def test_mt19937_is_numpys(seed, stream):
    # a second refill of its state included
    theirs = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32, stream & 0xFFFFFFFF, stream >> 32])
    n = 2000
    assert kernels._mt_words(seed, stream, n).tolist() == theirs._bit_generator.random_raw(n).tolist()


def unmix(z):
    """The state that SplitMix64 would have to come from to put out z."""
    z ^= z >> 31
    z ^= z >> 62
    z = z * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
    z ^= z >> 27
    z ^= z >> 54
    z = z * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
    z ^= z >> 30
    z ^= z >> 60
    return (z - 0x9E3779B97F4A7C15) % 2**64


@pytest.mark.parametrize("lane", range(9))
def test_no_lane_is_ever_zero(lane):
    # the one seed (for stream 0) that would start this lane, or the scalar generator, at zero: xorshift would stay there
    start = -(lane + 1) * 0x9E3779B97F4A7C15 % 2**64
    seed = unmix(start ^ R.mix(0xD1B54A32D192ED03))
    replaced = R.xorshift64(0x9E3779B97F4A7C15)
    first = kernels._rng_blocks(seed, 0, 1)[0].tolist() + kernels._rng_scalars(seed, 0, 1).tolist()
    assert first[lane] == replaced
    assert 0 not in first
    source = R.Stream(seed, 0)
    assert first == [*source.block(), source.scalar()]


STREAMS = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2**63, 0), (0, 2**63)]


def test_streams_share_no_state():
    blocks = 4096
    seen = [set(kernels._rng_blocks(seed, stream, blocks).reshape(-1).tolist()) for seed, stream in STREAMS]
    seen += [set(kernels._rng_scalars(seed, stream, blocks).tolist()) for seed, stream in STREAMS]
    assert all(len(s) in (8 * blocks, blocks) for s in seen)
    assert len(set().union(*seen)) == sum(len(s) for s in seen)


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_streams_are_uncorrelated(lag):
    # Bits that agree between two streams of N bits: N/2 within 5 standard deviations sqrt(N)/2. Of a stream with itself at lag 0
    # the bits that are set.
    blocks = 4096
    bits = [np.unpackbits(kernels._rng_blocks(seed, stream, blocks).view(np.uint8)) for seed, stream in STREAMS]
    for i, a in enumerate(bits):
        for k, b in enumerate(bits[i:], start=i):
            if i == k and lag == 0:
                agree, n = int(a.sum()), a.size
            else:
                first, second = a[512 * lag :], b[: b.size - 512 * lag]
                agree, n = int((first == second).sum()), first.size
            assert abs(agree - n / 2) <= 5 * np.sqrt(n) / 2, (STREAMS[i], STREAMS[k], lag)


def test_lanes_of_a_block_are_uncorrelated():
    blocks = 1 << 15
    lanes = kernels._rng_blocks(0, 0, blocks).T.copy()
    bits = [np.unpackbits(lane.view(np.uint8)) for lane in lanes]
    n = bits[0].size
    for i in range(8):
        for k in range(i):
            assert abs(int((bits[i] == bits[k]).sum()) - n / 2) <= 5 * np.sqrt(n) / 2, (i, k)


def test_words_are_uniform():
    # chi-squared of the upper byte of every 16-bit word, 255 degrees of freedom: mean 255, standard deviation sqrt(510)
    for seed in range(3):
        words = kernels._rng_blocks(seed, 0, 1 << 13).view(np.uint16)
        for byte in (words >> 8, words & 255):
            counts = np.bincount(byte.reshape(-1), minlength=256)
            expected = words.size / 256
            assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * np.sqrt(510)


@pytest.mark.parametrize(("seed", "stream"), [(-1, 0), (0, -1), (2**64, 0), (0, 2**64)])
def test_out_of_range(seed, stream):
    for draw in (kernels._rng_blocks, kernels._rng_scalars):
        with pytest.raises(ValueError, match=r"\[0, 2\^64\)"):
            draw(seed, stream, 1)
