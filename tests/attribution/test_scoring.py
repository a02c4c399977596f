"""Scores from the store against direct NumPy, for every estimator."""

import hashlib

import numpy as np
import pytest

from forebear.attribution import Attributor, QueryConfig, QueryEmbedder, StoreScorer
from forebear.attribution.features import features_file
from forebear.attribution.query import EmbeddedQuery
from forebear.attribution.sides import reduced_pixels
from forebear.errors import ConfigError, StoreError
from forebear.estimators import ESTIMATORS
from forebear.randomness import keyed_normal
from forebear.run import Run

ROWS = (5, 11)


@pytest.fixture(scope="module")
def embedder(attributor: Attributor) -> QueryEmbedder:
    return QueryEmbedder(attributor.run, attributor.store.plan)


@pytest.fixture(scope="module")
def queries(attributor: Attributor, embedder: QueryEmbedder) -> list[EmbeddedQuery]:
    generator = np.random.default_rng(8)
    return [
        embedder.embed(
            generator.uniform(-1, 1, (1, 8, 8)).astype(np.float32),
            "",
            row % 10,
            QueryConfig(),
            features=generator.standard_normal(5).astype(np.float32),
        )
        for row in ROWS
    ]


@pytest.fixture(scope="module")
def scorer(attributor: Attributor) -> StoreScorer:
    return StoreScorer(attributor.run, attributor.store, attributor.training_set)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def baseline(name: str, attributor: Attributor, queries: list[EmbeddedQuery]) -> np.ndarray:
    training_set = attributor.training_set
    count = len(training_set)
    if name == "pixel":
        phi = training_set.pixels(range(count), 8, 1).reshape(count, -1).astype(np.float64)
        return unit(np.stack([query.pixels.reshape(-1) for query in queries]).astype(np.float64)) @ unit(phi).T
    if name == "embedding":
        phi = np.load(features_file(attributor.run)).astype(np.float64)
        return unit(np.stack([query.features for query in queries]).astype(np.float64)) @ unit(phi).T
    keyed = np.stack([keyed_normal((64,), "random estimator", "sample", one.id) for one in training_set.samples])
    hashes = [hashlib.sha256(query.pixels.tobytes()).hexdigest() for query in queries]
    psi = np.stack([keyed_normal((64,), "random estimator", "query", digest) for digest in hashes])
    return psi.astype(np.float64) @ keyed.T.astype(np.float64)


def direct(name: str, attributor: Attributor, queries: list[EmbeddedQuery], ridge: float | None = None) -> np.ndarray:
    """float64[Q, N], one checkpoint at a time, with one solve of the whole matrix for each."""
    ridge = ESTIMATORS[name].ridge if ridge is None else ridge
    if name in {"pixel", "random", "embedding"}:
        return baseline(name, attributor, queries)
    column = {"retrac": "unit_mean", "retrac-ridge": "unit_mean", "retrac-matched": "unit_matched"}.get(name, "mean")
    column = {"dtrak": "square_mean", "das": "output_unit_mean"}.get(name, column)
    store, total = attributor.store, 0.0
    for place, checkpoint in enumerate(store.plan.checkpoint_names):
        phi = store.vectors(checkpoint, column).astype(np.float64)  # [N, k]
        psi = np.concatenate([query.embeddings[place].column(column) for query in queries]).astype(np.float64)
        if name in {"tracin", "retrac", "retrac-matched"}:
            total = total + store.manifest.weights[checkpoint] * psi @ phi.T
            continue
        if name == "cosine":
            total = total + store.manifest.weights[checkpoint] * unit(psi) @ unit(phi).T
            continue
        moment = phi.T @ phi / len(phi)
        regular = moment + ridge * np.trace(moment) / len(moment) * np.eye(len(moment))
        scores = np.linalg.solve(regular, psi.T).T @ phi.T
        if name == "das":
            residual = np.sqrt(store.losses(checkpoint).mean(1, dtype=np.float64))
            scores = scores * (residual / residual.mean())
        total = scores if name == "trak-last" else total + scores
    return np.asarray(total)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_scores_are_those_of_numpy(
    name: str, scorer: StoreScorer, attributor: Attributor, queries: list[EmbeddedQuery]
) -> None:
    found, wanted = scorer.scores(name, queries), direct(name, attributor, queries)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["trak", "das"])
def test_ridge_of_a_call_replaces_the_estimators(
    name: str, scorer: StoreScorer, attributor: Attributor, queries: list[EmbeddedQuery]
) -> None:
    for ridge in (1.0, 1e-4):
        wanted = direct(name, attributor, queries, ridge)
        found = scorer.scores(name, queries, ridge)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    with pytest.raises(ConfigError, match="tracin has no ridge"):
        scorer.scores("tracin", queries, 0.1)


def test_a_large_ridge_leaves_the_inner_product(
    scorer: StoreScorer, attributor: Attributor, queries: list[EmbeddedQuery]
) -> None:
    """With lambda towards infinity `trak-last` ranks as `tracin` at that checkpoint."""
    name = attributor.store.plan.checkpoint_names[-1]
    phi = attributor.store.vectors(name, "mean").astype(np.float64)
    plain = np.concatenate([query.embeddings[-1].mean for query in queries]).astype(np.float64) @ phi.T
    found = scorer.scores("trak-last", queries, 1e9)
    assert (found.argsort(1) == plain.argsort(1)).all()
    np.testing.assert_allclose(found / found.max(), plain / plain.max(), rtol=1e-6)


def test_only_what_is_asked_for_is_measured(embedder: QueryEmbedder, scorer: StoreScorer) -> None:
    picture = np.zeros((1, 8, 8), np.float32)
    query = embedder.embed(picture, "", 3, QueryConfig(), estimators=["dtrak", "pixel"])
    assert [set(one.vectors) for one in query.embeddings] == [{"square_mean"}] * 2
    assert all(np.isfinite(losses).all() for losses in query.record.losses.values())
    scorer.scores("dtrak", [query])
    with pytest.raises(ConfigError, match="without output_unit_mean"):
        scorer.scores("das", [query])
    baselines = embedder.embed(picture, "", 3, QueryConfig(), estimators=["pixel", "random"])
    assert baselines.embeddings == ()
    assert scorer.scores("pixel", [baselines]).shape == (1, 24)
    with pytest.raises(ConfigError, match=r"query's own feature vector of 5 numbers"):
        scorer.scores("embedding", [baselines])


def test_measurement_that_the_store_lacks_says_what_to_run(recorded_run: Run) -> None:
    attributor = Attributor.open(recorded_run.folder)
    embedder = QueryEmbedder(recorded_run, attributor.store.plan)
    query = embedder.embed(np.zeros((1, 8, 8), np.float32), "", 3, QueryConfig(timesteps=(9,)), estimators=["tracin"])
    scorer = StoreScorer(recorded_run, attributor.store, attributor.training_set)
    words = r"dtrak needs the measurement `square`.*forebear embed --measurement square --run .* --restart"
    with pytest.raises(ConfigError, match=words):
        scorer.scores("dtrak", [query])
    with pytest.raises(ConfigError, match=words):
        embedder.embed(np.zeros((1, 8, 8), np.float32), "", 3, QueryConfig(), estimators=["dtrak"])
    with pytest.raises(ConfigError, match=r"trak inverts a matrix of .*--dim 4096"):
        scorer.scores("trak", [query])
    assert set(attributor.estimators) == {
        "tracin",
        "retrac",
        "cosine",
        "retrac-matched",
        "pixel",
        "random",
        "embedding",
    }


def test_large_pictures_are_reduced_to_means_of_areas() -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    wanted = pixels.reshape(2, 3, 32, 2, 32, 2).mean((3, 5)).reshape(2, -1)
    np.testing.assert_allclose(reduced_pixels(pixels), wanted, atol=1e-6)
    np.testing.assert_array_equal(reduced_pixels(pixels[:, :, :20, :20]), pixels[:, :, :20, :20].reshape(2, -1))


def test_no_queries_and_unknown_estimators(scorer: StoreScorer, queries: list[EmbeddedQuery]) -> None:
    with pytest.raises(ConfigError, match="no query"):
        scorer.scores("tracin", [])
    with pytest.raises(ConfigError, match="oracle"):
        scorer.scores("oracle", queries)


def test_masks_of_any_resolution(embedder: QueryEmbedder) -> None:
    picture = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)

    def embedded(mask: np.ndarray | None) -> np.ndarray:
        return embedder.embed(picture, "", 3, QueryConfig(), mask=mask).embeddings[0].mean

    whole = embedded(None)
    np.testing.assert_array_equal(embedded(np.ones((8, 8))), whole)
    np.testing.assert_array_equal(embedded(np.ones((20, 20), bool)), whole)
    left = np.zeros((8, 8))
    left[:, :4] = 1
    np.testing.assert_array_equal(embedded(np.kron(left, np.ones((3, 3)))), embedded(left))
    assert np.linalg.norm(embedded(left) + embedded(1 - left) - whole) < 1e-4 * np.linalg.norm(whole)
    for wrong, words in (
        (np.zeros((8, 8)), "0 everywhere"),
        (np.full((8, 8), 2.0), "numbers in"),
        (np.ones(8), "shape"),
    ):
        with pytest.raises(ConfigError, match=words):
            embedded(wrong)


def test_damaged_store_is_no_store(writable_run: Run, queries: list[EmbeddedQuery]) -> None:
    attributor = Attributor.open(writable_run.folder)
    scorer = StoreScorer(writable_run, attributor.store, attributor.training_set)
    next(writable_run.store_folder.glob("checkpoint=*/*.parquet")).unlink()
    with pytest.raises(StoreError, match="forebear embed"):
        scorer.scores("tracin", queries)
