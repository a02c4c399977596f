"""`import forebear`: five lines, and quick to import."""

import subprocess
import sys
from pathlib import Path

import forebear
from forebear.attribution import Attributor, ReportEntry
from forebear.run import Run


def test_five_lines(digits_run: Run, attributor: Attributor, tmp_path: Path) -> None:
    attributor.training_set.picture(2).save(tmp_path / "picture.png")
    run = forebear.open(digits_run.folder)
    answer = run.attribute(tmp_path / "picture.png", caption="digit", label=2, estimator="retrac", top_k=12)
    lines = [f"{influence.rank} {influence.score:+.3g} {influence.caption}" for influence in answer.proponents]
    assert len(lines) == 12
    assert all("digit" in line for line in lines)
    run.report(tmp_path / "report.html", [ReportEntry(run.query_picture(tmp_path / "picture.png"), "two", [answer])])
    assert answer.proponents[0].sample_id in (tmp_path / "report.html").read_text()


def test_import_is_light() -> None:
    code = "import sys, forebear; print(forebear.__version__, {'torch', 'ray', 'diffusers'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [forebear.__version__, "set()"]


def test_errors_are_one_family() -> None:
    assert issubclass(forebear.ForebearError, Exception)
    assert set(forebear.__all__) == {"ForebearError", "__version__", "open"}
