"""Models of random halves: what they are trained on, what is measured, and what an interruption costs."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from forebear.config import parse
from forebear.data import DataConfig, open_training_set
from forebear.diffusion import training
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import draw_noise
from forebear.diffusion.sampling import generate
from forebear.diffusion.training import TrainConfig, train
from forebear.errors import ConfigError, StoreError
from forebear.evaluation import retraining
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.ground_truth import GroundTruth
from forebear.evaluation.lds_config import GeneratedConfig, LdsConfig, ValidationConfig
from forebear.evaluation.lds_results import Measured, judge, lds_figures
from forebear.evaluation.retraining import make_ground_truth
from forebear.gradients import ProjectionConfig
from forebear.jobs import EmbedConfig, embed, start_run
from forebear.run import Run

TRAINING = {
    "data": {"source": "digits", "limit": 40},
    "training": {"epochs": 2, "batch_size": 8, "warmup_steps": 2},
}
CONFIG = LdsConfig(
    subsets=3,
    repeated=2,
    timesteps=3,
    draws=2,
    validation=ValidationConfig(count=6),
    generated=GeneratedConfig(count=4, steps=3),
    replicates=20,
)
CopyRun = Callable[[], Run]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any]) -> Run:
    run = Run(tmp_path_factory.mktemp("evaluation") / "trained")
    assert train(run, parse(TrainConfig, TRAINING | {"model": tiny_model}, "tests"))
    return run


@pytest.fixture(scope="module")
def truth(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> GroundTruth:
    """Of an uninterrupted call in this process; not to be written to."""
    run = Run(tmp_path_factory.mktemp("truth") / "run")
    shutil.copytree(trained.folder, run.folder)
    made = make_ground_truth(run, CONFIG)
    assert made is not None
    return made


@pytest.fixture
def copy_run(trained: Run, tmp_path: Path) -> CopyRun:
    def copy() -> Run:
        run = Run(tmp_path / "run")
        shutil.copytree(trained.folder, run.folder)
        return run

    return copy


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_losses_are_those_of_a_model_of_the_subset_alone(
    truth: GroundTruth, tmp_path: Path, tiny_model: dict[str, Any]
) -> None:
    """Trained here as a training set of its own, measured one row at a time."""
    config = parse(TrainConfig, TRAINING | {"model": tiny_model}, "tests")
    inside = set(truth.subsets.of(1))
    half = open_training_set(config.data).where(lambda sample: sample.id in inside)
    assert len({sample.label for sample in half.samples}) == 10  # so that the shape of the model is the same
    alone = replace(config, training=replace(config.training, seed=1))
    assert train(Run(tmp_path), alone, half)
    model = DiffusionModel.load(tmp_path / "model")
    for row in (0, 5, 9):
        query = truth.queries.table[row]
        x0 = torch.from_numpy(truth.queries.pixels[row : row + 1])
        for place, timestep in enumerate((166, 500, 833)):
            losses = []
            for draw in range(2):
                noise = draw_noise((1, 8, 8), CONFIG.seed, [query.id], [timestep], [draw])
                noised = model.noised(x0, torch.tensor([timestep]), noise)
                predicted = model.predict(noised, torch.tensor([timestep]), model.condition([""], [query.label]))
                losses.append(float((predicted - noise).square().mean().detach()))
            assert truth.by_timestep((1, 1))[row, place] == pytest.approx(np.mean(losses), rel=1e-4)
    assert truth.losses(1)[1] == pytest.approx(truth.by_timestep((1, 1)).mean(1), rel=1e-6)
    assert truth.losses(1, slice(2, 3))[1] == pytest.approx(truth.by_timestep((1, 1))[:, 2], rel=1e-6)


def test_every_subset_has_the_first_seed_and_some_the_second(truth: GroundTruth) -> None:
    assert truth.seeds == (0, 1)
    assert truth.subsets_of(0).tolist() == [0, 1, 2]
    assert truth.subsets_of(1).tolist() == [0, 1]
    assert truth.losses(0).shape == (3, 10)
    assert len(np.unique(truth.losses(0))) == 30
    assert not (truth.folder / "models").exists() or not any((truth.folder / "models").iterdir())
    table = truth.table()
    assert table.num_rows == 50
    assert table["loss"].to_numpy()[:10] == pytest.approx(truth.losses(0)[0])


def test_queries_are_held_out_and_generated_pictures(truth: GroundTruth, trained: Run) -> None:
    queries = truth.queries
    own = open_training_set(DataConfig("digits", limit=40))
    every = open_training_set(DataConfig("digits"))
    for place in range(6):
        query = queries.table[place]
        assert query.kind == "validation"
        assert query.id not in own.rows
        sample = every.samples[every.row(query.id)]
        assert (query.caption, query.label) == (sample.caption, sample.label)
        assert np.array_equal(queries.pixels[place], every.pixels([every.row(query.id)], 8, 1)[0])
    assert queries.rows("validation", tuning=True).tolist() == [0, 1, 2]
    assert queries.rows("validation").tolist() == [3, 4, 5]
    assert queries.rows("generated").tolist() == [6, 7, 8, 9]
    assert [queries.table[row].label for row in range(6, 10)] == [0, 1, 2, 3]
    made = generate(DiffusionModel.load(trained.model_folder), [""] * 4, [0, 1, 2, 3], [0, 1, 2, 3], steps=3)
    np.testing.assert_allclose(queries.pixels[6:], made.numpy(), atol=1e-5)


def test_the_runs_own_model_is_measured_beside_them(truth: GroundTruth, trained: Run) -> None:
    model = DiffusionModel.load(trained.model_folder)
    expected = retraining.query_losses(model, truth.queries, [166, 500, 833], draws=2)
    np.testing.assert_allclose(truth.by_timestep(None), expected, rtol=1e-5)


def test_a_call_stopped_anywhere_goes_on_to_the_same_bytes(
    copy_run: CopyRun, truth: GroundTruth, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run()
    real_step, real_write = training._Trainer._step, retraining.write_losses
    steps = 0

    def terminated(self: Any, *arguments: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == 10:  # in the middle of the second model
            os.kill(os.getpid(), signal.SIGTERM)
        return real_step(self, *arguments)

    monkeypatch.setattr(training._Trainer, "_step", terminated)
    assert make_ground_truth(run, CONFIG) is None
    folder = run.folder / "evaluation" / "lds"
    assert (folder / "models" / "subset-0000-seed-1" / "training" / "state.safetensors").is_file()

    def killed(folder: Path, plan: Any, item: Any, losses: Any) -> None:
        if item == (1, 0):
            raise KeyboardInterrupt  # trained, but not yet measured
        real_write(folder, plan, item, losses)

    monkeypatch.setattr(training._Trainer, "_step", real_step)
    monkeypatch.setattr(retraining, "write_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        make_ground_truth(run, CONFIG)
    monkeypatch.setattr(retraining, "write_losses", real_write)
    assert make_ground_truth(run, CONFIG) is not None
    assert files(folder) == files(truth.folder)


@pytest.mark.slow
def test_ray_workers_leave_the_same_bytes(copy_run: CopyRun, truth: GroundTruth, ray_session: None) -> None:
    run = copy_run()
    assert make_ground_truth(run, replace(CONFIG, workers=2)) is not None
    assert files(run.folder / "evaluation" / "lds") == files(truth.folder)


def test_more_subsets_later_keep_what_is_there(
    copy_run: CopyRun, truth: GroundTruth, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run()
    few = make_ground_truth(run, replace(CONFIG, subsets=2, repeated=0))
    assert few is not None
    assert few.trained == ((0, 0), (1, 0))
    trained = []
    real = retraining.train
    monkeypatch.setattr(retraining, "train", lambda own, *a, **k: trained.append(own.folder.name) or real(own, *a, **k))
    assert make_ground_truth(run, replace(CONFIG, keep_models=True)) is not None
    assert trained == ["subset-0000-seed-1", "subset-0001-seed-1", "subset-0002-seed-0"]
    found = files(run.folder / "evaluation" / "lds")
    models = {name.split("/")[1] for name in found if name.startswith("models/")}
    assert models == set(trained)
    assert DiffusionModel.load(run.folder / "evaluation/lds/models/subset-0002-seed-0/model").image_size == 8
    assert {name: content for name, content in found.items() if not name.startswith("models/")} == files(truth.folder)


def test_other_inputs_are_refused_by_name(copy_run: CopyRun) -> None:
    run = copy_run()
    tiny = replace(CONFIG, subsets=2, repeated=0)
    assert make_ground_truth(run, tiny) is not None
    with pytest.raises(ConfigError, match=r"settings\.draws: 2 -> 1"):
        make_ground_truth(run, replace(tiny, draws=1))
    with pytest.raises(ConfigError, match=r"validation: \w+ -> \w+"):
        make_ground_truth(run, replace(tiny, validation=ValidationConfig(count=6, data=DataConfig("digits", limit=99))))
    weights = next(run.model_folder.glob("unet/*.safetensors"))
    model = DiffusionModel.load(run.model_folder)
    model.denoiser.conv_out.bias.data += 1.0
    model.denoiser.save_pretrained(weights.parent)
    with pytest.raises(ConfigError, match=r"model: \w+ -> \w+.*new name"):
        make_ground_truth(run, tiny)


def test_too_few_held_out_pictures_are_refused(copy_run: CopyRun) -> None:
    few = ValidationConfig(count=6, data=DataConfig("digits", limit=42))
    with pytest.raises(ConfigError, match=r"6 held-out pictures are asked for, digits has 2"):
        make_ground_truth(copy_run(), replace(CONFIG, validation=few))


def test_damaged_or_foreign_losses_are_refused(truth: GroundTruth, tmp_path: Path) -> None:
    folder = tmp_path / "evaluation" / "lds"
    shutil.copytree(truth.folder, folder)
    path = folder / "losses" / "subset-0001-seed-0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"plan": "another"}), path)
    with pytest.raises(StoreError, match=r"subset-0001-seed-0\.parquet was measured with other settings"):
        GroundTruth.open(Run(tmp_path)).losses(0)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"subset-0001-seed-0\.parquet cannot be read"):
        GroundTruth.open(Run(tmp_path)).losses(0)
    with pytest.raises(StoreError, match="does not exist"):
        GroundTruth.open(Run(tmp_path), "another")


def test_estimators_are_judged_on_the_queries_that_tuned_nothing(copy_run: CopyRun, truth: GroundTruth) -> None:
    run = copy_run()
    embed(run, EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64)))
    shutil.copytree(truth.folder, run.folder / "evaluation" / "lds")
    result = judge(EvaluatedRun.open(run), replace(CONFIG, estimators=("tracin", "trak"), ridges=(0.01, 1.0)))
    assert [(f.estimator, f.variant) for f in result.figures] == [
        *(("ceiling", kind) for kind in ("validation", "generated")),
        *(
            (name, kind + form)
            for name in ("tracin", "trak", "pixel", "random")
            for kind in ("validation", "generated")
            for form in ("", ", squared")
        ),
    ]
    assert [f.count for f in result.figures[:2]] == [3, 4]
    assert result.facts["subsets"] == 3
    assert result.facts["ridges"]["trak"] in (0.01, 1.0)
    assert set(result.facts["ridge_trials"]["trak"]) == {"0.01", "1"}
    details = pq.read_table(run.folder / "evaluation" / "lds" / "details.parquet").to_pylist()
    tracin = [line["lds"] for line in details if (line["estimator"], line["variant"]) == ("tracin", "generated")]
    assert result.value("tracin", "lds", "generated").value == pytest.approx(np.mean(tracin))

    measured = Measured.of(truth, truth.subsets.ids)
    scores = np.random.default_rng(0).normal(size=(10, 40))
    expected = lds_figures(measured, "any", scores, 20)
    scores[truth.queries.rows("validation", tuning=True)] = 7.0
    assert lds_figures(measured, "any", scores, 20) == expected
    scores[4] = 7.0
    assert lds_figures(measured, "any", scores, 20) != expected


def test_a_model_trained_elsewhere_is_refused(trained: Run, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", trained.model_folder, DataConfig("digits", limit=40))
    with pytest.raises(ConfigError, match="was not made by `forebear train`"):
        make_ground_truth(run, CONFIG)
