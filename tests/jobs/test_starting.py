"""Runs from a model that was trained elsewhere."""

import shutil
from pathlib import Path

import pytest
import torch

from forebear.data import DataConfig
from forebear.errors import ConfigError, DataError, ModelError
from forebear.jobs import embed, start_run
from forebear.run import Run

DIGITS = DataConfig("digits", limit=20)


def test_model_alone_is_one_checkpoint_of_weight_1(class_run: Run, small, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", class_run.model_folder, DIGITS)
    assert start_run(tmp_path / "run", class_run.model_folder, DIGITS) == run
    store = embed(run, small)
    assert store.manifest.weights == {"step-00000000": 1.0}
    assert len(store) == 20


def test_copy_has_no_pickle(class_run: Run, tmp_path: Path) -> None:
    model = shutil.copytree(class_run.model_folder, tmp_path / "model")
    torch.save({}, model / "unet" / "diffusion_pytorch_model.bin")  # beside safetensors: harmless, and left behind
    run = start_run(tmp_path / "run", model, DIGITS)
    assert (run.model_folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert not list(run.model_folder.rglob("*.bin"))


def test_pickle_alone_is_refused(class_run: Run, tmp_path: Path) -> None:
    model = shutil.copytree(class_run.model_folder, tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match=r"pickle.*safe_serialization=True"):
        start_run(tmp_path / "run", model, DIGITS)
    assert not (tmp_path / "run").exists()


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        start_run(tmp_path / "run", tmp_path / "none", DIGITS)


def test_no_images_are_refused(class_run: Run, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no usable image"):
        start_run(tmp_path / "run", class_run.model_folder, DataConfig(str(tmp_path / "images")))


def test_another_model_or_other_images_are_refused(class_run: Run, text_run: Run, tmp_path: Path) -> None:
    start_run(tmp_path / "run", class_run.model_folder, DIGITS)
    with pytest.raises(ConfigError, match="model_source"):
        start_run(tmp_path / "run", text_run.model_folder, DIGITS)
    with pytest.raises(ConfigError, match="limit: 20 -> 21"):
        start_run(tmp_path / "run", class_run.model_folder, DataConfig("digits", limit=21))


def test_trained_run_keeps_its_model(class_run: Run, text_run: Run, copy_run) -> None:
    run = copy_run(class_run)
    with pytest.raises(ConfigError, match="already has a model of its own"):
        start_run(run.folder, text_run.model_folder, DIGITS)
