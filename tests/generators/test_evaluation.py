"""`forebear evaluate quantization` on a tiny trained run: figures, files, page, going on, and what it refuses."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from click.testing import Result as Ended

from forebear.cli.main import main
from forebear.config import parse, plain
from forebear.diffusion.training import TrainConfig, train
from forebear.errors import ConfigError, ModelError
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Result, read_result
from forebear.evaluation.report import write_evaluation_report
from forebear.gradients import ProjectionConfig
from forebear.jobs import EmbedConfig, embed
from forebear.run import Run
from forebear_generators.evaluation.asking import shared_request
from forebear_generators.evaluation.comparing import run_quantization
from forebear_generators.evaluation.settings import GeneratorsConfig
from forebear_generators.generator import Generator
from forebear_generators.quantisation.comparison import compare
from forebear_generators.quantisation.quantise import quantise
from forebear_generators.quantisation.settings import CalibrationConfig, QuantisationConfig, RoundingConfig

DOCS = Path(__file__).parents[2] / "docs"
STEPS, PICTURES = 3, 5
TRAINING = {
    "data": {"source": "digits", "limit": 20},
    "training": {"epochs": 1, "batch_size": 10, "warmup_steps": 1, "checkpoint_epochs": [1]},
}


def made(model: Path, out: Path, variant: str, steps: int = STEPS) -> Path:
    config = QuantisationConfig(
        variant=variant,
        steps=steps,
        calibration=CalibrationConfig(pictures=2, every=2),
        rounding=RoundingConfig(method="nearest"),
    )
    quantise(model, config, out)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any]) -> Run:
    run = Run(tmp_path_factory.mktemp("generators") / "digits")
    assert train(run, parse(TrainConfig, TRAINING | {"model": tiny_model}, "tests"))
    embed(run, EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64), batch_size=64))
    return run


@pytest.fixture(scope="module")
def generators(run: Run) -> tuple[Path, ...]:
    return tuple(made(run.model_folder, run.folder / variant, variant) for variant in ("w8a8", "w4a8"))


@pytest.fixture(scope="module")
def config(generators: tuple[Path, ...]) -> GeneratorsConfig:
    return GeneratorsConfig(
        generators, pictures=PICTURES, batch=2, guidance=2.0, frechet_features=3, timing_rounds=3, shown=2,
        estimator="retrac", top=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(run: Run, config: GeneratorsConfig) -> Result:
    return run_quantization(run, config)


def test_every_generator_gets_every_figure(result: Result) -> None:
    names = ["w8a8", "w4a8"]
    per_picture = ["PSNR, dB", "SSIM", "Spearman", "top-4 overlap"]
    expected = {(name, metric, "") for name in [*names, "fp32, other seeds"] for metric in per_picture}
    for name in names:
        expected |= {(name, f"deviation, {where}", "") for where in ("last step", "mean of steps")}
        expected |= {(name, "temporal features", to) for to in ("relative error", "1 - cosine", "mismatches")}
        expected.add((name, "share of seconds", ""))
    for name in ["fp32", *names]:
        expected |= {(name, "Fréchet distance", ""), (name, "seconds per step", "")}
        expected |= {(name, of, where) for of in ("bytes", "share of bytes") for where in ("on disk", "loaded")}
    expected.add(("fp32", "share of seconds", ""))
    assert {(one.estimator, one.metric, one.variant) for one in result.figures} == expected
    assert all(np.isfinite(one.value) for one in result.figures)
    assert result.value("fp32", "share of bytes", "loaded").value == 1
    eight, four = (result.value(name, "PSNR, dB") for name in names)
    assert eight.value > four.value > result.value("fp32, other seeds", "PSNR, dB").value
    assert eight.low <= eight.value <= eight.high
    assert result.value("w8a8", "Spearman").value > result.value("fp32, other seeds", "Spearman").value
    assert (
        result.value("w4a8", "share of bytes", "on disk").value
        < result.value("w8a8", "share of bytes", "on disk").value
    )


def test_deviation_and_pictures_are_those_of_both_generators_side_by_side(
    run: Run, config: GeneratorsConfig, result: Result
) -> None:
    full, other = (Generator.load(folder) for folder in (run.model_folder, config.generators[1]))
    request = shared_request(run, full.model, [other], config)
    together = compare(full, other, request, batch=2)
    wanted, other_pixels = together.pixels
    ratios = 10.0 * (4.0 / (other_pixels - wanted).square().flatten(1).mean(1)).log10()
    table = pq.read_table(run.folder / "evaluation/quantization/trajectory.parquet").to_pandas()
    found = table[table.generator == "w4a8"].pivot_table(index="step", columns="seed", values="deviation")
    np.testing.assert_allclose(found.to_numpy(), together.deviation().numpy(), rtol=1e-5)
    assert result.value("w4a8", "PSNR, dB").value == pytest.approx(float(ratios.median()), rel=1e-4)
    rows = pq.read_table(run.folder / "evaluation/quantization/details.parquet").to_pandas()
    assert len(rows) == 3 * PICTURES
    own = rows[rows.generator == "w4a8"]
    assert own.seed.tolist() == list(range(PICTURES))
    assert own.label.tolist() == list(request.labels)
    np.testing.assert_allclose(own["PSNR, dB"], ratios.numpy(), rtol=1e-4)
    np.testing.assert_allclose(own["deviation, last step"], together.deviation()[-1].numpy(), rtol=1e-5)
    errors = pq.read_table(run.folder / "evaluation/quantization/temporal.parquet").to_pandas()
    assert set(errors.timestep) == set(together.full_precision.times)
    assert errors[errors.generator == "w8a8"]["relative error"].mean() == pytest.approx(
        result.value("w8a8", "temporal features", "relative error").value
    )


def test_attributions_are_the_runs_own(run: Run, config: GeneratorsConfig, result: Result) -> None:
    evaluated = EvaluatedRun.open(run)
    full, other = (Generator.load(folder) for folder in (run.model_folder, config.generators[0]))
    request = shared_request(run, full.model, [other], config)
    pixels = [each.run(request, batch=2).pixels for each in (full, other)]
    from forebear_generators.evaluation.agreement import agreement, attributions

    scores = [attributions(evaluated, "retrac", each, request) for each in pixels]
    spearman, shared = agreement(*scores, 4)
    assert result.value("w8a8", "Spearman").value == pytest.approx(np.median(spearman), abs=1e-6)
    assert result.value("w8a8", "top-4 overlap").value == np.median(shared)


def test_the_same_call_goes_on(run: Run, config: GeneratorsConfig, result: Result) -> None:
    folder = run.folder / "evaluation/quantization"
    kept = sorted((folder / "pictures").iterdir())
    assert len(kept) == 3 * 4  # three batches of full precision, of its other seeds, and of each generator
    kept[0].write_bytes(kept[0].read_bytes()[:100])  # damaged: made again
    kept[1].unlink()
    untouched = {path: path.stat().st_mtime_ns for path in kept[2:]}
    again = run_quantization(run, config)
    assert sorted((folder / "pictures").iterdir()) == kept
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    for figure in result.figures:
        if "seconds" not in figure.metric:
            assert again.value(figure.estimator, figure.metric, figure.variant) == figure


def test_the_report_shows_table_curves_and_pictures(run: Run, result: Result) -> None:
    page, _ = write_evaluation_report(run)
    text = page.read_text(encoding="utf-8")
    for words in ("Do quantised generators", ">generator</th>", "Fréchet distance", "Deviation of x", "w4a8 by"):
        assert words in text, words
    assert text.count('<img class="strip" src="data:image/png;base64,') == 4
    assert text.count("<svg") == 3
    assert "unpacked to 8 bits at load" in text
    titles = [re.sub(r"<[^>]*>", "", each) for each in re.findall(r"<h4>.*?</h4>", text)]
    assert titles == ["fp32", "fp32, other seeds", "w8a8", "w4a8"]


def forebear(*arguments: object) -> Ended:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_verb(run: Run, generators: tuple[Path, ...], tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("{timing_rounds: 0, attribution: false, frechet_features: 2, batch: 3}")
    asked = ("evaluate", "quantization", "--run", run.folder, "--config", settings, "--generator", generators[0])
    ended = forebear(*asked, "--pictures", 3, "--label", 1, "--name", "verb")
    assert ended.exit_code == 0, ended.output
    assert "generator" in ended.output
    assert "PSNR, dB" in ended.output
    found = read_result(run.folder / "evaluation/verb")
    assert {one.metric for one in found.figures}.isdisjoint({"Spearman", "seconds per step"})
    assert found.settings["generators"] == [str(generators[0])]
    assert found.settings["labels"] == [1]
    shutil.rmtree(run.folder / "evaluation/verb")
    assert "quantization" in {point.name for point in entry_points(group="forebear.evaluations")}
    assert "quantization" in forebear("evaluate", "--help").output


def test_a_run_without_a_store_has_no_attributions(saved: Callable[..., Path], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(saved("text"), run.model_folder)
    run.settings_file.write_text("{}")
    out = made(run.model_folder, tmp_path / "w8a32", "w8a32", 2)
    given = GeneratorsConfig((out,), pictures=3, prompts=("red heart",), frechet_features=2, timing_rounds=0)
    result = run_quantization(run, given)
    assert result.value("w8a32", "SSIM").value > 0
    assert any("no store" in remark for remark in result.facts["remarks"])
    page, _ = write_evaluation_report(run)
    assert "no store" in page.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="give prompts or labels"):
        run_quantization(run, dataclasses.replace(given, prompts=()))


def test_what_is_refused(run: Run, generators: tuple[Path, ...], saved: Callable[..., Path], tmp_path: Path) -> None:
    def refused(error: type[Exception], words: str, *folders: Path, **more: object) -> None:
        with pytest.raises(error, match=words):
            run_quantization(run, GeneratorsConfig(folders, pictures=3, **more), "refused")
        assert not (run.folder / "evaluation/refused").exists()

    refused(ConfigError, "no generator is named")
    refused(ConfigError, "forebear quantize", tmp_path)
    copied = shutil.copytree(generators[0], tmp_path / "w8a8")
    refused(ConfigError, "two generators are named 'w8a8'", generators[0], copied)
    refused(ConfigError, "--name of their own", generators[0], made(run.model_folder, tmp_path / "more", "w8a8", 4))
    refused(ModelError, "quantised from a model", made(saved("class"), tmp_path / "foreign", "w8a8"))
    refused(ConfigError, "choose fewer", generators[0], top=21)
    refused(ConfigError, "no estimator", generators[0], estimator="none")
    with pytest.raises(ConfigError, match="cannot name"):
        run_quantization(run, GeneratorsConfig(generators), "a/b")


def test_every_setting_is_documented_with_its_default() -> None:
    chapter = (DOCS / "quantisation.md").read_text(encoding="utf-8").split("\n## Evaluation\n")[1].split("\n## ")[0]
    values = plain(GeneratorsConfig())
    documented: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", chapter, re.MULTILINE):
        settings = re.findall(r"`([^`]*)`", names)
        documented |= dict(zip(settings, defaults.split(", "), strict=True))
    assert set(documented) == set(values)
    for name, default in documented.items():
        if isinstance(values[name], bool | int | float):
            assert json.loads(default) == values[name], name
    assert "quantization" in (DOCS / "evaluation.md").read_text(encoding="utf-8")
