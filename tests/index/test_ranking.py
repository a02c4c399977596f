"""The order of answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forebear.index import best_rows, ranking

# Few different values, so that most scores tie.
SCORES = hnp.arrays(np.float32, st.integers(1, 30), elements=st.sampled_from([-2.0, -0.0, 0.0, 1.0, 3.5]))


@given(SCORES, st.integers(1, 35), st.sampled_from([0, 30]))
def test_best_rows_are_those_of_a_stable_sort(scores: np.ndarray, count: int, sorted_whole: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SORTED_WHOLE", sorted_whole)
        found = best_rows(scores, count)
    np.testing.assert_array_equal(found, np.argsort(-scores, kind="stable")[:count])
