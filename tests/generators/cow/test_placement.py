"""Conditions on their canvas: where they lie, what is kept, and what is refused with its remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError, DataError
from forebear_generators.cow.condition import CowCondition, check_words
from forebear_generators.cow.placement import GREY, Placement, place
from forebear_generators.cow.sampler import cow
from forebear_generators.cow.schedule import Schedule
from forebear_generators.cow.settings import MODES, CowConfig, PlacementConfig, preset
from forebear_generators.generator import Generator

Build = Callable[..., DiffusionModel]
Condition = Callable[..., CowCondition]


def where(model: DiffusionModel, **placement: Any) -> tuple[int, int, int]:
    found = Placement.of(model, CowConfig(placement=PlacementConfig(**placement)))
    return found.size, found.x, found.y


def test_the_paper_puts_256_pixels_at_128_0_of_512(build: Build) -> None:
    model = build("none")
    model.image_size = 512
    assert where(model) == (256, 128, 0)
    assert where(model, size="canvas") == (512, 0, 0)
    assert where(model, size=64, x=8, y=16) == (64, 8, 16)


@pytest.mark.parametrize(
    ("placement", "problem"),
    [
        ({"size": 10}, "of 10 pixels is larger than the canvas of 8; set placement.size to 8 or less"),
        ({"size": 4, "x": 5}, "4 pixels at 5,0 leaves the canvas of 8; .* at most 4"),
        ({"size": 4, "y": 6}, "leaves the canvas"),
        ({"size": 3}, "cannot invert a condition of 3 pixels by itself; set placement.size to a multiple of 2"),
    ],
)
def test_what_does_not_fit_is_refused(build: Build, placement: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        where(build("none"), **placement)


def test_places_are_whole_positions_of_the_model(build: Build) -> None:
    model = build("none", space_to_depth=2)
    with pytest.raises(ConfigError, match=r"placement.x is 1, .* squares of 2 pixels"):
        where(model, size=4, x=1)
    assert where(model, size=4, x=2) == (4, 2, 0)
    # Where it lies on the canvas, any size can be inverted.
    placement = PlacementConfig(size=6, x=0)
    assert Placement.of(model, CowConfig(placement=placement, inversion="canvas")).size == 6


def test_kept_pixels_are_the_images_and_all_else_is_grey(build: Build, condition: Condition) -> None:
    given = condition(2, side=4)
    placed = place(build("none"), [given, condition(3, side=4, mask=None)], CowConfig())
    image = torch.from_numpy(np.asarray(given.image, np.float32) / 127.5 - 1).permute(2, 0, 1)
    assert torch.equal(placed.seed[0, :, :2], image[:, :2])
    assert torch.equal(placed.canvas[0, :, :2, 2:6], image[:, :2])
    assert bool((placed.seed[0, :, 2:, 2:] == torch.tensor(GREY)).all())
    assert placed.kept.sum((1, 2)).tolist() == [12.0, 16.0]
    assert bool((placed.canvas[:, :, 4:] == torch.tensor(GREY)).all())
    # Eight neighbours of the kept square that lie on the canvas, and the gap inside of it.
    assert placed.boundary[1].sum() == 4 + 4 + 6
    whole = place(build("none"), [condition(mask=None)], CowConfig(placement=PlacementConfig(size="canvas")))
    assert bool(whole.boundary.all())


def test_mask_pictures_may_be_black_where_the_image_is_kept(build: Build, condition: Condition) -> None:
    given = condition(side=4)
    assert isinstance(given.mask, Image.Image)
    inverted = CowCondition(given.image, Image.eval(given.mask, lambda level: 255 - level))
    white, black = (
        place(build("none"), [each], CowConfig(keep=keep))  # type: ignore[arg-type]
        for each, keep in ((given, "white"), (inverted, "black"))
    )
    assert torch.equal(white.kept, black.kept)
    assert torch.equal(white.canvas, black.canvas)


def test_images_and_masks_are_framed_alike(build: Build) -> None:
    levels = np.zeros((8, 12), np.uint8)
    levels[:, 6:] = 255
    wide = Image.fromarray(levels)
    placed = place(build("none"), [CowCondition(wide, wide)], CowConfig(placement=PlacementConfig(size="canvas")))
    assert torch.equal(placed.kept[0], (placed.canvas[0, 0] > 0.5).float())
    assert placed.kept[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_soft_masks_are_averaged_to_positions(build: Build, condition: Condition) -> None:
    model = build("none", space_to_depth=2)
    weights = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    config = CowConfig(placement=PlacementConfig(size="canvas"), edge="soft")
    placed = place(model, [condition(mask=weights)], config)
    assert torch.allclose(placed.kept[0], torch.from_numpy(weights))
    assert torch.allclose(placed.mask[0, 0, 0, 0], torch.from_numpy(weights)[:2, :2].mean())
    # Blending is of states: the image itself is not greyed.
    whole = place(model, [condition(mask=None)], config)
    assert torch.equal(placed.canvas[0, :, 0, 1:], whole.canvas[0, :, 0, 1:])
    held = place(model, [condition()], CowConfig(placement=PlacementConfig(size="canvas"), hold=0.5))
    assert held.mask.unique().tolist() == [0.0, 0.5]
    assert held.kept.unique().tolist() == [0.0, 1.0]
    assert held.boundary.sum() == 3  # of the four positions of the quarter that is not kept


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (Image.new("L", (7, 8), 255), "the mask is 7 x 8 pixels and the image 8 x 8; give a mask of the image's size"),
        (Image.new("L", (8, 8), 0), "the mask is empty.*make it white where .* or set keep to black"),
        (np.zeros((8, 8), bool), "the mask is empty.*set weights to 1"),
        (np.full((8, 8), 0.2), "the mask is empty in the centred square"),
        (np.full((8, 8), np.nan), r"weights in \[0, 1\]"),
        (np.full((8, 8), 255.0), "divide 8-bit levels by 255"),
        (np.ones((8, 8), int), "must be float"),
    ],
)
def test_masks_that_do_not_fit_are_refused(build: Build, condition: Condition, mask: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        cow(Generator(build("none")), [condition(prompt="", mask=mask)])


def test_an_area_too_small_for_the_positions_is_refused(build: Build, condition: Condition) -> None:
    model = build("none", space_to_depth=2)
    weights = np.zeros((8, 8), np.float32)
    weights[5, 5] = 1.0
    config = CowConfig(placement=PlacementConfig(size="canvas"))
    with pytest.raises(ConfigError, match="4 x 4 positions; keep more"):
        place(model, [condition(mask=weights)], config)
    assert (
        place(model, [condition(mask=weights)], CowConfig(placement=config.placement, edge="soft")).mask.max() == 0.25
    )


@pytest.mark.parametrize(
    ("image", "problem"), [(b"", "empty file"), (b"no picture", "known format"), ("nowhere.png", "does not exist")]
)
def test_images_that_are_none_are_refused(build: Build, image: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        cow(Generator(build("none")), [CowCondition(image)])
    with pytest.raises(DataError, match=problem):
        cow(Generator(build("none")), [CowCondition(Image.new("RGB", (8, 8)), image)])


@pytest.mark.parametrize(
    ("conditioning", "words", "problem"),
    [
        ("none", {"prompt": "a cat"}, "no text encoder and cannot read 'a cat'; leave the prompt out"),
        ("class", {"prompt": "a cat", "label": 1}, "give a label instead"),
        ("class", {"prompt": ""}, "give each condition a label"),
        ("none", {"prompt": "", "label": 1}, "knows no classes, and label 1 was given; leave the label out"),
        ("text", {"label": 1}, "give a prompt instead"),
    ],
)
def test_words_that_the_model_cannot_be_told(
    build: Build, condition: Condition, conditioning: str, words: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        cow(Generator(build(conditioning)), [condition(**words)])
    check_words(build("text"), condition(prompt=""))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"steps": 2}, "with 2 steps, cycles lead from step 1 to step 1; raise steps"),
        ({"replace": 0.7, "back": 0.5}, "lead from step 5 to step 7"),
        ({"replace": 0.0}, "to step 0"),
        ({"preserve": 0.6}, "preserve is 0.6; set it to 0.5"),
    ],
)
def test_steps_that_contradict_each_other_are_refused(build: Build, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Schedule.of(Generator(build("none")), CowConfig(**settings))


def test_nothing_to_make_is_refused(build: Build, condition: Condition) -> None:
    with pytest.raises(ConfigError, match="at least one image"):
        cow(Generator(build("none")), [])
    with pytest.raises(ConfigError, match="batch is 0"):
        cow(Generator(build("none")), [condition(prompt="")], batch=0)
    model = build("none", scheduler={"num_train_timesteps": 20})
    with pytest.raises(ConfigError, match="give 2 to 20"):
        cow(Generator(model), [condition(prompt="")], CowConfig(steps=21))


def test_modes_are_presets() -> None:
    assert preset() == CowConfig()
    for mode in MODES:
        assert isinstance(preset(mode), CowConfig)
    changed = preset("inpaint", {"placement": {"y": 2}, "cycles": 1})
    assert (changed.strength, changed.cycles, changed.placement) == (0.0, 1, PlacementConfig(size="canvas", y=2))
    with pytest.raises(ConfigError, match="modes are scene, edit, cross-domain, inpaint"):
        preset("magic")
    for wrong in ({"strength": 2.0}, {"placement": {"size": 0}}, {"cycle": 3}, {"guidance": float("nan")}):
        with pytest.raises(ConfigError, match=f"settings: {next(iter(wrong))}"):
            preset("scene", wrong)


def test_files_are_read(build: Build, condition: Condition, tmp_path: Path) -> None:
    given = condition(prompt="")
    assert isinstance(given.image, Image.Image)
    assert isinstance(given.mask, Image.Image)
    given.image.save(tmp_path / "image.png")
    given.mask.save(tmp_path / "mask.png")
    files = CowCondition(tmp_path / "image.png", str(tmp_path / "mask.png"))
    data = CowCondition((tmp_path / "image.png").read_bytes(), (tmp_path / "mask.png").read_bytes())
    placed = place(build("none"), [given, files, data], CowConfig())
    assert torch.equal(placed.canvas[0], placed.canvas[1])
    assert torch.equal(placed.canvas[0], placed.canvas[2])
    assert torch.equal(placed.mask[1], placed.mask[2])
