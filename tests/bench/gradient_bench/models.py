"""The two UNets of the benchmark, really trained, and the batches that they are measured on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.diffusion.building import ModelConfig
from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import SHARED, draw_noise
from forebear.diffusion.training import TrainConfig, TrainingConfig, train
from forebear.errors import ForebearError
from forebear.randomness import keyed_integers, keyed_permutation
from forebear.run import Run

IMAGE_SIZE = 32


@dataclass(frozen=True)
class Architecture:
    """A UNet and how long it is trained."""

    unet: Mapping[str, Any]
    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int


S = Architecture(
    unet={
        "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 8,  # 32 groups of one channel each would make some time-embedding gradients exactly zero
    },
    steps=320,
    batch_size=32,
    learning_rate=1e-3,
    warmup_steps=30,
)
M = Architecture(
    unet={
        "block_out_channels": [128, 256, 256, 256],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
    },
    steps=40,
    batch_size=4,
    learning_rate=2e-4,
    warmup_steps=10,
)
TINY = Architecture(
    unet={
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    steps=4,
    batch_size=4,
    learning_rate=1e-3,
    warmup_steps=1,
)
"""Stands in for both in a quick run, which shows that the benchmark works and measures nothing worth quoting."""


def trained(architecture: Architecture, folder: Path, source: str) -> Path:
    """The diffusers folder of the model trained on `source`, which a second call finds in `folder`."""
    found = len(open_training_set(DataConfig(source)))
    limit = min(found, architecture.steps * architecture.batch_size)
    steps_per_epoch = ceil(limit / architecture.batch_size)
    config = TrainConfig(
        data=DataConfig(source, limit=limit),
        model=ModelConfig(image_size=IMAGE_SIZE, unet=architecture.unet),
        training=TrainingConfig(
            epochs=max(1, round(architecture.steps / steps_per_epoch)),
            batch_size=architecture.batch_size,
            learning_rate=architecture.learning_rate,
            warmup_steps=architecture.warmup_steps,
            checkpoint_epochs=(),
            ema_decay=0.0,
        ),
    )
    run = Run(folder)
    if not train(run, config):
        raise ForebearError("training was stopped; the same command goes on with it")
    return run.model_folder


@dataclass(frozen=True)
class Batch:
    """B rows of (picture, timestep, noise) under one model."""

    model: DiffusionModel
    x0: Tensor
    timesteps: Tensor
    noise: Tensor

    @property
    def condition(self) -> Condition:
        return self.model.condition([""] * len(self.x0), [None] * len(self.x0))

    def part(self, rows: slice) -> "Batch":
        return Batch(self.model, self.x0[rows], self.timesteps[rows], self.noise[rows])

    def losses(self) -> Tensor:
        """float32[B]."""
        return self.model.per_sample_loss(self.x0, self.timesteps, self.noise, self.condition)


def chosen_pictures(training_set: TrainingSet, count: int) -> Tensor:
    """Pictures of `count` training images chosen by key, float32[count, 3, IMAGE_SIZE, IMAGE_SIZE]."""
    rows = keyed_permutation(len(training_set), "gradient benchmark")[:count].tolist()
    return torch.from_numpy(training_set.pixels(rows, IMAGE_SIZE))


def timing_batch(model: DiffusionModel, pictures: Tensor) -> Batch:
    """The pictures at timesteps and noises of their own, as in training."""
    count = len(pictures)
    timesteps = keyed_integers(model.total_timesteps, (count,), "gradient benchmark", "timesteps")
    owners = [str(number) for number in range(count)]
    noise = draw_noise(model.x0_shape, 0, owners, timesteps.tolist(), [0] * count)
    return Batch(model, pictures, torch.from_numpy(timesteps.astype(np.int64)), noise)


def timestep_batch(model: DiffusionModel, pictures: Tensor, timestep: int, *, shared: bool) -> Batch:
    """The pictures at one timestep, under one noise for all or each under its own."""
    count = len(pictures)
    owners = [SHARED if shared else str(number) for number in range(count)]
    noise = draw_noise(model.x0_shape, 0, owners, [timestep] * count, [0] * count)
    return Batch(model, pictures, torch.full((count,), timestep), noise)


def one_thread() -> None:
    """Keep torch on one thread in this process and its children."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
