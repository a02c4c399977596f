"""Trains a diffusion model and records what training drew, so that TracIn can replay it."""

import math
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import field
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from forebear.config import STRICT, parse, plain
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.diffusion.building import ModelConfig, build_model, save_model
from forebear.diffusion.checkpoint import Checkpoint, checkpoint_name, write_checkpoint
from forebear.diffusion.events import EpochPlan, record_events
from forebear.diffusion.measurement import Loss
from forebear.diffusion.model import DiffusionModel, put_channels_last
from forebear.diffusion.noise import draw_noise
from forebear.diffusion.pictures import Pictures
from forebear.diffusion.training_state import TrainingState, load_state, save_state
from forebear.errors import ConfigError, DataError
from forebear.files import fingerprint
from forebear.progress import Progress, progress
from forebear.run import Run


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """How a model is trained: AdamW with linear warm-up and cosine decay."""

    epochs: int = 100
    """Passes over the training set."""
    batch_size: int = 32
    """Pictures in a step."""
    learning_rate: float = 1e-3
    """At the end of the warm-up."""
    final_learning_rate: float = 1e-5
    """At the last step."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    gradient_clip: float = 1.0
    """Largest norm of a batch's gradient; 0 switches clipping off."""
    ema_decay: float = 0.999
    """Of the moving average that checkpoints hold; 0 keeps the trained weights themselves."""
    timestep_power: float = 1.0
    """Timesteps are drawn with a density proportional to t ** (timestep_power - 1): 1 is uniform, 2 favours the noisy
    end, where a caption matters most."""
    flip: bool = False
    """Mirror half of the pictures left to right."""
    caption_dropout: float = 0.1
    """Share of captions left empty, for classifier-free guidance (text models only)."""
    loss: Loss = "mse"
    """Between the prediction and what it should be."""
    seed: int = 0
    """Of weights, order, timesteps, noise and augmentation."""
    checkpoint_epochs: tuple[int, ...] = ()
    """Epochs after which a checkpoint is written; by default four, evenly spaced, and always the last."""
    checkpoint_dtype: Literal["float32", "float16"] = "float32"
    """Of the weights in checkpoints."""
    save_state_every: int = 500
    """Steps between saved training states: what a power cut can cost."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        for name in ("epochs", "batch_size", "save_state_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; give at least 1")
        for name in ("learning_rate", "final_learning_rate", "warmup_steps", "weight_decay", "gradient_clip"):
            if getattr(self, name) < 0:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; it cannot be negative")
        for name in ("ema_decay", "caption_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; give a share from 0 to below 1")
        if self.timestep_power <= 0:
            raise ConfigError(f"training.timestep_power is {self.timestep_power}; it must be above 0")
        if any(not 0 < epoch <= self.epochs for epoch in self.checkpoint_epochs):
            raise ConfigError(f"training.checkpoint_epochs must lie between 1 and epochs ({self.epochs})")

    @property
    def closing_epochs(self) -> tuple[int, ...]:
        """The epochs that end with a checkpoint, ascending, the last one always among them."""
        chosen = self.checkpoint_epochs or tuple(max(1, self.epochs * quarter // 4) for quarter in range(1, 5))
        return tuple(sorted({*chosen, self.epochs}))


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """The whole file that `forebear train` reads."""

    data: DataConfig
    """The training set."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model that is made."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How it is trained."""

    @classmethod
    def of_run(cls, run: Run) -> "TrainConfig":
        """The settings that a run was trained with; raises ConfigError when it has none."""
        origin = str(run.settings_file)
        return cls(
            parse(DataConfig, run.section("data"), origin),
            parse(ModelConfig, run.section("model"), origin),
            parse(TrainingConfig, run.section("training"), origin),
        )


def train(
    run: Run,
    config: TrainConfig,
    training_set: TrainingSet | None = None,
    *,
    subset: Collection[str] | None = None,
    checkpoints: bool = True,
    bar: Progress | None = None,
) -> bool:
    """Train in `run`, from the start or from where it stopped; False when a signal stopped it with its state saved.

    An interrupted and resumed training gives the same weights, bit for bit on one machine, as one that ran through.

    `training_set` is that of `config.data`, for a caller that has it open. Only the samples of `subset`, by their ids,
    are trained on when it is given; the model's classes and vocabulary stay those of the whole set, so that the models
    of all subsets have one shape. Without `checkpoints` nothing but the model is written at the end: for models that
    are measured and thrown away. `bar` counts the steps in place of a bar of its own. Raises ConfigError when the run
    was made with other settings or on another subset, DataError when the subset names samples that are not there.
    """
    whole = open_training_set(config.data) if training_set is None else training_set
    chosen = whole if subset is None else _chosen(whole, subset)
    for section in ("data", "model", "training"):
        run.record(section, plain(getattr(config, section)))
    if subset is not None:
        run.record("subset", {"samples": len(chosen), "ids": fingerprint(sorted(chosen.rows))})
    return _Trainer(run, config, whole, chosen).fit(checkpoints, bar)


def _chosen(whole: TrainingSet, subset: Collection[str]) -> TrainingSet:
    ids = set(subset)
    if not ids or not ids <= whole.rows.keys():
        raise DataError(
            f"the subset to train on has {len(ids)} samples, {len(ids - whole.rows.keys())} of which are not in the "
            "training set; draw it from this training set"
        )
    return whole.where(lambda sample: sample.id in ids)


class _Trainer:
    def __init__(self, run: Run, config: TrainConfig, whole: TrainingSet, training_set: TrainingSet) -> None:
        """The shape of the model is decided by `whole`, of which `training_set` is trained on."""
        self.run, self.config, self.settings = run, config, config.training
        self.ids = [sample.id for sample in training_set.samples]
        labels = [sample.label for sample in whole.samples if sample.label is not None]
        if config.model.conditioning == "class" and 0 < len(labels) < len(whole):
            raise DataError(
                f"{len(whole) - len(labels)} of {len(whole)} samples have no label, which a class-conditional "
                "model needs; label them, or leave them out with data.where"
            )
        self.captions = [sample.caption for sample in whole.samples]
        self.model = build_model(config.model, self.captions, max(labels, default=-1) + 1, self.settings.seed)
        self.pictures = Pictures(training_set, self.model)
        self.parts = nn.ModuleDict(self.model.trained_parts()).requires_grad_(True)
        put_channels_last(self.parts)
        self.optimiser = torch.optim.AdamW(
            self.parts.parameters(), lr=0.0, betas=self.settings.betas, weight_decay=self.settings.weight_decay
        )
        self.state = load_state(run) or TrainingState.fresh(self.parts)
        self.state.restore(self.parts, self.optimiser)
        self.steps_per_epoch = math.ceil(len(self.ids) / self.settings.batch_size)

    def fit(self, checkpoints: bool, outer: Progress | None) -> bool:
        total = self.settings.epochs * self.steps_per_epoch
        plan = self._plan(self.state.step // self.steps_per_epoch)
        shown = progress("training", total, "steps", self.state.step) if outer is None else nullcontext(outer)
        with _stop_requested() as stop, shown as bar:
            while self.state.step < total:
                epoch, place = divmod(self.state.step, self.steps_per_epoch)
                if place == 0:
                    plan = self._plan(epoch)
                loss = self._step(plan, place, total)
                self.state.step += 1
                bar.advance(1, f"epoch {epoch + 1}, loss {loss:.4f}")
                if place + 1 == self.steps_per_epoch and epoch + 1 in self.settings.closing_epochs:
                    self._close(plan, total, checkpoints)
                if stop or self.state.step % self.settings.save_state_every == 0 or self.state.step == total:
                    save_state(self.run, self.state, self.parts, self.optimiser)
                if stop and self.state.step < total:
                    return False
        return True

    def _plan(self, epoch: int) -> EpochPlan:
        dropout = self.settings.caption_dropout if self.model.conditioner.kind == "text" else 0.0
        return EpochPlan.draw(
            self.settings.seed,
            epoch,
            len(self.ids),
            self.model.total_timesteps,
            power=self.settings.timestep_power,
            flip=self.settings.flip,
            caption_dropout=dropout,
        )

    def _step(self, plan: EpochPlan, place: int, total: int) -> float:
        """One optimiser step on the batch at `place` of the epoch's order; returns the batch's mean loss."""
        size = self.settings.batch_size
        rows = plan.order[place * size : (place + 1) * size]
        timesteps = plan.timesteps[rows]
        owners = [self.ids[row] for row in rows]
        noise = draw_noise(self.model.x0_shape, plan.seed, owners, timesteps.tolist(), [plan.epoch] * len(rows))
        losses = self.model.per_sample_loss(
            self.pictures.x0(rows.tolist(), plan.flipped[rows]),
            torch.from_numpy(timesteps),
            noise,
            self.pictures.condition(rows.tolist(), plan.caption_dropped[rows]),
            self.settings.loss,
        )
        loss = losses.mean()
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.settings.gradient_clip:
            nn.utils.clip_grad_norm_(self.parts.parameters(), self.settings.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.state.step, total)
        self.optimiser.step()
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        # The first steps' average would be dominated by the random start, so the decay itself warms up.
        decay = min(self.settings.ema_decay, (1 + self.state.step) / (10 + self.state.step))
        decay = decay if self.settings.ema_decay else 0.0
        torch._foreach_lerp_(list(self.state.average.values()), list(self.parts.parameters()), 1.0 - decay)

    def _close(self, plan: EpochPlan, total: int, checkpoints: bool) -> None:
        """Write what an epoch that ends with a checkpoint leaves: the model after the last one, and the checkpoint."""
        final = self.state.step == total
        if not (final or checkpoints):
            return
        averaged = self._averaged_parts(getattr(torch, self.settings.checkpoint_dtype))
        if checkpoints:
            record_events(self.run, plan.table(checkpoint_name(self.state.step), self.ids))
        if final:
            self._save_final_model(averaged)
        if checkpoints:
            write_checkpoint(self.run, self._checkpoint(plan, total), averaged)

    def _checkpoint(self, plan: EpochPlan, total: int) -> Checkpoint:
        step = self.state.step
        epochs = pairwise((0, *self.settings.closing_epochs))
        interval = next(end - start for start, end in epochs if end == plan.epoch + 1)
        return Checkpoint(
            name=checkpoint_name(step),
            step=step,
            epoch=plan.epoch + 1,
            learning_rate=self._mean_learning_rate(step - interval * self.steps_per_epoch, step, total),
            batch_size=self.settings.batch_size,
            interval=interval,
            sample_count=len(self.ids),
            ema=self.settings.ema_decay > 0,
            weights="model" if step == total else "here",
        )

    def _mean_learning_rate(self, first: int, end: int, total: int) -> float:
        """Over the steps first .. end - 1."""
        return fmean(learning_rate(self.settings, step, total) for step in range(first, end))

    def _averaged_parts(self, dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
        """The averaged weights (and the plain buffers) of each trained part, by the part's own names."""
        parts: dict[str, dict[str, Tensor]] = {}
        for part, module in self.parts.items():
            merged = {
                name: self.state.average.get(f"{part}.{name}", value) for name, value in module.state_dict().items()
            }
            parts[part] = {name: v.to(dtype) if v.is_floating_point() else v for name, v in merged.items()}
        return parts

    def _save_final_model(self, averaged: Mapping[str, Mapping[str, Tensor]]) -> None:
        dtype = getattr(torch, self.settings.checkpoint_dtype)
        final: DiffusionModel = build_model(self.config.model, self.captions, self._classes(), 0)
        for part, module in final.trained_parts().items():
            module.load_state_dict(averaged[part])
            for parameter in module.parameters():  # not module.to(dtype): diffusers warns about that
                parameter.data = parameter.data.to(dtype)
        save_model(final, self.run.model_folder)

    def _classes(self) -> int:
        return int(getattr(self.model.conditioner, "classes", 0))


def learning_rate(settings: TrainingConfig, step: int, total: int) -> float:
    """The rate of a 0-based step: linear warm-up, then half a cosine down to the final rate."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, total - 1 - settings.warmup_steps)
    wave = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * wave


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """A list that becomes non-empty at SIGINT or SIGTERM; the handlers before it are put back afterwards."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # Python lets only the main thread take signals
        return

    def note(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature is Python's
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
