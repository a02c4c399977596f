"""Tiny models of every kind that Forebear opens, as diffusers itself would save them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from forebear.data import DataConfig
from forebear.diffusion.building import ModelConfig, build_model, word_tokenizer
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.training import TrainConfig, TrainingConfig, train
from forebear.run import Run

UNET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
TEXT_UNET = UNET | {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 4,
}
CAPTIONS = ("a red heart", "the cat's face", "flag of France", "a green apple")


def tiny_config(conditioning: str = "none", **options: Any) -> ModelConfig:
    """An 8 x 8 model of two levels; `options` replace fields of ModelConfig."""
    unet = (TEXT_UNET if conditioning == "text" else UNET) | options.pop("unet", {})
    text = {"width": 8, "layers": 1, "heads": 2, "max_tokens": 8}
    values = {"conditioning": conditioning, "image_size": 8, "unet": unet, "text": text} | options
    return ModelConfig(**values)


@pytest.fixture(scope="session")
def build() -> Callable[..., DiffusionModel]:
    """Builds a random tiny model: conditioning, and fields of ModelConfig."""

    def make(
        conditioning: str = "none", seed: int = 0, captions: Sequence[str] = CAPTIONS, **options: Any
    ) -> DiffusionModel:
        model = build_model(tiny_config(conditioning, **options), captions, 3, seed)
        with torch.no_grad():  # diffusers starts some layers at zero, under which much could hide
            generator = torch.Generator().manual_seed(seed)
            for part in model.trained_parts().values():
                for parameter in part.parameters():
                    if not parameter.any():
                        parameter.normal_(0.0, 0.1, generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in Stable Diffusion's layout: CLIP tokenizer and text model, VAE, UNet and PNDM scheduler."""
    from diffusers import PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("stable-diffusion")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = tiny_vae()
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            cross_attention_dim=8,
            **{name: tuple(v) if isinstance(v, list) else v for name, v in TEXT_UNET.items()},
        )
        tokens = write_clip_tokenizer(folder / "tokenizer")
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=tokens,
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=12,
                bos_token_id=tokens - 2,
                eos_token_id=tokens - 1,
                pad_token_id=tokens - 1,
            )
        )
    # As in the published models: no clip_sample and no prediction_type.
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True)
    for part, module in {"vae": vae, "unet": unet, "text_encoder": text, "scheduler": scheduler}.items():
        module.save_pretrained(folder / part)
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    del config["prediction_type"]
    path.write_text(json.dumps(config))
    return folder


def tiny_vae(**options: Any) -> Any:
    """A VAE that halves the sides."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def save_pipeline(folder: Path, parts: dict[str, Any]) -> None:
    """Save each part in its folder, with small random numbers in place of the zeros that would hide errors."""
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            with torch.no_grad():
                for parameter in part.parameters():
                    if not parameter.any():
                        parameter.normal_(0.0, 0.1)
        part.save_pretrained(folder / name)


@pytest.fixture(scope="session")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DiT of 1000 classes and a class of guidance, in DiTPipeline's layout."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    folder = tmp_path_factory.mktemp("dit")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=8,
            num_embeds_ada_norm=1000,
            attention_bias=True,
        )
        scheduler = DDIMScheduler(clip_sample=False)
        save_pipeline(folder, {"transformer": transformer, "vae": tiny_vae(), "scheduler": scheduler})
    return folder


@pytest.fixture(scope="session")
def stable_diffusion_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in Stable Diffusion 3's layout, all three text encoders with it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("stable-diffusion-3")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        tokens = write_clip_tokenizer(folder / "tokenizer")
        write_clip_tokenizer(folder / "tokenizer_2")
        clips = [
            CLIPTextModelWithProjection(
                CLIPTextConfig(
                    vocab_size=tokens,
                    hidden_size=width,
                    intermediate_size=16,
                    projection_dim=width,
                    num_hidden_layers=3,
                    num_attention_heads=2,
                    max_position_embeddings=12,
                    hidden_act=act,
                    bos_token_id=tokens - 2,
                    eos_token_id=tokens - 1,
                    pad_token_id=tokens - 1,
                )
            )
            for width, act in ((8, "quick_gelu"), (12, "gelu"))
        ]
        words = word_tokenizer(CAPTIONS, 256)
        words.save_pretrained(folder / "tokenizer_3")
        t5 = T5Config(
            vocab_size=len(words),
            d_model=32,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
        transformer = SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=20,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        parts = {
            "transformer": transformer,
            "vae": tiny_vae(scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
            "text_encoder": clips[0],
            "text_encoder_2": clips[1],
            "text_encoder_3": T5EncoderModel(t5),
        }
        save_pipeline(folder, parts)
    return folder


def write_clip_tokenizer(folder: Path) -> int:
    """A byte-pair tokenizer of single letters in CLIP's two files; returns the size of its vocabulary."""
    folder.mkdir()
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 12,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def _train_config(conditioning: str = "none", **settings: Any) -> TrainConfig:
    chosen = {"epochs": 4, "batch_size": 8, "warmup_steps": 2, "checkpoint_epochs": (1, 3)} | settings
    model = tiny_config(conditioning, channels=1)
    return TrainConfig(DataConfig("digits", limit=20), model, TrainingConfig(**chosen))


@pytest.fixture(scope="session")
def train_config() -> Callable[..., TrainConfig]:
    """Configures a short training on 20 digits in batches of 8, 8 and 4: conditioning, and fields of TrainingConfig."""
    return _train_config


@pytest.fixture(scope="session")
def text_config() -> TrainConfig:
    return _train_config("text", flip=True, caption_dropout=0.3)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, text_config: TrainConfig) -> Run:
    """A text model trained for 4 epochs, with checkpoints after 1, 3 and 4; tests leave it as it is."""
    run = Run(tmp_path_factory.mktemp("trained"))
    assert train(run, text_config)
    return run


@pytest.fixture(scope="session")
def run_files() -> Callable[[Run], dict[str, bytes]]:
    """Reads everything that a run leaves on disk, by name."""

    def read(run: Run) -> dict[str, bytes]:
        return {str(p.relative_to(run.folder)): p.read_bytes() for p in sorted(run.folder.rglob("*")) if p.is_file()}

    return read
