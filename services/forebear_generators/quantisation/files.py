"""A quantised generator on disk: safetensors, a JSON description, and the model's other parts; nothing is pickled."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from forebear.config import parse, plain
from forebear.diffusion.loading import (
    DENOISERS,
    LORA_FILE,
    load_codec,
    load_conditioner,
    load_scheduler,
    read_config,
    without_progress_bars,
)
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.errors import ModelError
from forebear.files import read_json, sha256_of_file, whole_file, write_json
from forebear_generators.quantisation.attention import round_attention
from forebear_generators.quantisation.layout import PlannedLayer
from forebear_generators.quantisation.network import QuantisedDenoiser, Structure, assemble
from forebear_generators.quantisation.settings import QuantisationConfig

DESCRIPTION = "generator.json"
TENSORS = "denoiser.safetensors"
PARTS = "parts"
"""The folder of what a quantised generator shares with its model: scheduler, tokenizers, text encoders, VAE."""
FORMAT = 1
COPIED = {".json", ".safetensors", ".txt", ".model"}


@dataclass(frozen=True)
class Description:
    """What generator.json says."""

    structure: Structure
    config: QuantisationConfig
    source: str
    """`weights_fingerprint` of the full-precision model."""
    report: dict[str, Any]
    """Measured at quantisation: bytes, errors of temporal features."""


def is_generator(folder: Path) -> bool:
    """Whether a folder holds a quantised generator."""
    return (folder / DESCRIPTION).is_file()


def write_generator(folder: Path, model_folder: Path, description: Description, tensors: dict[str, Tensor]) -> None:
    """Write everything; the description comes last, so that a folder with one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    _copy_parts(model_folder, folder / PARTS)
    with whole_file(folder / TENSORS) as part:
        save_file({name: each.contiguous() for name, each in tensors.items()}, part)
    structure = description.structure
    write_json(
        folder / DESCRIPTION,
        {
            "format": FORMAT,
            "source": description.source,
            "checksum": sha256_of_file(folder / TENSORS),
            "config": plain(description.config),
            "times": structure.times,
            "splits": structure.splits,
            "layers": [layer.plain() for layer in structure.layers],
            "cached": structure.cached,
            "computed": structure.computed,
            "dropped": structure.dropped,
            "report": description.report,
        },
    )


def refuse_lora(model: Path) -> None:
    if (model / LORA_FILE).is_file():
        raise ModelError(f"{model} carries a LoRA; merge it into the weights and save the model before quantising it")


def _copy_parts(model: Path, target: Path) -> None:
    """Everything of a model's directory but the denoiser's weights."""
    part = next((name for name in dict.fromkeys(DENOISERS.values()) if (model / name).is_dir()), None)
    target.mkdir(parents=True, exist_ok=True)
    for folder in sorted(each for each in model.iterdir() if each.is_dir()):
        known = folder.name in ("scheduler", "vae") or folder.name.startswith(("tokenizer", "text_encoder"))
        if not known:
            continue
        (target / folder.name).mkdir(exist_ok=True)
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.suffix in COPIED:
                shutil.copyfile(file, target / folder.name / file.name)
    (target / "denoiser").mkdir(exist_ok=True)
    shutil.copyfile((model / part if part else model) / "config.json", target / "denoiser" / "config.json")


def read_description(folder: Path) -> tuple[Description, str]:
    """The description and the checksum of its tensors; raises ModelError with the remedy when it cannot be used."""
    remedy = "give a folder that `forebear quantize` wrote, or quantise the model again"
    values = read_json(folder / DESCRIPTION, ModelError, remedy)
    try:
        if values["format"] != FORMAT:
            raise ModelError(f"{folder} has format {values['format']}, and this version reads {FORMAT}; {remedy}")
        structure = Structure(
            times=tuple(float(time) for time in values["times"]),
            splits={str(name): int(at) for name, at in values["splits"].items()},
            layers=tuple(PlannedLayer(**layer) for layer in values["layers"]),
            cached=tuple(values["cached"]),
            computed=tuple(values["computed"]),
            dropped=tuple(values["dropped"]),
        )
        config = parse(QuantisationConfig, values["config"], str(folder / DESCRIPTION))
        return Description(structure, config, values["source"], values["report"]), values["checksum"]
    except (KeyError, TypeError, ValueError, AttributeError) as broken:
        raise ModelError(f"{folder / DESCRIPTION} is not complete ({broken}); {remedy}") from None


def load_quantised(folder: Path | str, model: DiffusionModel | None = None) -> tuple[DiffusionModel, Description]:
    """A model whose denoiser is the quantised one, and what its folder says of it.

    With `model`, its weights have to be those that were quantised. Raises ModelError for another model, for damaged or
    foreign tensors, and for a folder that is no quantised generator.
    """
    folder = Path(folder)
    description, checksum = read_description(folder)
    if model is not None:
        refuse_other_model(description, model, folder)
    if not (folder / TENSORS).is_file() or sha256_of_file(folder / TENSORS) != checksum:
        raise ModelError(f"{folder / TENSORS} is not the file that was written with {DESCRIPTION}; quantise again")
    try:
        tensors = load_file(folder / TENSORS)
    except SafetensorError as broken:
        raise ModelError(f"{folder / TENSORS} cannot be read: {broken}; quantise the model again") from None
    parts = folder / PARTS
    with without_progress_bars():
        skeleton = _skeleton(parts / "denoiser")
        conditioner = load_conditioner(parts, skeleton)
        denoiser: QuantisedDenoiser = assemble(skeleton, description.structure, tensors)
        if description.config.activations.softmax == "uint8":
            round_attention(denoiser.inner)
        quantised = DiffusionModel(denoiser, load_scheduler(parts), load_codec(parts), conditioner)
    return quantised, description


def refuse_other_model(description: Description, model: DiffusionModel, folder: Path) -> None:
    """Raise ModelError when a model is not the one that a generator was quantised from."""
    found = weights_fingerprint(model.trained_parts())
    if found != description.source:
        raise ModelError(
            f"{folder} was quantised from a model with fingerprint {description.source}, and the given model has "
            f"{found}; give the model that was quantised, or quantise this one"
        )


def _skeleton(folder: Path) -> Any:
    """A denoiser of the configuration, its weights not yet there."""
    import diffusers

    config = read_config(folder, "the denoiser of a quantised generator")
    name = str(config.get("_class_name"))
    if name not in DENOISERS:
        raise ModelError(f"{folder} holds a {name}; supported denoisers are {', '.join(DENOISERS)}")
    make: Callable[..., Any] = getattr(diffusers, name).from_config
    with torch.random.fork_rng(devices=[]), _WithoutMemory():
        return make(config).eval()


class _WithoutMemory(TorchFunctionMode):
    """Weights made inside take no memory; buffers that are computed, which no file holds, are there."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is torch.empty:  # what torch's layers make their weights by
            named = named | {"device": "meta"}
        return func(*args, **named)
