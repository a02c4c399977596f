"""Bytes of full-precision and quantised denoisers, on disk with everything they need, and loaded."""

from pathlib import Path

from forebear.diffusion.loading import denoiser_part
from forebear.diffusion.model import DiffusionModel
from forebear_generators.generator import Generator
from forebear_generators.quantisation.files import DESCRIPTION, PARTS, TENSORS
from forebear_generators.quantisation.layers import layer_bytes


def model_bytes(folder: Path, model: DiffusionModel) -> tuple[int, int]:
    """Of a diffusers directory's denoiser: its files, and its parameters and buffers in memory."""
    part = folder / denoiser_part(model.denoiser)
    files = [path for path in (part if part.is_dir() else folder).iterdir() if path.suffix in (".safetensors", ".json")]
    return sum(path.stat().st_size for path in files), layer_bytes(model.denoiser)


def generator_bytes(folder: Path, generator: Generator) -> tuple[int, int]:
    """Of what `forebear quantize` wrote: tensors, description and the denoiser's configuration; loaded by its backend.

    Text encoders, VAE and the like are full precision's own and counted in neither.
    """
    files = [folder / TENSORS, folder / DESCRIPTION, folder / PARTS / "denoiser" / "config.json"]
    return sum(path.stat().st_size for path in files), int(generator.facts["bytes_in_memory"])
