"""Starts a run from a diffusers model that was trained elsewhere."""

import shutil
from pathlib import Path

from forebear.config import plain
from forebear.data import DataConfig, open_training_set
from forebear.diffusion.loading import PICKLE_SUFFIXES
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.errors import ConfigError
from forebear.files import sync_folder
from forebear.run import Run


def start_run(run_folder: Path, model_folder: Path, data: DataConfig) -> Run:
    """Make `run_folder` a run of the model in `model_folder` and of the images that it was trained on.

    The model is copied into the run: it is small next to the embeddings, and the run stays whole when the original
    moves. Calling it again with the same arguments changes nothing. Raises ModelError when the model cannot be loaded,
    DataError when there are no usable images, and ConfigError when the run is there with another model or other images.
    """
    run = Run(run_folder)
    weights = weights_fingerprint(DiffusionModel.load(model_folder).trained_parts())
    open_training_set(data)
    if run.model_folder.exists() and not run.has_section("model_source"):
        raise ConfigError(
            f"{run.folder} already has a model of its own; embed it without --model, or choose a new run folder"
        )
    run.record("model_source", {"path": str(model_folder.resolve()), "weights": weights})
    run.record("data", plain(data))
    if not run.model_folder.exists():
        _copy_model(model_folder, run.model_folder)
    return run


def _copy_model(source: Path, target: Path) -> None:
    """Copy a model directory without pickle files, so that `target` is either whole or absent."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part, ignore=shutil.ignore_patterns(*(f"*{suffix}" for suffix in PICKLE_SUFFIXES)))
    part.rename(target)
    sync_folder(target.parent)
