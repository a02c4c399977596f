"""New models from a configuration: the denoiser, its scheduler, codec and text parts, in a diffusers directory."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass

from forebear.config import STRICT
from forebear.diffusion.codec import PixelCodec, SpaceToDepthCodec, VaeCodec
from forebear.diffusion.conditioning import ByCaption, ByClass, Conditioner, Unconditional
from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError, ModelError
from forebear.files import write_json


@dataclass(frozen=True, config=STRICT)
class TextConfig:
    """A small CLIP-type text transformer over whole words, trained together with the denoiser."""

    width: int = 128
    """Size of the text states; the denoiser's `cross_attention_dim`."""
    layers: int = 2
    """Transformer blocks."""
    heads: int = 4
    """Attention heads of each."""
    max_tokens: int = 16
    """Longer captions are cut."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """Architecture of a new model."""

    conditioning: Literal["none", "class", "text"] = "none"
    """What the model is told beside the noisy picture: nothing, a class label, or a caption."""
    image_size: int = 32
    """Side of the square pictures, in pixels."""
    channels: int = 3
    """1 for grey, 3 for colour."""
    space_to_depth: int = 1
    """Side of the pixel squares that become one position of the denoiser; 1 denoises pixels themselves."""
    unet: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of diffusers' UNet2DModel (none, class) or UNet2DConditionModel (text).

    Training keeps the modules in evaluation mode, so that a recorded event can be replayed: a dropout has no effect.
    """
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of diffusers' DDPMScheduler, for example prediction_type and beta_schedule."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text part of a text-conditional model."""


def build_model(config: ModelConfig, captions: Sequence[str], classes: int, seed: int) -> DiffusionModel:
    """A randomly initialised model; the same seed and configuration give the same weights.

    `captions` of the training set decide the vocabulary, `classes` the number of class embeddings.
    Raises ConfigError when diffusers refuses the arguments.
    """
    from diffusers import DDPMScheduler, UNet2DConditionModel, UNet2DModel

    if config.image_size % config.space_to_depth:
        raise ConfigError(f"image_size {config.image_size} is not a multiple of space_to_depth {config.space_to_depth}")
    width = config.channels * config.space_to_depth**2
    shared = {
        "sample_size": config.image_size // config.space_to_depth,
        "in_channels": width,
        "out_channels": width,
        **_lists_to_tuples(config.unet),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        conditioner = _conditioner(config, captions, classes)
        try:
            scheduler = DDPMScheduler(**config.scheduler)
            if config.conditioning == "text":
                denoiser = UNet2DConditionModel(cross_attention_dim=config.text.width, **shared)
            else:
                denoiser = UNet2DModel(num_class_embeds=classes if config.conditioning == "class" else None, **shared)
        except (TypeError, ValueError, NotImplementedError) as refused:
            raise ConfigError(f"model: diffusers refuses these arguments: {refused}") from None
    codec = SpaceToDepthCodec(config.space_to_depth) if config.space_to_depth > 1 else PixelCodec()
    return DiffusionModel(denoiser.eval(), scheduler, codec, conditioner)


def save_model(model: DiffusionModel, folder: Path) -> None:
    """Write a diffusers directory that `DiffusionModel.load` reads: each part's settings and safetensors weights.

    Raises ModelError for a model with LoRA weights.
    """
    if hasattr(model.denoiser, "peft_config"):
        raise ModelError("a model with LoRA weights is not saved again; copy the directory that it was loaded from")
    index: dict[str, Any] = {"_class_name": "DiffusionPipeline"}
    weighted: dict[str, Any] = {**model.trained_parts()}
    for name, part in weighted.items():
        part.save_pretrained(folder / name, safe_serialization=True)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    for name, part in {"scheduler": model.scheduler, **model.conditioner.tokenizers()}.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    if isinstance(model.codec, SpaceToDepthCodec):
        (folder / "vae").mkdir(exist_ok=True)
        write_json(folder / "vae" / "config.json", {"_class_name": "SpaceToDepth", "factor": model.codec.factor})
        index["vae"] = ["forebear.diffusion.codec", "SpaceToDepthCodec"]
    if isinstance(model.codec, VaeCodec):
        model.codec.vae.save_pretrained(folder / "vae", safe_serialization=True)
        index["vae"] = ["diffusers", type(model.codec.vae).__name__]
    write_json(folder / "model_index.json", index)


def _conditioner(config: ModelConfig, captions: Sequence[str], classes: int) -> Conditioner:
    if config.conditioning == "class":
        if not classes:
            raise ConfigError("conditioning is `class`, but the training set has no labels; name a label column")
        return ByClass(classes)
    if config.conditioning == "none":
        return Unconditional()
    if not any(captions):
        raise ConfigError("conditioning is `text`, but the training set has no captions; name a caption column")
    return _text_conditioner(config.text, captions)


def _text_conditioner(config: TextConfig, captions: Sequence[str]) -> ByCaption:
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = word_tokenizer(captions, config.max_tokens)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            projection_dim=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return ByCaption(tokenizer, encoder.eval().requires_grad_(False))


def word_tokenizer(captions: Sequence[str], max_tokens: int) -> Any:
    """A tokenizer of whole lower-case words, with every word of the captions in its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<start>", "<end>", "<unknown>"]
    normaliser = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Whitespace()
    # The tokenizer's own steps find the words, so that it knows every one of them again.
    found = {word for text in captions for word, _ in splitter.pre_tokenize_str(normaliser.normalize_str(text))}
    vocabulary = {word: number for number, word in enumerate([*special, *sorted(found)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    words.normalizer = normaliser
    words.pre_tokenizer = splitter
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=max_tokens,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unknown>",
    )


def _lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """YAML knows lists only; diffusers wants tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
