"""`forebear evaluate cow` on a tiny trained run: figures, files, page, going on, what it refuses, and its docs."""

import dataclasses
import json
import re
import shutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from forebear.cli.main import main
from forebear.config import parse, plain
from forebear.diffusion.training import TrainConfig, train
from forebear.errors import ConfigError
from forebear.evaluation.figures import Result, read_result
from forebear.evaluation.report import write_evaluation_report
from forebear.run import Run
from forebear_generators.cow.evaluation.comparing import run_cow
from forebear_generators.cow.evaluation.settings import CowEvaluationConfig
from forebear_generators.cow.evaluation.verb import cow as verb
from forebear_generators.quantisation.quantise import quantise
from forebear_generators.quantisation.settings import CalibrationConfig, QuantisationConfig, RoundingConfig

DOCS = Path(__file__).parents[4] / "docs"
STEPS, CASES = 5, 3
TRAINING = {
    "data": {"source": "digits", "limit": 20},
    "training": {"epochs": 1, "batch_size": 10, "warmup_steps": 1, "checkpoint_epochs": [1]},
}
CHOSEN = {"back": 0.8, "cycles": 1, "negative": "", "suppress": "", "diverse": ""}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any]) -> Run:
    run = Run(tmp_path_factory.mktemp("cow") / "digits")
    calm = tiny_model | {"scheduler": {"prediction_type": "sample"}}
    assert train(run, parse(TrainConfig, TRAINING | {"model": calm}, "tests"))
    return run


@pytest.fixture(scope="module")
def generator(run: Run) -> Path:
    out = run.folder / "w8a8"
    config = QuantisationConfig(
        steps=STEPS, calibration=CalibrationConfig(pictures=2, every=2), rounding=RoundingConfig(method="nearest")
    )
    quantise(run.model_folder, config, out)
    return out


@pytest.fixture(scope="module")
def config(generator: Path) -> CowEvaluationConfig:
    return CowEvaluationConfig(
        (generator,), backend="simulated", conditions=CASES, mask="left", steps=STEPS, cow=CHOSEN, sdedit=(0.4,),
        repaint_resamplings=2, wrong=4, timesteps=2, seeds=2, diverse=2, real=10, batch=2, shown=2,
        methods=("paste", "sdedit", "repaint", "cow", "text", "real"),
        grid={"eta": (0.0,), "inversion": ("canvas",)}, ablations={"cycles": (1, 2), "edge": ("soft",)},
        ablation_conditions=CASES,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(run: Run, config: CowEvaluationConfig) -> Result:
    return run_cow(run, config)


METHODS = (
    "paste",
    "SDEdit 0.4",
    "RePaint",
    "COW",
    "COW, w8a8",
    "text alone",
    "real images",
    "COW, eta 0.0, inversion canvas",
)
ABLATIONS = ("varied: cycles 1", "varied: cycles 2", "varied: edge soft")


def test_every_row_gets_every_figure(result: Result) -> None:
    shared = {
        (metric, "") for metric in ("PSNR", "SSIM", "accuracy", "margin", "rank", "calls", "evaluations", "seconds")
    }
    shared |= {("seam", "to real images"), ("seam", "to the image's own")}
    expected = {(name, *each) for name in (*METHODS, *ABLATIONS) for each in shared}
    expected |= {(name, "diversity", "") for name in METHODS if name != "real images"}
    expected |= {("COW, w8a8", "share of fp32's", metric) for metric in ("PSNR", "SSIM", "margin", "accuracy")}
    assert {(one.estimator, one.metric, one.variant) for one in result.figures} == expected
    for name in ("paste", "RePaint"):
        assert result.value(name, "PSNR").value == 100
    assert result.value("SDEdit 0.4", "PSNR").value < 100
    assert result.value("paste", "diversity").value == 0 < result.value("RePaint", "diversity").value
    assert result.value("paste", "calls").value == 0
    assert result.value("SDEdit 0.4", "calls").value == 2
    assert result.value("RePaint", "calls").value == 5 + 4
    assert result.value("COW", "calls").value == 4 + 2 + 2 + 2  # this model learned no guidance: a row for each call
    assert result.value("COW", "evaluations").value == 10
    assert result.value("COW, eta 0.0, inversion canvas", "calls").value == 8
    share = result.value("COW, w8a8", "share of fp32's", "PSNR").value
    assert share == pytest.approx(result.value("COW, w8a8", "PSNR").value / result.value("COW", "PSNR").value)


def test_the_same_settings_make_the_same_pictures_once(run: Run, result: Result) -> None:
    for metric in ("PSNR", "margin"):
        assert result.value("varied: cycles 1", metric).value == result.value("COW", metric).value
    folder = run.folder / "evaluation/cow/pictures"
    batches, of_seeds = 2, 1
    rows = len(METHODS) + len(ABLATIONS) - 1  # one of the ablations is the row COW itself
    assert len(list(folder.glob("*.judged.safetensors"))) == rows * batches
    assert len([path for path in folder.iterdir() if "judged" not in path.name]) == rows * batches + 7 * of_seeds


def test_details_are_what_the_figures_are_made_of(run: Run, result: Result) -> None:
    table = pq.read_table(run.folder / "evaluation/cow/details.parquet").to_pandas()
    assert len(table) == CASES * (len(METHODS) + len(ABLATIONS))
    own = table[table.method == "COW"]
    assert own.PSNR.mean() == pytest.approx(result.value("COW", "PSNR").value)
    assert own.margin.mean() == pytest.approx(result.value("COW", "margin").value)
    seam = own["jump"].mean() / own["jump, real images"].mean()
    assert seam == pytest.approx(result.value("COW", "seam", "to real images").value)
    assert own.seed.tolist() == list(range(CASES))
    both = table.pivot_table(index="method", values=["PSNR", "margin"])
    for name, better in result.facts["dominated"].items():
        for other in better:
            assert (both.loc[other] >= both.loc[name]).all(), (other, name)
    assert set(result.facts["dominated"]) == set(METHODS) - {"text alone", "real images"}


def test_the_same_call_goes_on(run: Run, config: CowEvaluationConfig, result: Result) -> None:
    folder = run.folder / "evaluation/cow/pictures"
    kept = sorted(folder.iterdir())
    kept[0].write_bytes(kept[0].read_bytes()[:50])  # damaged: made again
    kept[1].unlink()
    untouched = {path: path.stat().st_mtime_ns for path in kept[2:]}
    again = run_cow(run, config)
    assert sorted(folder.iterdir()) == kept
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    for figure in result.figures:
        if figure.metric != "seconds":
            found = again.value(figure.estimator, figure.metric, figure.variant)
            np.testing.assert_equal(dataclasses.astuple(found), dataclasses.astuple(figure))


def test_the_report_shows_table_curves_and_pictures(run: Run, result: Result) -> None:
    page, _ = write_evaluation_report(run)
    text = page.read_text(encoding="utf-8")
    for words in (
        "Does Cyclic One-Way Diffusion",
        ">method</th>",
        "up and left is better",
        "cycles: seam",
        "no such row",
    ):
        assert words in text, words
    assert text.count('<img class="strip" src="data:image/png;base64,') == len(METHODS) + len(ABLATIONS)
    assert text.count("<svg") == 4  # both planes, and two curves of the one ablation that has numbers
    assert text.count("<circle") == len(METHODS) + 1  # and the ablation of one value


def test_the_verb(run: Run, generator: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "{methods: [paste, cow], cow: {back: 0.8, cycles: 1}, timesteps: 1, seeds: 1, real: 4, wrong: 2}"
    )
    asked = ("evaluate", "cow", "--run", run.folder, "--config", settings, "--generator", generator)
    ended = CliRunner().invoke(
        main,
        [
            str(each)
            for each in (*asked, "--conditions", 2, "--steps", STEPS, "--backend", "simulated", "--name", "verb")
        ],
    )
    assert ended.exit_code == 0, ended.output
    assert "COW, w8a8" in ended.output
    found = read_result(run.folder / "evaluation/verb")
    assert {one.estimator for one in found.figures} == {"paste", "COW", "COW, w8a8"}
    assert "diversity" not in {one.metric for one in found.figures}
    shutil.rmtree(run.folder / "evaluation/verb")
    assert "cow" in {point.name for point in entry_points(group="forebear.evaluations")}


def test_what_is_refused(run: Run, config: CowEvaluationConfig, tmp_path: Path) -> None:
    def refused(words: str, **more: Any) -> None:
        with pytest.raises(ConfigError, match=words):
            run_cow(run, dataclasses.replace(config, **more), "refused")
        assert not (run.folder / "evaluation/refused").exists()

    refused("colour", ablations={"colour": (1,)})
    refused("set steps for the whole evaluation", cow={"steps": 4})
    refused("made for 5 steps", steps=10, cow={})
    refused("name at least one method", methods=(), grid={}, ablations={})
    refused("varied: cycles 1 occurs twice", ablations={"cycles": (1, 1)})
    with pytest.raises(ConfigError, match="cannot name"):
        run_cow(run, config, "a/b")
    bare = Run(tmp_path / "bare")
    shutil.copytree(run.model_folder, bare.model_folder)
    bare.settings_file.write_text("{}")
    with pytest.raises(ConfigError, match="names no training images"):
        run_cow(bare, config)


def test_a_model_that_is_told_nothing_is_measured_without_words(tmp_path: Path, tiny_model: dict[str, Any]) -> None:
    run = Run(tmp_path / "told-nothing")
    model = tiny_model | {"conditioning": "none", "scheduler": {"prediction_type": "sample"}}
    assert train(run, parse(TrainConfig, TRAINING | {"model": model}, "tests"))
    config = CowEvaluationConfig(
        conditions=2, mask="left", steps=STEPS, cow={"back": 0.8, "cycles": 1}, sdedit=(0.4,), real=4, seeds=1,
        methods=("paste", "sdedit", "cow"), ablations={"eta": (0.0, 1.0)}, ablation_conditions=2,
    )  # fmt: skip
    found = run_cow(run, config)
    measured = {one.metric for one in found.figures}
    assert {"PSNR", "SSIM", "seam", "calls", "evaluations", "seconds"} == measured
    assert found.facts["wrong"] == 0
    assert not list((run.folder / "evaluation/cow/pictures").glob("*.judged.safetensors"))
    page, _ = write_evaluation_report(run)
    text = page.read_text(encoding="utf-8")
    assert "is told nothing" in text
    assert text.count("<svg") == 2  # the curves of error and seam over eta


def test_every_setting_is_documented_with_its_default() -> None:
    chapter = (DOCS / "cow.md").read_text(encoding="utf-8").split("\n## Evaluation\n")[1].split("\n## ")[0]
    values = plain(CowEvaluationConfig())
    documented: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", chapter, re.MULTILINE):
        settings = re.findall(r"`([^`]*)`", names)
        documented |= dict(zip(settings, defaults.split("; "), strict=True))
    assert set(documented) == set(values)
    for name, default in documented.items():
        if isinstance(values[name], bool | int | float) or default[0] in "[{":
            assert json.loads(default) == values[name], name
    options = {name for parameter in verb.params for name in parameter.opts}
    for line in re.findall(r"^forebear evaluate cow.*", chapter, re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", line)) <= options, line
    assert "evaluate cow" in (DOCS / "evaluation.md").read_text(encoding="utf-8")
