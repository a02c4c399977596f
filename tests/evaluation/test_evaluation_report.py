"""The page and the table of all evaluations: whole, self-contained, with every figure, baseline and cost."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from forebear.errors import ConfigError, StoreError
from forebear.evaluation.charts import Chart, Line
from forebear.evaluation.figures import Figure, Result, check_name, read_result, read_results, write_result
from forebear.evaluation.metrics import Interval
from forebear.evaluation.outliers import OutliersConfig, run_outliers
from forebear.evaluation.report import shown, write_evaluation_report
from forebear.evaluation.specificity import SpecificityConfig, run_specificity
from forebear.run import Run


def lds_result(name: str = "lds", **facts: object) -> Result:
    figures = [
        Figure.of("trak", "lds", Interval(0.31, 0.2, 0.4), 50, "validation"),
        Figure.of("pixel", "lds", Interval(0.05, -0.02, 0.1), 50, "validation"),
        Figure.of("ceiling", "lds", Interval(0.6, np.nan, np.nan), 50, "validation"),
    ]
    costs = {
        "trak": {"embedding_seconds": 0.5, "scoring_seconds": 0.25, "bytes_per_sample": 8200, "curvature_bytes": 4e6}
    }
    said = {"samples": 1000, "queries": 50, "subsets": 24, "dataset": "x", "costs": costs, **facts}
    return Result("lds", name, {"subsets": 24}, tuple(figures), said)


@pytest.fixture(scope="module")
def run(evaluation_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with three evaluations: its own folder, the other's data, model and store."""
    folder = tmp_path_factory.mktemp("report") / "digits"
    folder.mkdir()
    for path in evaluation_run.folder.iterdir():
        if path.name != "evaluation":
            (folder / path.name).symlink_to(path)
    run = Run(folder)
    run_specificity(run, SpecificityConfig(queries=3, top=3, norm_samples=1, norm_timesteps=2, estimators=("tracin",)))
    run_outliers(run, OutliersConfig(planted={"class": ("three",)}, estimators=("tracin",)), "threes")
    write_result(run, lds_result())
    return run


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    path, _ = write_evaluation_report(run)
    return path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_asks_the_network_for_nothing(page: str, html_page) -> None:
    parsed = html_page(page)
    assert parsed.open == []
    for _, attributes in parsed.tags:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/png;base64,", "#"))
    ids = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    links = {(attributes.get("href") or "")[1:] for tag, attributes in parsed.tags if tag == "a"}
    assert links <= ids
    assert all(attributes.get("alt") for tag, attributes in parsed.tags if tag == "img")


def test_page_shows_figures_intervals_baselines_ceiling_and_costs(page: str) -> None:
    for text in ("0.310", "[0.200, 0.400]", "ceiling", "pixel", "random", "24 subsets", "unique ratio", "AUC, three"):
        assert text in page
    assert "8,200" in page
    row = page.split('<section id="costs"')[1]
    assert re.search(r"trak</th><td>0.5</td><td>0.25</td>", row)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()


def test_curves_are_drawn_within_their_frame(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 3
    for text in drawings:
        drawing = ElementTree.fromstring(text)
        lines = drawing.findall("polyline")
        assert lines
        for line in lines:
            for pair in line.attrib["points"].split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= 460
                assert 0 <= y <= 240


def test_planted_pictures_are_framed(page: str) -> None:
    assert page.count('<li class="marked">') >= 3


def test_table_holds_every_figure(run: Run) -> None:
    table = pq.read_table(run.folder / "evaluation" / "report.parquet").to_pandas()
    assert len(table) == sum(len(result.figures) for result in read_results(run))
    assert set(table.kind) == {"lds", "specificity", "outliers"}
    trak = table[table.estimator == "trak"].iloc[0]
    assert (trak.value, trak.low, trak.high, trak["count"]) == (0.31, 0.2, 0.4, 50)


def test_captions_cannot_break_out(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("{}")
    evil = Result(
        "families", "f", {}, (Figure.of("<script>x</script>", "m", Interval(1, 0, 2), 3),), {"samples": 1, "queries": 1}
    )
    write_result(Run(tmp_path), evil)
    path, _ = write_evaluation_report(Run(tmp_path), tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert path.with_suffix(".parquet").is_file()


def test_pictures_of_other_images_are_not_shown(run: Run, tmp_path: Path) -> None:
    other = read_result(run.folder / "evaluation" / "specificity")
    changed = Result(**{**vars(other), "facts": {**other.facts, "dataset": "another"}})
    (tmp_path / "run.yaml").write_text((run.folder / "run.yaml").read_text())
    write_result(Run(tmp_path), changed)
    path, _ = write_evaluation_report(Run(tmp_path))
    text = path.read_text(encoding="utf-8")
    assert "none are shown" in text
    assert "<img" not in text


def test_nothing_evaluated_yet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="forebear evaluate"):
        write_evaluation_report(Run(tmp_path))


def test_damaged_result(tmp_path: Path) -> None:
    write_result(Run(tmp_path), lds_result())
    path = tmp_path / "evaluation" / "lds" / "result.json"
    path.write_text(path.read_text().replace('"kind"', '"sort"'))
    with pytest.raises(StoreError, match="run the evaluation again"):
        read_results(Run(tmp_path))


def test_results_survive_what_is_not_a_number(tmp_path: Path) -> None:
    write_result(Run(tmp_path), lds_result(loss=float("nan")))
    kept = read_result(tmp_path / "evaluation" / "lds")
    assert np.isnan(kept.value("ceiling", "lds", "validation").low)
    assert kept.facts["loss"] is None
    with pytest.raises(ConfigError, match="no lds of retrac"):
        kept.value("retrac", "lds")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "queries", "with space"])
def test_names_that_are_no_folders(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        check_name(name)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.1234, "0.123"), (-0.5, "-0.500"), (12.0, "12"), (2e-6, "2e-06"), (np.nan, "–")],
)
def test_numbers_are_shown_in_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_charts_leave_out_what_a_logarithm_cannot_show() -> None:
    line = Line("a", ((0.0, 1.0), (1.0, 0.0), (2.0, 100.0)), low=(0.5, 0.0, 50.0), high=(2.0, 0.0, 200.0))
    chart = Chart("t", "x", "y", (line,), log_y=True)
    assert len(chart.path(line).split()) == 2
    assert [tick.text for tick in chart.y_ticks] == ["1", "10", "1e+02"]
    flat = Chart("t", "x", "y", (Line("b", ((3.0, 0.0),)),))
    assert len(flat.path(flat.lines[0]).split()) == 1
    assert [f"{x:.1f},{y:.1f}" for x, y in flat.marks(flat.lines[0])] == flat.path(flat.lines[0]).split()
    assert chart.marks(line) == []
    assert flat.x_ticks
    assert flat.y_ticks
