"""A tiny latent model in Stable Diffusion's layout: random weights, a LoRA, and settings that embed the LoRA alone.

    .venv/bin/python tests/bench/latent_lora.py runs/latent-lora [SOURCE]
    .venv/bin/forebear doctor --model runs/latent-lora/model --data openmoji --config runs/latent-lora/embed.yaml

What the doctor says of it is in docs/doctor-examples.md.
"""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from peft import LoraConfig

from forebear.data import DataConfig, open_training_set
from forebear.diffusion.building import ModelConfig, TextConfig, build_model, save_model
from forebear.diffusion.codec import VaeCodec
from forebear.diffusion.model import DiffusionModel

LATENTS = ModelConfig(
    conditioning="text",
    image_size=16,
    channels=1,  # grey, in squares of 2 x 2 pixels: as many channels as the latents of a VAE that halves the sides
    space_to_depth=2,
    unet={
        "block_out_channels": [16, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    },
    scheduler={"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    text=TextConfig(width=16, layers=2, heads=4, max_tokens=16),
)
LORA = LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"])


def make(folder: Path, source: str = "openmoji") -> None:
    """Write `model/`, a diffusers directory that knows the words of the captions of `source`, and `embed.yaml`."""
    captions = [sample.caption for sample in open_training_set(DataConfig(source)).samples]
    plain = build_model(LATENTS, captions, classes=0, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(4, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )
        save_model(DiffusionModel(plain.denoiser, plain.scheduler, VaeCodec(vae), plain.conditioner), folder / "model")
        plain.denoiser.add_adapter(LORA)
        for name, parameter in plain.denoiser.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # peft starts one half at zero, as if nothing were learned
    plain.denoiser.save_lora_adapter(folder / "model")
    (folder / "embed.yaml").write_text('parameters: ["*lora_*"]\n', encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]), *sys.argv[2:])
