"""Bad input: one line that says what to do, and exit code 2."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file


def assert_refused(result, *words: str) -> None:
    """Check the exit code, that the message is one line, and that it holds the words."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    for word in words:
        assert word in lines[0]


def test_missing_source(forebear) -> None:
    assert_refused(forebear("data", "no/such/folder"), "no/such/folder does not exist", "openmoji")


def test_no_usable_image(forebear, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert_refused(forebear("data", tmp_path), "no usable image", "1 quarantined", "broken.png")


def test_missing_caption_column(forebear, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "title": "red"}) + "\n")
    assert_refused(forebear("data", tmp_path, "--caption-column", "caption"), "no column 'caption'", "title")


def test_pickle_checkpoint(forebear, embedded_run: Path, tmp_path: Path) -> None:
    shutil.copytree(embedded_run / "model", tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    assert_refused(
        forebear("embed", "--run", tmp_path / "run", "--model", tmp_path / "model", "--data", "digits"),
        "pickle", "safe_serialization=True",
    )  # fmt: skip


def test_missing_model(forebear, tmp_path: Path) -> None:
    result = forebear("embed", "--run", tmp_path / "run", "--model", tmp_path / "none", "--data", "digits")
    assert_refused(result, "does not exist", "diffusers")


def test_projection_larger_than_the_gradient(forebear, embedded_run: Path, tmp_path: Path) -> None:
    shutil.copytree(embedded_run, tmp_path / "run")
    result = forebear("embed", "--run", tmp_path / "run", "--dim", 10_000_000, "--timesteps", 2, "--restart")
    assert_refused(result, "10000000", "dim")


def test_store_of_other_weights(forebear, embedded_run: Path, tmp_path: Path) -> None:
    shutil.copytree(embedded_run, tmp_path / "run")
    path = tmp_path / "run" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.bias"] = tensors["conv_in.bias"] + 1
    save_file(tensors, path)
    result = forebear("embed", "--run", tmp_path / "run", "--timesteps", 2, "--dim", 64)
    assert_refused(result, "checkpoints", "--restart")


def test_attributing_with_other_weights(forebear, embedded_run: Path, tmp_path: Path) -> None:
    shutil.copytree(embedded_run, tmp_path / "run")
    path = tmp_path / "run" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.bias"] = tensors["conv_in.bias"] + 1
    save_file(tensors, path)
    Image.new("L", (8, 8), 128).save(tmp_path / "query.png")
    result = forebear("attribute", tmp_path / "query.png", "--run", tmp_path / "run", "--label", 1)
    assert_refused(result, "weights", "forebear embed")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "no.yaml"), ("no.yaml does not exist",)),
        (("embed",), ("is not a run", "forebear train")),
        (("index",), ("forebear embed",)),
        (("attribute", "picture.png"), ("forebear",)),
    ],
)
def test_empty_run_folder(forebear, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_refused(forebear(*arguments, "--run", tmp_path / "empty"), *words)


def test_unknown_setting(forebear, tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("data: {source: digits}\ntraining: {learning_rat: 1}\n")
    assert_refused(forebear("train", config, "--run", tmp_path / "run"), "training.learning_rat")


def test_other_settings_in_the_same_run(forebear, embedded_run: Path, config_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(config_file.read_text().replace("epochs: 2", "epochs: 3"))
    assert_refused(forebear("train", config, "--run", embedded_run), "training", "epochs: 2 -> 3", "new run folder")


def test_unknown_estimator(forebear, embedded_run: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 128).save(tmp_path / "query.png")
    result = forebear("attribute", tmp_path / "query.png", "--run", embedded_run, "--label", 1, "--estimator", "oracle")
    assert_refused(result, "oracle", "retrac")


def test_query_that_is_no_picture(forebear, embedded_run: Path, tmp_path: Path) -> None:
    (tmp_path / "query.png").write_text("not a picture")
    assert_refused(forebear("attribute", tmp_path / "query.png", "--run", embedded_run, "--label", 1), "query.png")


def test_class_model_without_label(forebear, embedded_run: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 128).save(tmp_path / "query.png")
    assert_refused(forebear("attribute", tmp_path / "query.png", "--run", embedded_run), "class", "label")


def test_demo_outside_the_repository(forebear, tmp_path: Path) -> None:
    result = forebear("demo", "--run", tmp_path / "run", "--model", tmp_path / "none")
    assert_refused(result, "repository's root")
