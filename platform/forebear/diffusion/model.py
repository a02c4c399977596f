"""One adapter over diffusers checkpoints: per-sample loss and prediction for (sample, timestep, noise)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forebear.diffusion.codec import Codec, VaeCodec
from forebear.diffusion.conditioning import Condition, Conditioner
from forebear.diffusion.loading import (
    denoiser_part,
    import_libraries,
    load_codec,
    load_conditioner,
    load_denoiser,
    load_scheduler,
    refuse_pickle,
    without_progress_bars,
)
from forebear.diffusion.lora import load_lora
from forebear.diffusion.measurement import Loss, Measurement
from forebear.diffusion.process import noise_process
from forebear.errors import ModelError


class DiffusionModel:
    """A denoiser with its scheduler, codec and conditioner.

    The per-sample loss is the mean over the sample's elements of the squared (or absolute) error of the model's own
    prediction type, and a batch is always the list of its samples' losses, never their mean: scale does not depend on
    the batch.
    """

    def __init__(self, denoiser: Any, scheduler: Any, codec: Codec, conditioner: Conditioner) -> None:
        self.denoiser: nn.Module = denoiser
        self.scheduler, self.codec, self.conditioner = scheduler, codec, conditioner
        self.process = noise_process(scheduler)
        self.prediction_type, self.total_timesteps = self.process.prediction_type, self.process.total_timesteps
        side = _square_side(denoiser.config.sample_size)
        self.x0_shape: tuple[int, int, int] = (int(denoiser.config.in_channels), side, side)
        self.image_size = side * codec.factor
        self._check_channels()

    @classmethod
    def load(cls, folder: Path | str) -> "DiffusionModel":
        """Open a diffusers directory in float32 evaluation mode; raises ModelError with the remedy when it cannot."""
        folder = Path(folder)
        if not folder.exists():
            raise ModelError(f"{folder} does not exist; give the directory of a diffusers model")
        refuse_pickle(folder)
        import_libraries()
        with without_progress_bars():
            denoiser = load_denoiser(folder)
            load_lora(folder, denoiser)
            return cls(denoiser, load_scheduler(folder), load_codec(folder), load_conditioner(folder, denoiser))

    @property
    def image_channels(self) -> int:
        """1 for a model of grey pictures, 3 for one of colour."""
        return self.codec.image_channels(self.x0_shape[0])

    def _check_channels(self) -> None:
        config: Any = self.denoiser.config
        width = self.x0_shape[0]
        predicted = config.out_channels or width  # a DiT without the setting predicts as many as it reads
        if predicted not in (width, 2 * width):
            raise ModelError(
                f"the denoiser reads {width} channels and predicts {predicted}; supported are models that "
                "predict as many as they read, or twice as many with a variance (inpainting models are not)"
            )
        if isinstance(self.codec, VaeCodec) and self.codec.vae.config.latent_channels != width:
            raise ModelError(
                f"the denoiser reads {width} channels and the VAE gives {self.codec.vae.config.latent_channels}; "
                "put the denoiser beside the VAE that it was trained with"
            )
        if self.image_channels not in (1, 3):
            raise ModelError(
                f"pictures of {self.image_channels} channels are not supported, only grey (1) and colour (3)"
            )

    def trained_parts(self) -> dict[str, nn.Module]:
        """The modules that training may change, by the name of their folder and of their file in a checkpoint."""
        return {denoiser_part(self.denoiser): self.denoiser, **self.conditioner.encoders()}

    def schedule(self) -> NDArray[np.float32]:
        """float32[total_timesteps]: cumulative alphas, or the sigmas of a flow; it identifies the noise levels."""
        return self.process.schedule()

    def condition(self, captions: Sequence[str], labels: Sequence[int | None]) -> Condition:
        """The condition of B pictures, without gradients."""
        with torch.no_grad():
            return self.conditioner.encode(captions, labels)

    def noised(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """x_t, float[B, c, h, w], as the model's noise process makes it; timesteps int64[B]."""
        return self.process.noised(x0, timesteps, noise)

    def target(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """What the model is trained to predict, float[B, c, h, w]: noise, x0, a velocity, or a flow's noise - x0."""
        return self.process.target(x0, timesteps, noise)

    def predict(self, noised: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output, float[B, c, h, w]; timesteps int64[B]."""
        return self.denoise(noised, self.process.times(timesteps), condition)

    def denoise(self, noised: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output, float[B, c, h, w], for times [B] as the process tells them to it."""
        output: Tensor = self.denoiser(noised, timestep=times, **condition.arguments()).sample
        # Some denoisers (DiT) also predict a variance; the loss is on the first half.
        return output[:, : self.x0_shape[0]]

    def per_sample_loss(
        self, x0: Tensor, timesteps: Tensor, noise: Tensor, condition: Condition, loss: Loss = "mse"
    ) -> Tensor:
        """Loss of each of B (sample, timestep, noise): float32[B], the mean over the sample's own elements."""
        return self.measured("loss", x0, timesteps, noise, condition, loss)[0]

    def measured(
        self,
        measurement: Measurement,
        x0: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        condition: Condition,
        loss: Loss = "mse",
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A measurement of each of B (sample, timestep, noise), and their losses without gradients: two float32[B].

        Both are means over all of the sample's elements, each times its place in `mask`, float[h, w]: the measurements
        under a mask and under its complement add up to the one without.
        """
        predicted = self.predict(self.noised(x0, timesteps, noise), timesteps, condition).float()
        error = predicted - self.target(x0, timesteps, noise)
        losses = _mean(error.square() if loss == "mse" else error.abs(), mask)
        if measurement == "loss":
            return losses, losses.detach()
        elements = predicted.square() if measurement == "square" else predicted
        return _mean(elements, mask), losses.detach()


def _mean(elements: Tensor, mask: Tensor | None) -> Tensor:
    """float[B, c, h, w] to the mean of each sample, [B], weighted by `mask` [h, w]."""
    return (elements if mask is None else elements * mask).flatten(1).mean(1)


def _square_side(size: Any) -> int:
    """The side of a square `sample_size`, which diffusers writes as one number or two."""
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    if not all(isinstance(side, int) and side == sides[0] for side in sides):
        raise ModelError(f"the denoiser's sample_size is {size}; set it to the side of square pictures in config.json")
    return int(sides[0])


def put_channels_last(module: nn.Module) -> None:
    """Lay the weights of convolutions out with their channels side by side, as a CPU multiplies them fastest.

    The numbers stay the same; what is computed with them may differ by rounding.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)


def weights_fingerprint(parts: dict[str, nn.Module]) -> str:
    """32 hexadecimal digits over the modules' parameters and buffers (names, shapes, dtypes, bytes) and LoRA scales."""
    digest = hashlib.blake2b(digest_size=16)
    for part in sorted(parts):
        for name, tensor in sorted(parts[part].state_dict().items()):
            digest.update(f"{part}.{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, module in parts[part].named_modules():
            scaling = getattr(module, "scaling", None)
            if isinstance(scaling, dict):  # of peft's adapters, by their names; it is in no tensor
                digest.update(f"{part}.{name}:scaling:{sorted(scaling.items())}".encode())
    return digest.hexdigest()
