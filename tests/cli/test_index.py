"""`forebear index`: parts, and an index that finds too little."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from forebear.attribution import Attributor
from forebear.run import Run

POOR = ("--kind", "rabitq", "--refine-factor", 1, "--min-candidates", 1, "--recall-floor", 1)


@pytest.fixture
def run(embedded_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(embedded_run, folder)
    return folder


def test_parts_give_the_answers_of_one_index(run: Path, forebear) -> None:
    whole = Attributor.open(run).index("retrac")
    result = forebear("index", "--run", run, "--estimator", "retrac", "--shard-rows", 16)
    assert result.exit_code == 0, result.output
    assert "40 images, exact search in 3 parts" in result.output
    parts = Attributor.open(run).index("retrac")
    queries = whole.vectors([3, 39])
    np.testing.assert_array_equal(parts.scores(queries), whole.scores(queries))
    before = (Run(run).index_folder("retrac") / "part-00000" / "vectors.f16").stat().st_ino
    again = forebear("index", "--run", run, "--estimator", "retrac", "--shard-rows", 16, "--no-calibration")
    assert again.exit_code == 0, again.output
    assert (Run(run).index_folder("retrac") / "part-00000" / "vectors.f16").stat().st_ino == before


def test_an_index_that_finds_too_little_is_not_used_unless_allowed(run: Path, forebear) -> None:
    pytest.importorskip("faiss", reason="install forebear[cpu]")
    built = forebear("index", "--run", run, "--estimator", "retrac", *POOR)
    assert built.exit_code == 2
    told = " ".join(built.output.split())
    assert "of the best 10 and" in told
    assert "its floor is 100.0%" in told
    assert "--allow-low-recall" in told
    picture = run / "picture.png"
    from PIL import Image

    Image.new("L", (8, 8), 90).save(picture)
    asked = ("attribute", picture, "--run", run, "--label", 1, "--estimator", "retrac", "--quick")
    refused = forebear(*asked)
    assert refused.exit_code == 2
    assert "--allow-low-recall" in refused.output
    allowed = forebear(*asked, "--allow-low-recall")
    assert allowed.exit_code == 0, allowed.output
    assert "retrac: proponents" in allowed.output
    rebuilt = forebear("index", "--run", run, "--estimator", "retrac", *POOR, "--allow-low-recall")
    assert rebuilt.exit_code == 0, rebuilt.output
