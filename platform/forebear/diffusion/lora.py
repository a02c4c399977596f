"""LoRA weights beside a model, loaded as adapters that stay apart from the weights that they change."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from forebear.diffusion.loading import LORA_FILE, denoiser_part, named_failure
from forebear.errors import ModelError

ADAPTER = "default"
METADATA = "lora_adapter_metadata"
"""diffusers' name for the adapter's settings in the file's own metadata."""
SETTINGS = frozenset(
    [
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "fan_in_fan_out",
    ]
)
"""What peft is told of the adapter's settings; others name modules to import, or matter to training alone."""
FOREIGN = "put the LoRA beside the model that it was trained for"


def load_lora(folder: Path, denoiser: Any) -> None:
    """Load `pytorch_lora_weights.safetensors`, where the folder has one, into the denoiser as an adapter of peft's.

    The layers that it changes then hold parameters named `*lora_A*` and `*lora_B*` beside their own, in float32. Its
    scale is that of the settings in the file, or 1 where it has none, as in diffusers' own pipelines. Raises ModelError
    when peft is missing, the file is damaged, or any of its weights has no place in the denoiser.
    """
    path = folder / LORA_FILE
    if not path.is_file():
        return
    if find_spec("peft") is None:
        raise ModelError(f"{path}: LoRA weights need peft; pip install 'forebear[lora]'")
    if not hasattr(denoiser, "load_lora_adapter"):
        raise ModelError(
            f"{path}: diffusers loads no LoRA into a {type(denoiser).__name__}; remove the file to open the model "
            "without it"
        )
    from peft import get_peft_model_state_dict

    tensors, settings = _read(path, denoiser_part(denoiser))
    with named_failure(path, FOREIGN):
        denoiser.load_lora_adapter(tensors, prefix=None, metadata=settings, adapter_name=ADAPTER)
    taken = get_peft_model_state_dict(denoiser, adapter_name=ADAPTER, save_embedding_layers=False)
    strays = sorted(set(tensors) ^ set(taken))
    if strays:
        raise ModelError(f"{path} and the denoiser disagree on {len(strays)} weights, first {strays[0]}; {FOREIGN}")
    # peft freezes all but the adapter and adds its dropout in training mode; selection here is by parameter names.
    denoiser.requires_grad_(True).eval()


def _read(path: Path, part: str) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """The file's weights under the names that peft gives them in the denoiser, and the adapter's settings."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    with named_failure(path, "save the LoRA again as safetensors"), safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name).float() for name in sorted(file.keys())}
        settings = json.loads((file.metadata() or {}).get(METADATA, "null"))
    if not found:
        raise ModelError(f"{path} holds no weights; save the LoRA again, or remove the file")
    prefix = f"{part}."
    if not any(name.startswith(prefix) for name in found):
        prefix = ""  # as save_lora_adapter of the denoiser alone writes it
    for name in found:
        if name.startswith("text_encoder"):
            raise ModelError(
                f"{path} also changes a text encoder ({name}), and only LoRA of the denoiser is supported; "
                f"train one without it, since the {part} was trained for the changed text"
            )
        if not name.startswith(prefix) or "lora" not in name:
            raise ModelError(
                f"{path}: {name} is not a LoRA weight in diffusers' format; load the file into the pipeline with "
                "load_lora_weights and write it with save_lora_weights"
            )
    named = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return convert_unet_state_dict_to_peft(named), _settings(path, prefix, settings)


def _settings(path: Path, prefix: str, values: Any) -> dict[str, Any] | None:
    """The settings that matter to prediction; None when the file has none, as peft then reads them off the weights."""
    if not isinstance(values, dict) or not values:
        return None
    values = {name.removeprefix(prefix): value for name, value in values.items()}
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start != "gaussian":
        raise ModelError(
            f"{path} started from {start}, which may change the denoiser's own weights; convert it to a plain LoRA"
        )
    return {name: values[name] for name in SETTINGS if name in values}
