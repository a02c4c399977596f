"""`forebear attribute` on a real run: regions, noise levels, groups, near copies, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from forebear.attribution import Attributor, QueryConfig
from forebear.cli.main import main
from forebear.diffusion.noise import stratified_timesteps
from forebear.estimators import DEFAULT_ESTIMATOR
from forebear.run import Run


@pytest.fixture(scope="module")
def query(attributor: Attributor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verb") / "query.png"
    attributor.training_set.picture(5).save(path)
    return path


def call(run: Run, query: Path, *arguments: object) -> Result:
    command = ["attribute", query, "--run", run.folder, "--label", 3, "--top-k", 3, *arguments]
    return CliRunner().invoke(main, [str(part) for part in command])


def test_answer_names_copies_percentiles_and_groups(digits_run: Run, attributor: Attributor, query: Path) -> None:
    result = call(digits_run, query)
    assert result.exit_code == 0, result.output
    found = attributor.attribute(query, label=3, top_k=3)
    assert f"a near copy of {attributor.training_set.samples[5].id}" in result.output
    for one in found.proponents:
        line = next(line for line in result.output.splitlines() if one.sample_id in line)
        assert f"{one.null_percentile:.1f}" in line
    first = found.group_totals["class"][0]
    line = next(line for line in result.output.splitlines() if f"{first.ratio:.1f}x" in line)
    assert f"{100 * first.positive_share:.1f} %" in line
    assert f"{100 * first.share_interval[0]:.1f}-{100 * first.share_interval[1]:.1f}" in line


def test_regions_and_masks_are_answered_and_shown(digits_run: Run, query: Path, tmp_path: Path) -> None:
    drawn = np.zeros((8, 8), np.uint8)
    drawn[:4] = 255
    Image.fromarray(drawn).save(tmp_path / "top.png")
    report = tmp_path / "report.html"
    result = call(
        digits_run, query, "--region", "0,0,4,8", "--region", "4,0,8,8", "--mask", tmp_path / "top.png",
        "--report", report,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    page = report.read_text()
    for label in ("box 0,0,4,8", "box 4,0,8,8", "top.png"):
        assert f"proponents of the {label}" in result.output
        assert f"with the region {label} outlined" in page
    assert "The whole query picture" in page


@pytest.mark.parametrize("arguments", [("--band", "0-600"), ("--to", 600), ("--from", 0, "--to", 600)])
def test_band_is_measured_and_said(digits_run: Run, query: Path, tmp_path: Path, arguments: tuple) -> None:
    result = call(digits_run, query, *arguments, "--report", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert "(those of 0 to 600)" in (tmp_path / "report.html").read_text()


def test_few_timesteps_are_measured_and_said(
    digits_run: Run, attributor: Attributor, query: Path, tmp_path: Path
) -> None:
    wanted = {
        "stratified": ("--timesteps", 5),
        "importance": ("--timesteps", 5, "--sampling", "importance"),
    }
    for sampling, arguments in wanted.items():
        report = tmp_path / f"{sampling}.html"
        result = call(digits_run, query, *arguments, "--estimator", "tracin", "--quick", "--report", report)
        assert result.exit_code == 0, result.output
        config = QueryConfig(count=5, sampling=sampling)
        found = attributor.attribute(query, label=3, estimator="tracin", top_k=3, query=config, audit=None)
        assert len(found.query.timesteps) <= 5
        assert ", ".join(map(str, found.query.timesteps)) in " ".join(report.read_text().split())
        for one in found.proponents:
            line = next(line for line in result.output.splitlines() if one.sample_id in line)
            assert f"{one.score:+.3g}" in line


def test_few_timesteps_within_a_band(digits_run: Run, query: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    result = call(digits_run, query, "--timesteps", 8, "--band", "0-600", "--report", report)
    assert result.exit_code == 0, result.output
    kept = [t for t in stratified_timesteps(8, 1000).tolist() if t <= 600]
    assert f"{', '.join(map(str, kept))} (those of 0 to 600)" in " ".join(report.read_text().split())


def test_estimator_that_is_not_named(digits_run: Run, query: Path, tmp_path: Path) -> None:
    result = call(digits_run, query, "--quick", "--report", tmp_path / "report.html")
    assert f"{DEFAULT_ESTIMATOR}: proponents" in result.output
    shown = CliRunner().invoke(main, ["attribute", "--help"]).output
    assert f"[default:{DEFAULT_ESTIMATOR}]" in "".join(shown.split())  # lines break at hyphens too


def test_quick_answer_is_scores_alone(digits_run: Run, query: Path, tmp_path: Path) -> None:
    result = call(digits_run, query, "--quick", "--report", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert "near copy" not in result.output
    assert "ear copy" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--region", "0,0,9,8"), "not inside the picture of 8 x 8"),
        (("--region", "left"), "is no region"),
        (("--mask", "no/such.png"), "does not exist"),
        (("--band", "0-1"), "no timestep of the query lies between"),
        (("--band", "600-0"), "lower one first"),
        (("--band", "low"), "first and last timestep"),
        (("--band", "0-600", "--to", 3), "leave out --from and --to"),
        (("--sampling", "importance"), "give it a number"),
        (("--paper", "--timesteps", 4), "leave out --timesteps"),
        (("--timesteps", 5000), "choose fewer"),
        (("--timesteps", 4, "--estimator", "retrac-matched"), "equal timesteps"),
        (("--timesteps", 4, "--sampling", "importance", "--band", "0-600"), "sample stratified"),
    ],
)
def test_what_cannot_be_is_refused(digits_run: Run, query: Path, tmp_path: Path, arguments: tuple, words: str) -> None:
    result = call(digits_run, query, *arguments, "--report", tmp_path / "report.html")
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "report.html").exists()


def test_mask_of_another_size_is_refused(digits_run: Run, query: Path, tmp_path: Path) -> None:
    Image.new("L", (5, 6), "white").save(tmp_path / "mask.png")
    result = call(digits_run, query, "--mask", tmp_path / "mask.png", "--report", tmp_path / "report.html")
    assert result.exit_code == 2
    assert "the mask is 5 x 6 pixels" in result.output
    Image.new("L", (8, 8), "black").save(tmp_path / "mask.png")
    result = call(digits_run, query, "--mask", tmp_path / "mask.png", "--report", tmp_path / "report.html")
    assert result.exit_code == 2
    assert "is empty" in result.output


def test_index_computes_calibrations_ahead(writable_run: Run) -> None:
    result = CliRunner().invoke(main, ["index", "--run", str(writable_run.folder), "--estimator", "tracin"])
    assert result.exit_code == 0, result.output
    assert (writable_run.folder / "calibration" / "tracin.npy").is_file()
    (writable_run.folder / "calibration" / "tracin.npy").unlink()
    result = CliRunner().invoke(
        main, ["index", "--run", str(writable_run.folder), "--estimator", "tracin", "--no-calibration"]
    )
    assert result.exit_code == 0, result.output
    assert not (writable_run.folder / "calibration" / "tracin.npy").exists()
