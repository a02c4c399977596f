"""The order of the training set changes no score, and equal images get equal ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forebear.attribution import QueryConfig, QueryEmbedder, StoreScorer
from forebear.attribution.features import import_features
from forebear.data import Columns, DataConfig, open_training_set
from forebear.estimators import ESTIMATORS
from forebear.gradients import ProjectionConfig
from forebear.images import to_png
from forebear.jobs import EmbedConfig, embed, start_run
from forebear.run import Run

IMAGES = 9
Scores = Callable[[list[int]], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def scores_of(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """The scores of one query by every estimator, float64[N], for a training set of these rows of the digits."""
    digits = open_training_set(DataConfig("digits", limit=IMAGES))
    features = np.random.default_rng(0).standard_normal((IMAGES, 4))

    def run(rows: list[int]) -> dict[str, np.ndarray]:
        folder: Path = tmp_path_factory.mktemp("order")
        cells = [{"bytes": to_png(digits.picture(row)), "path": f"{row}.png"} for row in rows]
        labels = [digits.samples[row].label for row in rows]
        pq.write_table(pa.table({"image": cells, "label": labels}), folder / "images.parquet")
        np.save(folder / "features.npy", features[rows])
        data = DataConfig(str(folder / "images.parquet"), Columns(label_column="label"))
        started = start_run(folder / "run", trained_run.model_folder, data)
        measurements = ("loss", "square", "output")
        config = EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64), measurements=measurements, batch_size=4)
        store, training_set = embed(started, config), open_training_set(data)
        import_features(started, training_set, folder / "features.npy")
        query = QueryEmbedder(started, store.plan).embed(
            digits.picture(2), "", 7, QueryConfig(), features=np.ones(4, np.float32)
        )
        scorer = StoreScorer(started, store, training_set)
        return {name: scorer.scores(name, [query])[0] for name in ESTIMATORS}

    return run


@pytest.fixture(scope="module")
def in_order(scores_of: Scores) -> dict[str, np.ndarray]:
    return scores_of(list(range(IMAGES)))


def test_order_permutes_the_scores_and_nothing_else(scores_of: Scores, in_order: dict[str, np.ndarray]) -> None:
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    permuted = scores_of(order)
    for name, scores in in_order.items():
        scale = np.abs(scores).max()
        np.testing.assert_allclose(permuted[name], scores[order], rtol=1e-3, atol=1e-3 * scale, err_msg=name)
        assert np.std(scores) > 0.01 * scale, name


def test_equal_images_share_their_credit(scores_of: Scores, in_order: dict[str, np.ndarray]) -> None:
    doubled = scores_of([*range(IMAGES), 2])
    for name, scores in doubled.items():
        if name == "random":  # it knows the ids alone, and ids differ
            continue
        assert scores[2] == pytest.approx(scores[-1], rel=1e-3), name
    # A second copy halves what each one explains, as far as the ridge does not hold it down.
    for name in ("trak", "dtrak", "retrac-ridge"):
        assert 0.4 < doubled[name][2] / in_order[name][2] < 0.75, name
