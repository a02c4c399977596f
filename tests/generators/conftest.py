"""Tiny models for generators: those of the diffusion tests, saved as directories."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forebear.diffusion.building import save_model
from forebear.diffusion.model import DiffusionModel

# The tiny models are written down once, beside the tests of `forebear.diffusion`.
_SPEC = importlib.util.spec_from_file_location(
    "forebear_tiny_models", Path(__file__).parents[1] / "diffusion" / "conftest.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_tiny = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _tiny
_SPEC.loader.exec_module(_tiny)

build = _tiny.build
dit = _tiny.dit
stable_diffusion = _tiny.stable_diffusion
stable_diffusion_3 = _tiny.stable_diffusion_3

Save = Callable[..., Path]


@pytest.fixture(scope="session")
def saved(build: Callable[..., DiffusionModel], tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves a random tiny model: the arguments of `build`."""

    def save(conditioning: str = "none", **options: object) -> Path:
        folder = tmp_path_factory.mktemp("model")
        save_model(build(conditioning, **options), folder)
        return folder

    return save
