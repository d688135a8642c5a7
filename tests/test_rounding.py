"""Numbers in fewer bits: the native code against the reference, bit for bit, and the promises."""

from __future__ import annotations

import numpy as np
import pytest

from innerloop import _core
from innerloop.reference import rounding
from support import numbers

SIZES = [0, 1, 7, 8, 9, 255, 256, 257, 1000, 5003]
KEY = rounding.rounding_key(seed=1, step=2, array=3)


def samples(n: int) -> np.ndarray:
    """Numbers of every size, zeros and subnormals among them."""
    x = numbers(n, "float32", seed=n) * np.exp(numbers(n, "float32", seed=n + 1, scale=8))
    x[::7] = 0
    x[3::11] = 1e-40
    return x


@pytest.mark.parametrize("n", SIZES)
def test_bfloat16_is_the_references(isa: str, n: int) -> None:
    x = samples(n)
    np.testing.assert_array_equal(_core.round_bfloat16(x, KEY), rounding.to_bfloat16(x, KEY))


def test_bfloat16_special_values(isa: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5], np.float32)
    got = rounding.from_bfloat16(_core.round_bfloat16(x, KEY))
    np.testing.assert_array_equal(got, x)
    assert np.signbit(got[4])


def test_bfloat16_is_right_on_average() -> None:
    x = np.full(1 << 18, 1 + 1 / 512, np.float32)  # a quarter of the way from 1 to 1 + 1/128
    got = rounding.from_bfloat16(_core.round_bfloat16(x, KEY))
    assert set(np.unique(got)) == {np.float32(1), np.float32(1 + 1 / 128)}
    assert abs(got.mean(dtype=float) - x[0]) < 4 * (1 / 128) * np.sqrt(0.25 * 0.75 / x.size)
    other = _core.round_bfloat16(x, KEY + 1)
    assert 0.3 < np.mean(_core.round_bfloat16(x, KEY) == other) < 0.7  # 0.625 of independent draws


def test_bfloat16_of_every_nan_is_nan(isa: str) -> None:
    payloads = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF810000, 0xFFFFFFFF], np.uint32)
    x = np.repeat(payloads, 100).view(np.float32)
    assert np.isnan(rounding.from_bfloat16(_core.round_bfloat16(x, KEY))).all()


def test_random_halves_are_even_and_unrelated() -> None:
    n = 1 << 17
    keys = [rounding.state_key(KEY, state) for state in (0, 1)]
    first, second = (rounding.random_halves(n, key).astype(np.float64) for key in keys)
    # 1,024 bins of 128 each: chi-squared over its degrees of freedom is 1 within 5 deviations.
    for halves in (first, second, first[0::2], first[1::2]):
        observed = np.bincount((halves / 64).astype(int), minlength=1024)
        expected = halves.size / 1024
        chi = ((observed - expected) ** 2).sum() / expected / 1023
        assert abs(chi - 1) < 5 * np.sqrt(2 / 1023)
    # Neighbours, the halves of one hash, the next block, the other state: no relation.
    pairs = [(first[:-lag], first[lag:]) for lag in (1, 2, 8, 16, rounding.BLOCK)]
    for a, b in [*pairs, (first[0::2], first[1::2]), (first, second)]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)
    # Each bit is set half the time.
    for bit in range(16):
        assert abs(np.mean(first.astype(int) >> bit & 1) - 0.5) < 5 * 0.5 / np.sqrt(n)


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_8_bits_are_the_references(isa: str, n: int, negatives: bool) -> None:
    x = samples(n) if negatives else np.abs(samples(n))
    codes, scales = _core.round_8bit(x, negatives, KEY)
    expected_codes, expected_scales = rounding.to_8_bits(x, negatives, KEY)
    np.testing.assert_array_equal(scales, expected_scales)
    np.testing.assert_array_equal(codes, expected_codes)
    got = _core.widen_8bit(codes, scales, negatives)
    np.testing.assert_array_equal(got, rounding.from_8_bits(codes, scales, negatives))


@pytest.mark.parametrize("negatives", [False, True])
def test_8_bit_codes(isa: str, negatives: bool) -> None:
    values = rounding.code_values(negatives)
    positive = values[: 128 if negatives else 256]
    assert positive[0] == 0 and positive[-1] == 1 and (np.diff(positive) > 0).all()
    # A code's own value is kept, whatever the random bits.
    for start in range(0, values.size, 128):
        block = np.append(values[start : start + 128], 1).astype(np.float32)
        codes, scales = _core.round_8bit(block, negatives, KEY)
        np.testing.assert_array_equal(_core.widen_8bit(codes, scales, negatives), block)
    # Steps are an eighth at most.
    x = np.abs(numbers(256, "float32", scale=1.0)) + np.float32(0.01)
    got = _core.widen_8bit(*_core.round_8bit(x, negatives, KEY), negatives)
    assert (np.abs(got - x) <= x / 8 * 1.0001).all() and got.max() == x.max()


@pytest.mark.parametrize("negatives", [False, True])
def test_8_bits_are_right_on_average(negatives: bool) -> None:
    for value in (0.7, 0.01, 1e-6)[: 3 if negatives else 2]:  # the last lies below the least code
        x = np.full(1 << 18, value, np.float32)
        x[::256] = 1
        got = _core.widen_8bit(*_core.round_8bit(x, negatives, KEY), negatives)
        chosen = np.delete(got, np.s_[::256])
        low, high = chosen.min(), chosen.max()
        error = abs(chosen.mean(dtype=float) - np.float32(value))
        assert low <= value <= high and error < 5 * (high - low) * 0.5 / np.sqrt(chosen.size)


@pytest.mark.parametrize("negatives", [False, True])
def test_8_bits_of_a_block_with_nan_or_infinity(isa: str, negatives: bool) -> None:
    x = np.abs(numbers(600, "float32"))
    for bad in (np.nan, np.inf):
        x[300] = bad
        codes, scales = _core.round_8bit(x, negatives, KEY)
        expected = rounding.to_8_bits(x, negatives, KEY)
        np.testing.assert_array_equal(codes, expected[0])
        np.testing.assert_array_equal(scales, expected[1])
        got = _core.widen_8bit(codes, scales, negatives)
        assert np.isfinite(got[:256]).all() and np.isfinite(got[512:]).all()
        assert np.isnan(got[256:512]).all() if bad != bad else np.isfinite(got[256:512]).all()
    assert got[300] == np.finfo(np.float32).max


def test_8_bits_of_zeros(isa: str) -> None:
    codes, scales = _core.round_8bit(np.zeros(300, "f4"), True, KEY)
    assert not codes.any() and not scales.any()


@pytest.mark.parametrize("n", SIZES)
def test_split_and_join(isa: str, n: int) -> None:
    x = samples(n)
    upper, lower = _core.split(x)
    expected = rounding.split(x)
    np.testing.assert_array_equal(upper, expected[0])
    np.testing.assert_array_equal(lower, expected[1])
    np.testing.assert_array_equal(_core.join(upper, lower), x)
    np.testing.assert_array_equal(rounding.join(upper, lower), x)
    np.testing.assert_allclose(rounding.from_bfloat16(upper), x, rtol=2**-8, atol=1e-40)


def test_split_of_special_values(isa: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3.4028235e38, -3.4028235e38, -0.0, 1e-45], np.float32)
    upper, lower = _core.split(x)
    np.testing.assert_array_equal(_core.join(upper, lower), x)
    assert np.isnan(rounding.from_bfloat16(upper)[0])
