"""Timesteps placed by importance: the same mean from fewer of them."""

import numpy as np
import pytest

from forebear.attribution import Attributor, QueryConfig, QueryEmbedder
from forebear.attribution.importance import importance_timesteps, norm_density
from forebear.errors import ConfigError
from forebear.run import Run
from forebear.store import Store

TOTAL = 1000


def peaked() -> np.ndarray:
    density = 1.0 / (5.0 + np.arange(TOTAL))
    return density / density.sum()


def test_weighted_means_are_means() -> None:
    """A function with the shape of the density has the same value times weight everywhere: any count is exact."""
    density = peaked()
    for count in (1, 4, 16):
        timesteps, weights = importance_timesteps(density, count)
        assert (weights * density[timesteps]).sum() == pytest.approx(1 / TOTAL, rel=1e-12)
        assert (np.diff(timesteps) > 0).all()


def test_fewer_timesteps_than_an_even_spread() -> None:
    density = peaked()
    value = density * (1.5 + np.sin(np.arange(TOTAL) / 200))
    timesteps, weights = importance_timesteps(density, 8)
    even = (np.arange(8) * 125 + 62).astype(int)
    error = abs((weights * value[timesteps]).sum() - value.mean())
    assert error < 0.1 * abs(value[even].mean() - value.mean())


def test_one_timestep_may_stand_for_several() -> None:
    density = np.full(TOTAL, 1e-6)
    density[3] = 1 - density.sum() + 1e-6
    timesteps, weights = importance_timesteps(density, 5)
    assert timesteps.tolist() == [3]
    assert weights[0] == pytest.approx(1 / TOTAL / density[3])


def test_density_follows_the_stores_norms(digits_run: Run) -> None:
    store = Store.open(digits_run.store_folder)
    density = norm_density(store, TOTAL)
    assert density.sum() == pytest.approx(1)
    means = sum(store.manifest.weights[name] * store.norms(name).mean(0) for name in store.plan.checkpoint_names)
    found = density[list(store.plan.timesteps)] - 0.1 / TOTAL
    np.testing.assert_allclose(found / found[0], means / means[0], rtol=1e-5)


def test_recorded_store_has_a_density(recorded_run: Run) -> None:
    density = norm_density(Store.open(recorded_run.store_folder), TOTAL)
    assert density.sum() == pytest.approx(1)
    assert density.min() >= 0.1 / TOTAL
    assert density.max() > 1.2 * density.min()


def test_query_is_measured_there(attributor: Attributor) -> None:
    picture = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    embedder = QueryEmbedder(attributor.run, attributor.store.plan)
    config = QueryConfig(count=4, sampling="importance")
    timesteps, weights = importance_timesteps(norm_density(attributor.store, TOTAL), 4)
    found = embedder.embed(picture, "", 3, config, estimators=["tracin"])
    assert found.record.timesteps == tuple(timesteps.tolist())
    parts = [
        embedder.embed(picture, "", 3, QueryConfig(timesteps=(t,)), estimators=["tracin"]).embeddings[0].mean
        for t in timesteps.tolist()
    ]
    wanted = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    assert np.linalg.norm(found.embeddings[0].mean - wanted) < 1e-4 * np.linalg.norm(wanted)
    apart = embedder.embed(picture, "", 3, config, estimators=["tracin"], by_timestep=True)
    assert np.linalg.norm(apart.embeddings[0].mean - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_cheap_mode_spreads_evenly(attributor: Attributor) -> None:
    assert QueryConfig(count=2).chosen_timesteps(attributor.store.plan, TOTAL) == (250, 750)


@pytest.mark.parametrize(
    "settings",
    [{"count": 4, "paper": True}, {"count": 4, "timesteps": (1,)}, {"sampling": "importance"}],
)
def test_contradictory_settings(settings: dict) -> None:
    with pytest.raises(ConfigError, match="count"):
        QueryConfig(**settings)


def test_more_timesteps_than_there_are(attributor: Attributor) -> None:
    with pytest.raises(ConfigError, match="1001 timesteps are asked for, the model has 1000"):
        QueryConfig(count=1001, sampling="importance").placed_timesteps(attributor.store, TOTAL)
