"""`forebear quantize` and `forebear generate --generator`, and the documentation of settings."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from forebear.cli.main import main
from forebear_generators.quantisation.backends import BACKENDS
from forebear_generators.quantisation.files import read_description
from forebear_generators.quantisation.settings import QuantisationConfig
from forebear_generators.samplers import SAMPLERS

PAGE = (Path(__file__).parents[2] / "docs" / "quantisation.md").read_text(encoding="utf-8")


def forebear(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_model_is_quantised_and_generates(saved: Callable[..., Path], tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        yaml.safe_dump({"variant": "w8a8", "rounding": {"method": "nearest"}, "weights": {"search": "minmax"}})
    )
    out = tmp_path / "generator"
    (tmp_path / "prompts.txt").write_text("a red heart\n\nthe cat\n")
    asked = ("quantize", saved("text"), "--out", out, "--config", settings, "--variant", "w4a8", "--steps", 2)
    made = forebear(*asked, "--pictures", 2, "--prompts", tmp_path / "prompts.txt")
    assert made.exit_code == 0, made.output
    assert "w4a8 generator" in made.output
    pictures = tmp_path / "pictures"
    result = forebear(
        "generate", "--generator", out, "--prompt", "the cat", "--count", 2, "--batch", 1, "--out", pictures
    )
    assert result.exit_code == 0, result.output
    assert "by w4a8 with" in result.output
    assert "they save disk, not memory or time" in result.output
    assert {path.name for path in pictures.iterdir()} == {"the-cat-0.png", "the-cat-1.png", "grid.png"}
    assert Image.open(pictures / "the-cat-0.png").size == (8, 8)
    refused = forebear("generate", "--generator", out, "--steps", 3, "--out", pictures)
    assert refused.exit_code == 2
    assert "quantise the model again" in refused.output


def test_iterations_are_adarounds_unless_settings_say_otherwise(saved: Callable[..., Path], tmp_path: Path) -> None:
    model, settings = saved("none"), tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"rounding": {"method": "nearest"}}))
    asked = ("quantize", model, "--variant", "w8a32", "--steps", 1, "--pictures", 1)
    for name, more in (
        ("plain", ()),
        ("learned", ("--iterations", 1)),
        ("set", ("--iterations", 1, "--config", settings)),
    ):
        made = forebear(*asked, *more, "--out", tmp_path / name)
        assert made.exit_code == 0, made.output
    found = [read_description(tmp_path / name)[0].config.rounding.method for name in ("plain", "learned", "set")]
    assert found == ["feedback", "adaround", "nearest"]


@pytest.mark.parametrize("given", [(), ("--model", "a", "--generator", "b")])
def test_one_of_model_and_generator_is_given(given: tuple[str, ...]) -> None:
    result = forebear("generate", *given)
    assert result.exit_code == 2
    assert "either --model" in result.output


def test_bad_settings_are_named(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("rounding: {iterations: many}\n")
    result = forebear("quantize", tmp_path, "--out", tmp_path / "out", "--config", settings)
    assert result.exit_code == 2
    assert "rounding.iterations" in result.output
    result = forebear("quantize", tmp_path, "--out", tmp_path / "out", "--prompts", tmp_path / "none.txt")
    assert result.exit_code == 2
    assert "one caption a line" in result.output


def test_every_setting_sampler_and_backend_is_documented() -> None:
    for field in dataclasses.fields(QuantisationConfig):
        if dataclasses.is_dataclass(field.type):
            for inner in dataclasses.fields(field.type):
                assert f"`{field.name}.{inner.name}`" in PAGE or f"`{inner.name}`" in PAGE, (field.name, inner.name)
        else:
            assert f"`{field.name}`" in PAGE, field.name
    for name in (*SAMPLERS, *BACKENDS):
        assert f"`{name}`" in PAGE, name
