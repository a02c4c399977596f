"""Curvatures on disk: built once, and used only with the store that they belong to."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from forebear.attribution.curvature import build_curvature, curvature_folder, has_curvature, open_curvature
from forebear.errors import SearchIndexError
from forebear.files import read_json, write_json
from forebear.gradients import ProjectionConfig
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig, build_indexes, embed
from forebear.run import Run
from forebear.store import Store


@pytest.fixture
def store(writable_run: Run) -> Store:
    return Store.open(writable_run.store_folder)


def test_few_samples_are_kept_as_their_gram_matrix(writable_run: Run, store: Store) -> None:
    curvatures = open_curvature(writable_run, store, "square_mean", "")
    for name, curvature in zip(store.plan.checkpoint_names, curvatures, strict=True):
        rows = store.vectors(name, "square_mean").astype(np.float64)
        assert len(rows) < store.plan.dim
        np.testing.assert_allclose(curvature.matrix, rows @ rows.T / len(rows), rtol=1e-9, atol=1e-15)


def test_many_samples_are_kept_as_their_second_moment(trained_run: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(trained_run.folder, tmp_path / "short"))
    store = embed(run, EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=16)))
    build_curvature(run, store, "mean")
    for name, curvature in zip(store.plan.checkpoint_names, open_curvature(run, store, "mean", ""), strict=True):
        rows = store.vectors(name, "mean").astype(np.float64)
        np.testing.assert_allclose(curvature.matrix, rows.T @ rows / len(rows), rtol=1e-9, atol=1e-15)


def test_build_again_changes_nothing(writable_run: Run, store: Store) -> None:
    files = sorted(curvature_folder(writable_run, "mean").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    build_curvature(writable_run, store, "mean")
    assert [file.stat().st_mtime_ns for file in files] == before


def test_curvature_of_another_store_is_refused_and_built_anew(writable_run: Run, store: Store) -> None:
    description = curvature_folder(writable_run, "mean") / "curvature.json"
    write_json(description, {**read_json(description, SearchIndexError, ""), "store_plan_hash": "other"})
    assert not has_curvature(writable_run, store, "mean")
    with pytest.raises(SearchIndexError, match=r"no curvature of mean.*do this"):
        open_curvature(writable_run, store, "mean", "do this")
    build_indexes(writable_run, ["trak"], IndexConfig())
    assert len(open_curvature(writable_run, store, "mean", "")) == 2


@pytest.mark.parametrize("content", [b"", b"not numbers"])
def test_damaged_matrix_is_named(writable_run: Run, store: Store, content: bytes) -> None:
    folder = curvature_folder(writable_run, "mean")
    (folder / f"{store.plan.checkpoint_names[0]}.npy").write_bytes(content)
    with pytest.raises(SearchIndexError, match=f"{folder} cannot be read.*do this"):
        open_curvature(writable_run, store, "mean", "do this")
    np.save(folder / f"{store.plan.checkpoint_names[0]}.npy", np.eye(3))
    with pytest.raises(SearchIndexError, match="damaged"):
        open_curvature(writable_run, store, "mean", "do this")
