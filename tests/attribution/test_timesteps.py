"""A query measured timestep by timestep is the query measured at once, and each has its part in the scores."""

import numpy as np
import pytest

from forebear.attribution import Attributor, QueryConfig
from forebear.estimators import ESTIMATORS

ROW = 4
MODELLED = [name for name, method in ESTIMATORS.items() if not method.baseline]


@pytest.fixture(scope="module")
def asked(attributor: Attributor) -> dict:
    sample = attributor.training_set.samples[ROW]
    return {"image": attributor.training_set.picture(ROW), "caption": sample.caption, "label": sample.label}


@pytest.fixture(scope="module")
def apart(attributor: Attributor, asked: dict):
    return attributor.embed_query(**asked)


def test_joined_timesteps_are_the_query(attributor: Attributor, asked: dict, apart) -> None:
    together = attributor.embed_query(**asked, by_timestep=False)
    assert together.steps == ()
    assert len(apart.steps) == len(together.embeddings) == 2
    for one, other in zip(apart.embeddings, together.embeddings, strict=True):
        assert set(one.vectors) == set(other.vectors) == {method.column for method in ESTIMATORS.values()} - {
            "pixels", "keyed", "features",
        }  # fmt: skip
        for name, vector in one.vectors.items():
            scale = np.abs(other.vectors[name]).max()
            np.testing.assert_allclose(vector, other.vectors[name], rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose(one.norms, other.norms, rtol=1e-5)
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)


@pytest.mark.parametrize("name", MODELLED)
def test_contributions_add_up_to_the_score(attributor: Attributor, apart, name: str) -> None:
    method = ESTIMATORS[name]
    scores = attributor._scores(method, [apart])[0]
    found = attributor._contributions(method, apart, scores)
    assert found.shape == (3, 24)
    np.testing.assert_allclose(found.mean(axis=0), scores, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELLED if name != "cosine"])
def test_contribution_is_the_score_of_the_timestep_alone(attributor: Attributor, asked, apart, name: str) -> None:
    method = ESTIMATORS[name]
    found = attributor._contributions(method, apart, attributor._scores(method, [apart])[0])
    for place, timestep in enumerate(apart.record.timesteps):
        alone = attributor.embed_query(**asked, query=QueryConfig(timesteps=(timestep,)))
        scores = attributor._scores(method, [alone])[0]
        if method.column == "unit_matched":
            scores = scores * 3**0.5  # it has 1 / sqrt(T) on each side, and T is 1 here
        # 24 samples in 1024 dimensions: a ridge enlarges what rounding differs between batches of 1 and of 3.
        close = 1e-3 if method.ridge is None else 2e-2
        np.testing.assert_allclose(found[place], scores, rtol=close, atol=close * np.abs(scores).max())


def test_contribution_to_a_cosine_is_its_change_with_the_timesteps_share(attributor: Attributor, apart) -> None:
    method = ESTIMATORS["cosine"]
    weights = np.array([attributor.store.manifest.weights[name] for name in attributor.store.plan.checkpoint_names])
    stored = [
        attributor.store.vectors(name, "mean").astype(np.float64) for name in attributor.store.plan.checkpoint_names
    ]
    phi = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in stored]

    def score(shares: np.ndarray) -> np.ndarray:
        total = np.zeros(24)
        for weight, rows, steps in zip(weights, phi, apart.steps, strict=True):
            psi = shares @ steps.vectors["mean"].astype(np.float64)
            total += weight * rows @ (psi / np.linalg.norm(psi))
        return total

    found = attributor._contributions(method, apart, attributor._scores(method, [apart])[0])
    even = np.full(3, 1 / 3)
    np.testing.assert_allclose(score(even), found.mean(axis=0), rtol=5e-3, atol=5e-3 * np.abs(found).max())
    for place in range(3):
        without = np.where(np.arange(3) == place, 0, 1 / 2)
        shift = np.mean([score(np.where(np.arange(3) == one, 0, 1 / 2)) for one in range(3)], axis=0) - score(without)
        np.testing.assert_allclose(found[place], score(even) + 2 * shift, rtol=1e-2, atol=1e-2 * np.abs(found).max())


def test_one_timestep_has_no_interval(attributor: Attributor, asked: dict) -> None:
    timestep = attributor.store.plan.timesteps[:1]
    answer = attributor.attribute(**asked, query=QueryConfig(timesteps=timestep))
    for group in answer.group_totals["class"]:
        assert group.share_interval is None
        assert group.p_value is not None
    assert answer.group_statistics.resamples == 0
