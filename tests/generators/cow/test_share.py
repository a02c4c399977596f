"""The condition's share is what its formulas say, and attribution inside and outside the mask is that of regions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from forebear.attribution import Attributor
from forebear.cli.main import main
from forebear.config import parse
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import SHARED, draw_noise
from forebear.diffusion.training import TrainConfig, train
from forebear.errors import ConfigError
from forebear.gradients import ProjectionConfig
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig, build_indexes, embed
from forebear.run import Run
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.report import AROUND, KEPT, attribute_cow
from forebear_generators.cow.sampler import CowResult, cow
from forebear_generators.cow.settings import CowConfig, PlacementConfig
from forebear_generators.cow.share import condition_shares, similarity
from forebear_generators.evaluation.measures import PSNR_CEILING, psnr, ssim
from forebear_generators.generator import Generator

Build = Callable[..., DiffusionModel]
Condition = Callable[..., CowCondition]
QUICK: dict[str, Any] = {"steps": 5, "cycles": 1, "back": 0.8}


def result(pixels: torch.Tensor, canvas: torch.Tensor, kept: torch.Tensor) -> CowResult:
    return CowResult(pixels, canvas, kept, 0, 0, (), ((),) * len(pixels), (0,) * len(pixels))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_similarity_is_that_of_whole_pictures_and_blind_outside() -> None:
    one, other, all_kept = random(2, 3, 16, 16), random(2, 3, 16, 16, seed=1), torch.ones(2, 16, 16)
    found = similarity(result(one, other, all_kept))
    assert [each.psnr for each in found] == pytest.approx(psnr(other, one).tolist())
    assert [each.ssim for each in found] == pytest.approx(ssim(other, one).tolist())
    wanted = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(one, other, strict=True)]
    assert [each.correlation for each in found] == pytest.approx(wanted)
    half = all_kept.clone()
    half[:, 8:] = 0
    changed = one.clone()
    changed[:, :, 8:] = other[:, :, 8:]
    before, after = (similarity(result(each, other, half))[0] for each in (one, changed))
    assert (before.psnr, before.correlation) == (after.psnr, after.correlation)
    corner = torch.zeros(2, 16, 16)
    corner[:, 0, 0] = 1
    nothing = similarity(result(one, torch.zeros_like(other), corner))[0]
    assert (nothing.ssim, nothing.correlation) == (None, None)
    same = similarity(result(other, other, half))[0]
    assert (same.psnr, same.ssim, same.correlation) == (PSNR_CEILING, 1.0, pytest.approx(1.0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_explained_loss_is_what_a_mixed_prediction_takes_away(build: Build, prediction: str) -> None:
    """Against a search over mixtures of the model's prediction and the condition's."""
    model = build("text", scheduler={"prediction_type": prediction})
    kept = torch.zeros(1, 8, 8)
    kept[:, :5, :5] = 1
    pixels = random(1, 3, 8, 8)
    canvas = 0.7 * pixels + 0.3 * random(1, 3, 8, 8, seed=1)
    (found,) = condition_shares(
        model, result(pixels, canvas, kept), [CowCondition("", prompt="a cat")], timesteps=1, draws=1
    )
    noise = draw_noise(model.x0_shape, 0, [SHARED], [500], [0])
    at, told = torch.tensor([500]), model.condition(["a cat"], [None])
    with torch.no_grad():
        x = model.noised(pixels, at, noise)
        output = model.predict(x, at, told)
        loss = model.per_sample_loss(pixels, at, noise, told)
        losses = model.measured("loss", pixels, at, noise, told, mask=kept[0])[0]
    alpha = model.scheduler.alphas_cumprod[500]
    implied = (x - alpha.sqrt() * canvas) / (1 - alpha).sqrt()  # the noise, were the condition the picture
    target, own = model.target(pixels, at, noise), model.target(canvas, at, implied)
    mixtures = [
        float(((target - (1 - part) * output - part * own).square() * kept).mean()) for part in np.linspace(0, 1, 1001)
    ]
    assert found.loss == pytest.approx(float(loss), rel=1e-4)
    assert found.loss_inside == pytest.approx(float(losses), rel=1e-4)
    assert found.explained == pytest.approx(1 - min(mixtures) / mixtures[0], abs=1e-4)
    assert found.share == pytest.approx(found.explained * found.loss_inside / found.loss)


def test_a_kept_condition_explains_all_and_another_little(build: Build) -> None:
    model = build("none", scheduler={"prediction_type": "sample"})
    kept = torch.ones(3, 8, 8)
    pixels = random(1, 3, 8, 8).repeat(3, 1, 1, 1)
    canvas = torch.cat([pixels[:1], 0.5 * pixels[:1], random(1, 3, 8, 8, seed=7)])
    same, near, other = condition_shares(model, result(pixels, canvas, kept), [CowCondition("")] * 3, timesteps=3)
    assert same.explained == same.share == pytest.approx(1.0)
    assert other.explained < near.explained < 1


# -- With a run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any]) -> Run:
    run = Run(tmp_path_factory.mktemp("cow") / "digits")
    training = {"epochs": 1, "batch_size": 10, "warmup_steps": 1, "checkpoint_epochs": [1]}
    config = {"data": {"source": "digits", "limit": 20}, "training": training, "model": tiny_model}
    assert train(run, parse(TrainConfig, config, "tests"))
    embed(run, EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64), batch_size=64))
    build_indexes(run, ["tracin"], IndexConfig())
    return run


def test_regions_add_up_to_the_whole(run: Run, condition: Condition, build: Build) -> None:
    generator, attributor = Generator.load(run.model_folder), Attributor.open(run.folder)
    conditions = [condition(1, prompt="", label=3), condition(2, prompt="", label=4, mask=None)]
    made = cow(generator, conditions, CowConfig(placement=PlacementConfig(size="canvas"), **QUICK))
    parted, kept_whole = attribute_cow(attributor, generator, made, conditions, estimator="tracin", top_k=20)
    assert [answer.query.region and answer.query.region.label for answer in parted.answers] == [None, KEPT, AROUND]
    assert parted.around is not None

    def scores(answer: Any) -> np.ndarray:
        found = {one.sample_id: one.score for one in answer.proponents}
        return np.array([found[name] for name in sorted(found)])

    whole, inside, outside = (scores(answer) for answer in parted.answers)
    np.testing.assert_allclose(inside + outside, whole, rtol=1e-3, atol=1e-3 * np.abs(whole).max())
    assert kept_whole.around is None
    np.testing.assert_allclose(scores(kept_whole.kept), scores(kept_whole.whole), rtol=1e-4)
    assert 0 <= parted.share.share <= parted.share.explained <= 1
    other = Generator(build("none", image_size=16))
    with pytest.raises(ConfigError, match="16 pixels along a side, and the run's model sees 8"):
        attribute_cow(attributor, other, cow(other, [condition(prompt="")], CowConfig(**QUICK)), [condition(prompt="")])


def forebear(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_verb_attributes(run: Run, condition: Condition, tmp_path: Path) -> None:
    given = condition(1)
    assert isinstance(given.image, Image.Image)
    assert isinstance(given.mask, Image.Image)
    given.image.save(tmp_path / "image.png")
    given.mask.save(tmp_path / "mask.png")
    (tmp_path / "cow.yaml").write_text("steps: 5\nback: 0.8\ncycles: 7\n")
    out = tmp_path / "out"
    made = forebear(
        "cow", "--run", run.folder, "--image", tmp_path / "image.png", "--mask", tmp_path / "mask.png", "--label", 2,
        "--mode", "inpaint", "--config", tmp_path / "cow.yaml", "--cycles", 1, "--out", out, "--estimator", "tracin",
        "--top-k", 3, "--count", 2,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    names = ["image-0-seed42", "image-1-seed43"]
    assert {path.name for path in out.iterdir()} == {
        "grid.png", "cow.json", "attribution.json", "attribution.html",
        *(f"{name}.png" for name in names), *(f"{name}-ancestors.png" for name in names),
    }  # fmt: skip
    record = json.loads((out / "cow.json").read_text())
    assert record["settings"]["strength"] == 0.0
    assert record["settings"]["cycles"] == 1
    assert record["calls"] == record["evaluations"] == 2 * (4 + 2 + 2)
    assert [each["inside_mask"]["psnr"] for each in record["pictures"]] == [PSNR_CEILING] * 2
    first = json.loads((out / "attribution.json").read_text())[0]
    assert set(first["answers"]) == {"whole picture", KEPT, AROUND}
    assert len(first["answers"][KEPT]["proponents"]) == 3
    assert first["condition"]["explained"] == pytest.approx(1.0)
    assert Image.open(out / f"{names[0]}-ancestors.png").width > 4 * 96
    assert "the condition explains 100% of the loss in the kept area" in made.output
