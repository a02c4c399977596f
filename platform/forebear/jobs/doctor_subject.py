"""What the doctor examines: a model, some of its own pictures, and the noises that it is measured with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from forebear.config import parse
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.diffusion.checkpoint import attributed_checkpoints, load_checkpoint
from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import SHARED, draw_noise, stratified_timesteps
from forebear.diffusion.pictures import Pictures
from forebear.errors import ConfigError, ModelError
from forebear.gradients.diagnosis import Measure
from forebear.jobs.doctor_costs import now
from forebear.jobs.embed_config import EmbedConfig
from forebear.randomness import keyed_permutation
from forebear.run import Run


@dataclass(frozen=True)
class Subject:
    """A model and N of its pictures, clean, in the model's space."""

    model: DiffusionModel
    x0: Tensor
    """float32[N, c, h, w]."""
    condition: Condition
    owners: tuple[str, ...]
    """[N]: whose noise a picture meets, as in an embedding."""
    timesteps: tuple[int, ...]
    config: EmbedConfig
    read_seconds: float
    """Of processor time on a CPU, to read and encode one picture."""

    def __len__(self) -> int:
        return len(self.owners)

    @classmethod
    def of_run(
        cls, run: Run, config: EmbedConfig, samples: int, timesteps: int, checkpoint: str | None = None
    ) -> "Subject":
        """The training set of a run, and its model at one of its checkpoints, the last unless it is named.

        Raises ConfigError when there is no such checkpoint or no data, ModelError when there is no model.
        """
        data = parse(DataConfig, run.section("data"), str(run.settings_file))
        if not run.model_folder.is_dir():
            raise ModelError(f"{run.folder} has no model yet; finish `forebear train`, or give --model and --data")
        if checkpoint is None:
            return cls.of(DiffusionModel.load(run.model_folder), data, config, samples, timesteps)
        known = {one.name: one for one in attributed_checkpoints(run)}
        if checkpoint not in known:
            raise ConfigError(f"{run.folder} has no checkpoint {checkpoint!r}; there are {', '.join(known)}")
        return cls.of(load_checkpoint(run, known[checkpoint]), data, config, samples, timesteps)

    @classmethod
    def of(
        cls, model: DiffusionModel, data: DataConfig, config: EmbedConfig, samples: int, timesteps: int
    ) -> "Subject":
        """A model, and pictures chosen by key from `data`; fewer than asked for where there are fewer."""
        training_set = open_training_set(data)
        rows = keyed_permutation(len(training_set), "doctor")[:samples].tolist()
        if len(rows) < 3:
            raise ConfigError(f"rankings need three pictures or more, and there are {len(rows)}; give more images")
        device = next(model.denoiser.parameters()).device
        with torch.no_grad():
            _read(training_set, model, rows[:1])  # warms up
            start = now(device)
            x0, condition = _read(training_set, model, rows)
            seconds = (now(device) - start) / len(rows)
        ids = [training_set.samples[row].id for row in rows]
        owners = [SHARED] * len(ids) if config.noise == "shared" else ids
        at = tuple(stratified_timesteps(timesteps, model.total_timesteps).tolist())
        return cls(model, x0, condition, tuple(owners), at, config, seconds)

    def at(self, timestep: int) -> Measure:
        """Every picture at one timestep."""
        return self.measure(range(len(self)), [timestep] * len(self))

    def mixed(self, count: int) -> Measure:
        """`count` rows: picture after picture, again from the first where there are fewer, timesteps in turn."""
        rows = np.arange(count)
        return self.measure((rows % len(self)).tolist(), [self.timesteps[row % len(self.timesteps)] for row in rows])

    def measure(self, pictures: Sequence[int], timesteps: Sequence[int]) -> Measure:
        """The losses of (picture, timestep) rows, with the noise that an embedding gives them."""
        owners = [self.owners[picture] for picture in pictures]
        device = next(self.model.denoiser.parameters()).device
        drawn = draw_noise(self.model.x0_shape, self.config.seed, owners, timesteps, [0] * len(owners)).to(device)
        index, at = torch.tensor(list(pictures)), torch.tensor(list(timesteps)).to(device)
        clean, known = self.x0[index].to(device), self.condition.rows(index)

        def losses(rows: slice) -> Tensor:
            own = known.rows(torch.arange(len(index))[rows])
            return self.model.per_sample_loss(clean[rows], at[rows], drawn[rows], own, self.config.loss)

        return losses


def _read(training_set: TrainingSet, model: DiffusionModel, rows: Sequence[int]) -> tuple[Tensor, Condition]:
    pictures = Pictures(training_set, model)
    return pictures.x0(rows), pictures.condition(rows)
