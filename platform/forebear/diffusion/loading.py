"""Opens diffusers directories: safetensors only, no network, no code from the checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from forebear.diffusion.codec import Codec, PixelCodec, SpaceToDepthCodec, VaeCodec
from forebear.diffusion.conditioning import ByCaption, ByClass, Conditioner, Unconditional
from forebear.errors import ModelError
from forebear.files import read_json

PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
DENOISERS = ("UNet2DModel", "UNet2DConditionModel")


def refuse_pickle(folder: Path) -> None:
    """Raise ModelError when a part that would be loaded has pickle weights and no safetensors beside them."""
    if folder.is_file():
        if folder.suffix.lower() in PICKLE_SUFFIXES:
            raise ModelError(_pickle_message(folder))
        raise ModelError(f"{folder} is a file; give the directory of a diffusers model")
    for part in (_denoiser_folder(folder), folder / "vae", folder / "text_encoder"):
        if any(part.glob("*.safetensors")):
            continue
        for path in sorted(part.glob("*")):
            if path.suffix.lower() in PICKLE_SUFFIXES:
                raise ModelError(_pickle_message(path))


def _pickle_message(path: Path) -> str:
    return (
        f"{path} is a pickle checkpoint, which can run any code when it is loaded; convert it once on a machine that "
        "trusts it, with save_pretrained(..., safe_serialization=True), and give the safetensors directory"
    )


def load_denoiser(folder: Path) -> Any:
    """The UNet of a model directory, or of its `unet/`, in float32 evaluation mode."""
    import diffusers

    where = _denoiser_folder(folder)
    config = read_config(where, "a diffusers model")
    name = config.get("_class_name")
    if name not in DENOISERS:
        raise ModelError(f"{where} holds a {name}; supported denoisers are {' and '.join(DENOISERS)}")
    _refuse_other_conditions(where, config)
    with _named_failure(where):
        # Loading straight into float32 parameters, because diffusers warns about a later cast.
        denoiser, found = getattr(diffusers, name).from_pretrained(
            where,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    _refuse_missing(where, found)
    return denoiser.eval()


def load_scheduler(folder: Path) -> Any:
    """The scheduler that the model was trained with, as its own class; its alphas are the only ones used."""
    import diffusers

    where = folder / "scheduler"
    if not (where / "scheduler_config.json").is_file():
        raise ModelError(f"{where}/scheduler_config.json is missing; save the training scheduler beside the model")
    name = read_config(where, "a scheduler", "scheduler_config.json").get("_class_name", "DDPMScheduler")
    scheduler: Any = getattr(diffusers, str(name), None)
    known = isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)
    loaded = None
    if known:
        with _named_failure(where):
            loaded = scheduler.from_pretrained(where, local_files_only=True)
    if getattr(loaded, "alphas_cumprod", None) is None:
        raise ModelError(
            f"{where}: scheduler {name} has no alphas_cumprod; supported are DDPM-type ones (DDPM, DDIM, PNDM ...)"
        )
    return loaded


def load_codec(folder: Path) -> Codec:
    """The way between pictures and the space of the denoiser: `vae/`, or pixels themselves where there is none."""
    where = folder / "vae"
    if not where.is_dir():
        return PixelCodec()
    config = read_config(where, "an autoencoder")
    name = config.get("_class_name")
    if name == "SpaceToDepth":
        factor = config.get("factor")
        if not isinstance(factor, int) or factor < 1:
            raise ModelError(f"{where}/config.json: factor is {factor!r}; it must be the side of the pixel squares")
        return SpaceToDepthCodec(factor)
    if name != "AutoencoderKL":
        raise ModelError(f"{where} holds a {name}; supported are AutoencoderKL and SpaceToDepth")
    from diffusers import AutoencoderKL

    with _named_failure(where):
        vae, found = AutoencoderKL.from_pretrained(
            where,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    _refuse_missing(where, found)
    return VaeCodec(vae)


def load_conditioner(folder: Path, denoiser: Any) -> Conditioner:
    """What tells the denoiser about a picture: nothing or a class for UNet2DModel, otherwise tokenizer and encoder."""
    classes = getattr(denoiser.config, "num_class_embeds", None)
    if type(denoiser).__name__ == "UNet2DModel":
        return ByClass(int(classes)) if classes else Unconditional()
    for part in ("tokenizer", "text_encoder"):
        if not (folder / part).is_dir():
            raise ModelError(f"{folder} has no {part}/; a text-conditional model needs tokenizer/ and text_encoder/")
    from transformers import AutoTokenizer, CLIPTextModel

    with _named_failure(folder / "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    where = folder / "text_encoder"
    read_config(where, "a text encoder")
    with _named_failure(where):
        text_encoder, found = CLIPTextModel.from_pretrained(
            where, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    _refuse_missing(where, found)
    if text_encoder.config.hidden_size != denoiser.config.cross_attention_dim:
        raise ModelError(
            f"{where} gives states of width {text_encoder.config.hidden_size}, and the denoiser reads "
            f"{denoiser.config.cross_attention_dim}; put the denoiser beside the text encoder it was trained with"
        )
    return ByCaption(tokenizer, text_encoder.eval().requires_grad_(False))


def read_config(folder: Path, what: str, name: str = "config.json") -> dict[str, Any]:
    """The settings in a model's JSON file; `what` says in the error what the folder should have been."""
    remedy = f"{folder} is not {what}: give the directory that save_pretrained wrote, or save the model again"
    values = read_json(folder / name, ModelError, remedy)
    if not isinstance(values, dict):
        raise ModelError(f"{folder / name} is not a JSON object; {remedy}")
    return values


def _denoiser_folder(folder: Path) -> Path:
    return folder / "unet" if (folder / "unet").is_dir() else folder


@contextmanager
def _named_failure(where: Path) -> Iterator[None]:
    """Turn what a library raises at a damaged or foreign part into a ModelError that names the part."""
    try:
        yield
    except Exception as broken:  # OSError, ValueError, KeyError, and safetensors' and tokenizers' own kinds
        lines = str(broken).strip().splitlines() or [type(broken).__name__]
        raise ModelError(f"{where} cannot be loaded: {lines[0]}; save the model again as safetensors") from None


def _refuse_missing(where: Path, found: dict[str, Any]) -> None:
    """The libraries fill weights that a file lacks with random numbers and a warning: here that is an error."""
    for problem in ("missing_keys", "mismatched_keys"):
        names = sorted(str(name) for name in found.get(problem) or ())
        if names:
            raise ModelError(
                f"{where}: its safetensors lack {len(names)} weights of the configuration's shape, first {names[0]}; "
                "save the model again together with its config.json"
            )


def _refuse_other_conditions(where: Path, config: dict[str, Any]) -> None:
    """Denoisers that want more than a class (UNet2DModel) or text states (UNet2DConditionModel)."""
    refused = ["class_embed_type", "addition_embed_type", "encoder_hid_dim_type"]
    if config["_class_name"] == "UNet2DConditionModel":
        refused.append("num_class_embeds")
    for name in refused:
        if config.get(name) is not None:
            raise ModelError(
                f"{where} is conditioned by {name} = {config[name]}; supported are class numbers (UNet2DModel) "
                "and the states of one text encoder (UNet2DConditionModel)"
            )
