"""Opens diffusers directories: safetensors only, no network, no code from the checkpoint."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from forebear.diffusion.codec import Codec, PixelCodec, SpaceToDepthCodec, VaeCodec
from forebear.diffusion.conditioning import (
    ByCaption,
    ByClass,
    ByJointText,
    Conditioner,
    TextReader,
    Unconditional,
    numbered,
)
from forebear.diffusion.process import FLOW_SCHEDULER, unsupported_scheduler
from forebear.errors import ModelError
from forebear.files import read_json

LORA_FILE = "pytorch_lora_weights.safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
DENOISERS = {
    "UNet2DModel": "unet",
    "UNet2DConditionModel": "unet",
    "DiTTransformer2DModel": "transformer",
    "SD3Transformer2DModel": "transformer",
}
"""diffusers' classes that open, and the folder that each has in a pipeline's directory."""


def refuse_pickle(folder: Path) -> None:
    """Raise ModelError when a part that would be loaded has pickle weights and no safetensors beside them."""
    if folder.is_file():
        if folder.suffix.lower() in PICKLE_SUFFIXES:
            raise ModelError(_pickle_message(folder))
        raise ModelError(f"{folder} is a file; give the directory of a diffusers model")
    lora = folder / LORA_FILE
    if lora.with_suffix(".bin").is_file() and not lora.is_file():
        raise ModelError(_pickle_message(lora.with_suffix(".bin")))
    text_encoders = [folder / numbered("text_encoder", place) for place in range(3)]
    for part in (_denoiser_folder(folder), folder / "vae", *text_encoders):
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


def import_libraries() -> None:
    """Import what every model needs, which takes seconds; opening a model does so by itself."""
    collecting = gc.isenabled()
    gc.disable()  # collecting garbage in between would add a fifth to the time, and find none
    try:
        import transformers.utils  # noqa: F401
        from diffusers import SchedulerMixin, UNet2DModel  # noqa: F401 - with them, all that denoisers share
    finally:
        if collecting:
            gc.enable()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep diffusers and transformers from drawing bars of their own; what was set before is put back."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = of_diffusers.is_progress_bar_enabled()
    # Transformers' own switch would also be that of the hub, and older versions, which draw fewer bars, lack the hook.
    hook = getattr(of_transformers, "set_tqdm_hook", lambda hook: hook)
    before = hook(lambda _, arguments, options: of_transformers.EmptyTqdm(*arguments, **options))
    of_diffusers.disable_progress_bar()
    try:
        yield
    finally:
        hook(before)
        if shown:
            of_diffusers.enable_progress_bar()


def denoiser_part(denoiser: Any) -> str:
    """The folder of a denoiser in a pipeline's directory: `unet` or `transformer`."""
    return DENOISERS.get(type(denoiser).__name__, "unet")


def load_denoiser(folder: Path) -> Any:
    """The denoiser of a model directory, or of its `unet/` or `transformer/`, in float32 evaluation mode."""
    import diffusers

    where = _denoiser_folder(folder)
    config = read_config(where, "a diffusers model")
    name = config.get("_class_name")
    if name not in DENOISERS:
        raise ModelError(f"{where} holds a {name}; supported denoisers are {', '.join(DENOISERS)}")
    _refuse_other_conditions(where, config)
    with named_failure(where):
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
    """The scheduler that the model was trained with, as its own class; its noise levels are the only ones used."""
    import diffusers

    where = folder / "scheduler"
    if not (where / "scheduler_config.json").is_file():
        raise ModelError(f"{where}/scheduler_config.json is missing; save the training scheduler beside the model")
    name = read_config(where, "a scheduler", "scheduler_config.json").get("_class_name", "DDPMScheduler")
    scheduler: Any = getattr(diffusers, str(name), None)
    known = isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)
    loaded = None
    if known:
        with named_failure(where):
            loaded = scheduler.from_pretrained(where, local_files_only=True)
    if name != FLOW_SCHEDULER and getattr(loaded, "alphas_cumprod", None) is None:
        raise ModelError(f"{where}: {unsupported_scheduler(name)}")
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

    with named_failure(where):
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
    """What tells the denoiser about a picture: nothing, a class, or a caption, as its kind wants it.

    Raises ModelError when a part that it needs is missing or of another width than the denoiser reads.
    """
    config = denoiser.config
    match type(denoiser).__name__:
        case "UNet2DModel":
            return ByClass(int(config.num_class_embeds)) if config.num_class_embeds else Unconditional()
        case "DiTTransformer2DModel":
            # The last of its embeddings stands for labels that training dropped.
            return ByClass(config.num_embeds_ada_norm, guidance_class=config.num_embeds_ada_norm)
        case "SD3Transformer2DModel":
            return _load_joint_text(folder, config)
    text = _load_reader(folder, 0, "CLIPTextModel")
    _refuse_widths(folder / "text_encoder", text.encoder.config.hidden_size, config.cross_attention_dim)
    return ByCaption(text.tokenizer, text.encoder)


def _load_joint_text(folder: Path, config: Any) -> ByJointText:
    """The two or three text encoders of Stable Diffusion 3; a directory without the third gives zeros for it."""
    first, second = (_load_reader(folder, place, "CLIPTextModelWithProjection") for place in range(2))
    both = [first.encoder.config, second.encoder.config]
    where = folder / "text_encoder_2"
    _refuse_widths(
        where, sum(c.projection_dim for c in both), config.pooled_projection_dim, "with text_encoder, pooled"
    )
    if sum(c.hidden_size for c in both) > config.joint_attention_dim:
        _refuse_widths(where, sum(c.hidden_size for c in both), config.joint_attention_dim, "with text_encoder,")
    third = None
    if (folder / "text_encoder_3").is_dir():
        third = _load_reader(folder, 2, "T5EncoderModel")
        _refuse_widths(folder / "text_encoder_3", third.encoder.config.d_model, config.joint_attention_dim)
    return ByJointText((first, second), third, config.joint_attention_dim)


def _load_reader(folder: Path, place: int, encoder: str) -> TextReader:
    """The tokenizer and text encoder at a place, the encoder of transformers' class `encoder`, in float32."""
    import transformers

    tokens, where = (folder / numbered(part, place) for part in ("tokenizer", "text_encoder"))
    for part in (tokens, where):
        if not part.is_dir():
            raise ModelError(
                f"{folder} has no {part.name}/; a text-conditional model needs {tokens.name}/ and {where.name}/"
            )
    with named_failure(tokens):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokens, local_files_only=True)
    read_config(where, "a text encoder")
    with named_failure(where):
        text_encoder, found = getattr(transformers, encoder).from_pretrained(
            where, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    _refuse_missing(where, found)
    return TextReader(tokenizer, text_encoder.eval().requires_grad_(False))


def _refuse_widths(where: Path, given: int, read: int, what: str = "") -> None:
    if given != read:
        raise ModelError(
            f"{where} gives {what}{' ' if what else ''}states of width {given}, and the denoiser reads {read}; put the "
            "denoiser beside the text encoder it was trained with"
        )


def read_config(folder: Path, what: str, name: str = "config.json") -> dict[str, Any]:
    """The settings in a model's JSON file; `what` says in the error what the folder should have been."""
    remedy = f"{folder} is not {what}: give the directory that save_pretrained wrote, or save the model again"
    values = read_json(folder / name, ModelError, remedy)
    if not isinstance(values, dict):
        raise ModelError(f"{folder / name} is not a JSON object; {remedy}")
    return values


def _denoiser_folder(folder: Path) -> Path:
    parts = (folder / part for part in dict.fromkeys(DENOISERS.values()))
    return next((part for part in parts if part.is_dir()), folder)


@contextmanager
def named_failure(where: Path, remedy: str = "save the model again as safetensors") -> Iterator[None]:
    """Turn what a library raises at a damaged or foreign part into a ModelError that names the part."""
    try:
        yield
    except Exception as broken:  # OSError, ValueError, KeyError, and safetensors' and tokenizers' own kinds
        lines = str(broken).strip().splitlines() or [type(broken).__name__]
        raise ModelError(f"{where} cannot be loaded: {lines[0]}; {remedy}") from None


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
    """UNets that want more than a class (UNet2DModel) or text states (UNet2DConditionModel)."""
    refused = ["class_embed_type", "addition_embed_type", "encoder_hid_dim_type"]
    if config["_class_name"] == "UNet2DConditionModel":
        refused.append("num_class_embeds")
    for name in refused:
        if config.get(name) is not None:
            raise ModelError(
                f"{where} is conditioned by {name} = {config[name]}; supported are class numbers (UNet2DModel) "
                "and the states of one text encoder (UNet2DConditionModel)"
            )
