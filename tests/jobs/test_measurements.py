"""What is measured decides the store's columns, and changes nothing else in it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from forebear.config import parse
from forebear.errors import ConfigError, StoreError
from forebear.jobs import EmbedConfig, embed
from forebear.run import Run
from forebear.store import VECTOR_COLUMNS, Store


@pytest.fixture(scope="module")
def measured(class_run: Run, small: EmbedConfig, tmp_path_factory: pytest.TempPathFactory) -> Store:
    run = Run(tmp_path_factory.mktemp("measured") / "run")
    shutil.copytree(class_run.folder, run.folder)
    return embed(run, replace(small, measurements=("loss", "output", "square")))


def test_other_measurements_add_columns_and_leave_the_loss_alone(measured: Store, embedded: Run) -> None:
    plain = Store.open(embedded.store_folder)
    assert plain.plan.columns == VECTOR_COLUMNS
    assert measured.plan.columns == (*VECTOR_COLUMNS, "square_mean", "output_unit_mean")
    for name in plain.plan.checkpoint_names:
        for column in VECTOR_COLUMNS:
            np.testing.assert_array_equal(measured.vectors(name, column), plain.vectors(name, column))
        np.testing.assert_array_equal(measured.norms(name), plain.norms(name))
        np.testing.assert_array_equal(measured.losses(name), plain.losses(name))
        for column in ("square_mean", "output_unit_mean"):
            assert np.abs(measured.vectors(name, column)).max(axis=1).min() > 0


def test_order_of_measurements_is_no_other_plan(measured: Store, small: EmbedConfig) -> None:
    run = Run(measured.folder.parent)
    again = embed(run, replace(small, measurements=("square", "loss", "output")))
    assert again.plan.hash == measured.plan.hash
    with pytest.raises(StoreError, match=r"columns.*--restart"):
        embed(run, small)


@pytest.mark.parametrize("measurements", [[], ["square"], ["loss", "loss"]])
def test_the_loss_is_always_measured(measurements: list[str]) -> None:
    with pytest.raises(ConfigError, match="name `loss`"):
        parse(EmbedConfig, {"measurements": measurements}, "a file")
