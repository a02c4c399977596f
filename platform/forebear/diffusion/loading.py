"""Opens diffusers directories: safetensors only, no network, no code from the checkpoint."""

import json
from pathlib import Path
from typing import Any

from forebear.diffusion.codec import Codec, PixelCodec, SpaceToDepthCodec, VaeCodec
from forebear.diffusion.conditioning import ByCaption, ByClass, Conditioner, Unconditional
from forebear.errors import ModelError

PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
DENOISERS = ("UNet2DModel", "UNet2DConditionModel")


def refuse_pickle(folder: Path) -> None:
    """Raise ModelError when a component has pickle weights and no safetensors beside them."""
    if folder.is_file():
        if folder.suffix in PICKLE_SUFFIXES:
            raise ModelError(_pickle_message(folder))
        raise ModelError(f"{folder} is a file; give the directory of a diffusers model")
    for path in sorted(folder.rglob("*")):
        if path.suffix in PICKLE_SUFFIXES and not any(path.parent.glob("*.safetensors")):
            raise ModelError(_pickle_message(path))


def _pickle_message(path: Path) -> str:
    return (
        f"{path} is a pickle checkpoint, which can run any code when it is loaded; convert it once on a machine that "
        "trusts it, with save_pretrained(..., safe_serialization=True), and give the safetensors directory"
    )


def load_denoiser(folder: Path) -> Any:
    import diffusers  # noqa: PLC0415 - slow to import; commands that load no model stay quick

    where = folder / "unet" if (folder / "unet").is_dir() else folder
    name = read_config(where, "a diffusers model").get("_class_name")
    if name not in DENOISERS:
        raise ModelError(f"{where} holds a {name}; supported denoisers are {' and '.join(DENOISERS)}")
    try:
        return getattr(diffusers, name).from_pretrained(
            where, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as broken:
        raise ModelError(
            f"{where} cannot be loaded: {_first_line(broken)}; save the model again as safetensors"
        ) from None


def load_scheduler(folder: Path) -> Any:
    """The scheduler that the model was trained with, as its own class; its alphas are the only ones used."""
    import diffusers  # noqa: PLC0415

    where = folder / "scheduler"
    if not (where / "scheduler_config.json").is_file():
        raise ModelError(f"{where}/scheduler_config.json is missing; save the training scheduler beside the model")
    name = read_config(where, "a scheduler", "scheduler_config.json").get("_class_name", "DDPMScheduler")
    scheduler = getattr(diffusers, name, None)
    loaded = scheduler.from_pretrained(where, local_files_only=True) if scheduler is not None else None
    if getattr(loaded, "alphas_cumprod", None) is None:
        raise ModelError(
            f"scheduler {name} has no alphas_cumprod; supported are DDPM-type schedulers (DDPM, DDIM, PNDM ...)"
        )
    return loaded


def load_codec(folder: Path) -> Codec:
    where = folder / "vae"
    if not where.is_dir():
        return PixelCodec()
    config = read_config(where, "an autoencoder")
    if config.get("_class_name") == "SpaceToDepth":
        return SpaceToDepthCodec(int(config["factor"]))
    if config.get("_class_name") != "AutoencoderKL":
        raise ModelError(f"{where} holds a {config.get('_class_name')}; supported are AutoencoderKL and SpaceToDepth")
    from diffusers import AutoencoderKL  # noqa: PLC0415

    return VaeCodec(AutoencoderKL.from_pretrained(where, local_files_only=True, use_safetensors=True))


def load_conditioner(folder: Path, denoiser: Any) -> Conditioner:
    classes = getattr(denoiser.config, "num_class_embeds", None)
    if type(denoiser).__name__ == "UNet2DModel":
        return ByClass(int(classes)) if classes else Unconditional()
    for part in ("tokenizer", "text_encoder"):
        if not (folder / part).is_dir():
            raise ModelError(f"{folder} has no {part}/; a text-conditional model needs tokenizer/ and text_encoder/")
    from transformers import AutoTokenizer, CLIPTextModel  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, use_safetensors=True)
    return ByCaption(tokenizer, text_encoder.float().eval().requires_grad_(False))


def read_config(folder: Path, what: str, name: str = "config.json") -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not {what} (no {name}); give the directory that save_pretrained wrote") from None
    except ValueError:
        raise ModelError(f"{folder / name} is not valid JSON; save the model again") from None
    return values


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
