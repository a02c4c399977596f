"""`forebear cow`: what it writes and refuses, and docs/cow.md names every setting, mode and option."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from forebear.cli.main import main
from forebear.config import plain
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.settings import MODES, CowConfig, PlacementConfig
from forebear_generators.cow.verb import cow as verb

PAGE = (Path(__file__).parents[3] / "docs" / "cow.md").read_text(encoding="utf-8")
Condition = Callable[..., CowCondition]


def forebear(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["cow", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def files(condition: Condition, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for number in range(2):
        given = condition(number, side=4)
        assert isinstance(given.image, Image.Image)
        assert isinstance(given.mask, Image.Image)
        given.image.save(folder / f"{number}.png")
        given.mask.save(folder / "mask.png")
    Image.new("L", (5, 5), 255).save(folder / "large.png")
    Image.new("L", (4, 4), 0).save(folder / "empty.png")
    return folder


def test_pictures_are_made(saved: Callable[..., Path], files: Path, tmp_path: Path) -> None:
    model = saved("text", scheduler={"prediction_type": "sample"})
    asked = ("--model", model, "--image", files / "0.png", "--image", files / "1.png", "--mask", files / "mask.png")
    quick = ("--steps", 5, "--cycles", 1, "--prompt", "a red heart", "--prompt", "the cat", "--size", 4, "--y", 2)
    made = forebear(*asked, *quick, "--out", tmp_path)
    assert made.exit_code == 0, made.output
    assert "2 pictures, grid.png and cow.json" in made.output
    record = json.loads((tmp_path / "cow.json").read_text())
    assert [each["prompt"] for each in record["pictures"]] == ["a red heart", "the cat"]
    assert record["settings"]["placement"] == {"size": 4, "x": None, "y": 2}
    assert record["calls"] == 2 * (3 + 2 + 1 + 2)
    assert f"{record['calls']} calls of the denoiser, {record['evaluations']} evaluations" in made.output
    first = (tmp_path / "1-1-seed42.png").read_bytes()
    again = forebear(*asked[:2], *asked[4:6], *asked[6:], *quick[:4], *quick[6:], "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "1-0-seed42.png").read_bytes() == first  # alone or beside another: the same file


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (("--mask", "large.png"), "the mask is 5 x 5 pixels and the image 4 x 4"),
        (("--mask", "empty.png"), "the mask is empty"),
        (("--size", 16), "larger than the canvas of 8"),
        (("--size", "huge"), "placement.size"),
        (("--prompt", "a cat"), "has no text encoder"),
        (("--mask", "mask.png", "--mask", "mask.png"), "2 masks and 1 images"),
        (("--generator", "somewhere"), "either --model"),
        (("--strength", 2), "strength"),
    ],
)
def test_bad_input_is_refused(saved: Callable[..., Path], files: Path, given: tuple[object, ...], problem: str) -> None:
    paths = [files / each if str(each).endswith(".png") else each for each in given]
    result = forebear("--model", saved("none"), "--image", files / "0.png", *paths, "--out", files / "out")
    assert result.exit_code == 2
    assert problem in result.output
    assert not (files / "out").exists()


def test_something_is_to_be_given(files: Path) -> None:
    result = forebear("--image", files / "0.png")
    assert result.exit_code == 2
    assert "give --model" in result.output


def test_every_setting_mode_and_option_is_documented() -> None:
    table = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]*) \|", PAGE, re.MULTILINE))
    values = plain(CowConfig())
    for field in dataclasses.fields(CowConfig):
        if field.name == "placement":
            continue
        assert field.name in table, field.name
        if isinstance(values[field.name], int | float):
            assert float(table[field.name]) == values[field.name], field.name
    for field in dataclasses.fields(PlacementConfig):
        assert f"placement.{field.name}" in table, field.name
    for mode in MODES:
        assert f"`{mode}`" in PAGE, mode
    options = {name for parameter in verb.params for name in parameter.opts}
    for option in options:
        assert f"`{option}" in PAGE or f" {option} " in PAGE, option
    for line in re.findall(r"^(?:forebear cow|    --).*", PAGE, re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", line)) <= options, line
    for mode in re.findall(r"--mode (\S+)", PAGE):
        assert mode in MODES
