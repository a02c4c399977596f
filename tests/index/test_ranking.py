"""The order of answers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forebear.index import best_rows

# Few different values, so that most scores tie.
SCORES = hnp.arrays(np.float32, st.integers(1, 30), elements=st.sampled_from([-2.0, -0.0, 0.0, 1.0, 3.5]))


@given(SCORES, st.integers(1, 35))
def test_best_rows_are_those_of_a_stable_sort(scores: np.ndarray, count: int) -> None:
    np.testing.assert_array_equal(best_rows(scores, count), np.argsort(-scores, kind="stable")[:count])
