"""`forebear embed --measurement` and what `forebear index` makes of it."""

import shutil
from pathlib import Path

import numpy as np


def test_measurements_and_features_give_every_estimator(embedded_run: Path, forebear, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(embedded_run, run)
    refused = forebear("index", "--run", run, "--estimator", "dtrak")
    assert refused.exit_code != 0
    assert f"forebear embed --measurement square --run {run} --restart" in " ".join(refused.output.split())
    both = ("--measurement", "square", "--measurement", "output")
    again = forebear("embed", "--run", run, "--timesteps", 1, "--dim", 32, *both, "--restart")
    assert again.exit_code == 0, again.output
    np.save(tmp_path / "features.npy", np.ones((40, 2), np.float32))
    result = forebear("index", "--run", run, "--features", tmp_path / "features.npy")
    assert result.exit_code == 0, result.output
    told, *lines = result.output.splitlines()
    assert told.startswith("indexing 360/360 images (100%)")
    assert [line.split(":")[0] for line in lines] == [
        "tracin, trak, trak-last",
        "retrac, retrac-ridge",
        "cosine",
        "retrac-matched",
        "dtrak",
        "das",
        "pixel",
        "random",
        "embedding",
    ]
