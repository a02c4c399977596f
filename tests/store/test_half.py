"""Half precision with a scale per row keeps every row's precision, whatever its magnitude."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forebear.store import from_half, to_half

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40))
EXPONENTS = st.integers(-12, 12)
VECTORS = SHAPES.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=st.floats(-1, 1, width=32)),
        hnp.arrays(np.int64, (shape[0], 1), elements=EXPONENTS),
    )
).map(lambda pair: (pair[0] * 10.0 ** pair[1]).astype(np.float32))


@given(VECTORS)
@settings(max_examples=200, deadline=None)
def test_each_number_comes_back_within_the_stated_error(vectors: np.ndarray) -> None:
    halves, scales = to_half(vectors)
    assert halves.dtype == np.dtype("<f2")
    assert np.abs(halves).max(initial=0) <= 1
    restored = from_half(halves, scales)
    assert restored.dtype == np.float32
    exact = vectors.astype(np.float64)
    bound = np.abs(exact) * 2.0**-11 + scales[:, None].astype(np.float64) * 2.0**-25
    float32_rounding = np.abs(exact) * 2.0**-22 + np.finfo(np.float32).smallest_subnormal
    assert (np.abs(restored - exact) <= bound + float32_rounding).all()


@given(VECTORS)
@settings(max_examples=100, deadline=None)
def test_the_largest_number_of_a_row_is_exact(vectors: np.ndarray) -> None:
    restored = from_half(*to_half(vectors))
    np.testing.assert_array_equal(np.abs(restored).max(axis=1), np.abs(vectors).max(axis=1))


def test_rows_of_zeros_have_scale_one() -> None:
    halves, scales = to_half(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(scales, [1, 1])
    np.testing.assert_array_equal(halves, 0)


def test_a_power_of_two_scales_without_any_rounding() -> None:
    vectors = np.array([[1.0, -0.3, 7e-3]], np.float32)
    halves, scales = to_half(vectors)
    for exponent in (-40, 40):
        again, scaled = to_half(vectors * np.float32(2.0**exponent))
        np.testing.assert_array_equal(again, halves)
        np.testing.assert_array_equal(scaled, scales * 2.0**exponent)


def test_views_and_read_only_arrays_are_read_as_they_are() -> None:
    vectors = np.arange(1, 25, dtype=np.float32).reshape(4, 6)
    for view in (vectors[::-1], vectors[:, ::2], vectors.T):
        halves, scales = to_half(view)
        halves.flags.writeable = scales.flags.writeable = False
        np.testing.assert_allclose(from_half(halves, scales), view, rtol=2**-10)
        np.testing.assert_allclose(from_half(halves[::-1], scales[::-1]), view[::-1], rtol=2**-10)
