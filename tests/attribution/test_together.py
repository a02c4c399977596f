"""Queries that are embedded together come out as if each were alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forebear.attribution import Attributor

ROUNDING = 1e-5
"""Of a vector's norm: matrix libraries add in another order for another number of rows."""


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(0, 23), min_size=1, max_size=4), st.booleans())
def test_company_changes_a_query_by_rounding_alone(attributor: Attributor, rows: list[int], apart: bool) -> None:
    samples = [attributor.training_set.samples[row] for row in rows]
    pictures = [attributor.training_set.picture(row) for row in rows]
    asked = [
        (picture, f"number {place}", one.label)
        for place, (picture, one) in enumerate(zip(pictures, samples, strict=True))
    ]
    together = attributor.embed_queries(asked, band=(100, 900), by_timestep=apart)
    for (picture, caption, label), mine in zip(asked, together, strict=True):
        his = attributor.embed_query(picture, caption, label, band=(100, 900), by_timestep=apart)
        assert (mine.record.caption, mine.record.label, mine.record.timesteps) == (caption, label, his.record.timesteps)
        assert len(mine.steps) == len(his.steps)
        np.testing.assert_array_equal(mine.pixels, his.pixels)
        for one, other in zip((*mine.embeddings, *mine.steps), (*his.embeddings, *his.steps), strict=True):
            np.testing.assert_allclose(one.losses, other.losses, rtol=ROUNDING)
            np.testing.assert_allclose(one.norms, other.norms, rtol=ROUNDING)
            for name, expected in other.vectors.items():
                error = np.linalg.norm(one.vectors[name] - expected, axis=1)
                assert (error <= ROUNDING * np.linalg.norm(expected, axis=1)).all(), name
