"""Embeds shards of a run's training set: the work itself, the same in this process and in a Ray actor."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.config import parse
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.diffusion.checkpoint import attributed_checkpoints, load_checkpoint
from forebear.diffusion.conditioning import Condition
from forebear.diffusion.events import read_events
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.diffusion.noise import SHARED, stratified_timesteps
from forebear.diffusion.pictures import Pictures
from forebear.errors import ConfigError, DataError, ModelError, StoreError
from forebear.gradients.embedding import Draws, Embedder
from forebear.jobs.embed_config import EmbedConfig
from forebear.run import Run
from forebear.store import EmbeddingRows, StorePlan, read_removed, read_samples, take_samples, write_shard


class ShardEmbedder:
    """Opens a run's training set and model, and embeds shards at one checkpoint after another.

    Decoded pictures are kept from checkpoint to checkpoint; weights are loaded when the checkpoint changes. Raises
    ConfigError when the run has no data, ModelError when it has no model, and what opening them raises.
    """

    def __init__(self, run: Run, config: EmbedConfig, device: str = "cpu") -> None:
        """Gradients are computed on `device`; pictures and captions are encoded on the CPU."""
        self.run, self.config, self.device = run, config, device
        data = parse(DataConfig, run.section("data"), str(run.settings_file))
        if not run.model_folder.is_dir():
            raise ModelError(
                f"{run.folder} has no model yet; finish `forebear train`, or start the run from a diffusers directory "
                "with `forebear embed --model`"
            )
        self.source = open_training_set(data)
        """What there is now; `training_set` is what is embedded: the same, until `use` or `use_segment`."""
        self.model = DiffusionModel.load(run.model_folder)
        self.model.denoiser.to(device)
        if config.timesteps > self.model.total_timesteps:
            raise ConfigError(
                f"timesteps: {config.timesteps} are asked for, the model has {self.model.total_timesteps}; choose fewer"
            )
        self.embedder = Embedder(
            self.model,
            config.projection,
            patterns=config.parameters,
            loss=config.loss,
            precision=config.precision,
            batch_size=config.batch_size,
        )
        self.checkpoints = {checkpoint.name: checkpoint for checkpoint in attributed_checkpoints(run)}
        self.use(self.source)
        self._events = read_events(run) if config.scheme == "recorded" else None
        self._loaded = ("", "")

    def use(self, training_set: TrainingSet) -> None:
        """Embed the samples of another training set."""
        self.training_set = training_set
        self._pictures = Pictures(training_set, self.model)

    def use_segment(self, plan: StorePlan, folder: Path) -> None:
        """Embed the samples of a store's plan, or of a segment's, as the source has them now.

        Raises StoreError that names those which changed or are gone.
        """
        if self.training_set.fingerprint == plan.dataset:
            return
        records = read_samples(folder)
        if self.source.fingerprint == plan.dataset or records is None:
            self.use(self.source)
        else:
            removed = read_removed(self.run.store_folder)
            self.use(take_samples(folder, self.source, records, plan.dataset, removed))

    def load(self, name: str) -> str:
        """Put a checkpoint's weights into the model; returns their fingerprint."""
        if self._loaded[0] != name:
            fresh = load_checkpoint(self.run, self.checkpoints[name]).trained_parts()
            for part, module in self.model.trained_parts().items():
                # Copied into the tensors that are there: pictures, hooks and memory layout stay.
                module.load_state_dict(fresh[part].state_dict())
            self._loaded = (name, weights_fingerprint(self.model.trained_parts()))
        return self._loaded[1]

    def write(self, plan: StorePlan, name: str, shard: int, folder: Path | None = None) -> None:
        """Embed one shard at one checkpoint and write it to the run's store, or to the segment in `folder`.

        Raises StoreError when images or weights are not those of the plan, DataError when a picture cannot be read any
        more, and what the gradient engine raises.
        """
        planned = next(item.fingerprint for item in plan.checkpoints if item.name == name)
        if self.training_set.fingerprint != plan.dataset or self.load(name) != planned:
            raise StoreError(
                f"the images or the weights of {name} changed while they were being embedded; put them back, or start "
                f"over with `forebear embed --run {self.run.folder} --restart`"
            )
        if plan.device != torch.device(self.device).type:
            raise StoreError(
                f"the store of {self.run.folder} holds numbers of the device {plan.device}, this worker computes on "
                f"{self.device}, and their last digits differ; go on with workers like the first ones, or start over "
                f"with `forebear embed --run {self.run.folder} --restart`"
            )
        planned_rows = plan.shard_range(shard)
        rows = self._embed(name, range(planned_rows.start - plan.first_row, planned_rows.stop - plan.first_row))
        rows = replace(rows, rows=rows.rows + plan.first_row)
        write_shard(folder or self.run.store_folder, plan, name, shard, rows)

    def _embed(self, name: str, rows: range) -> EmbeddingRows:
        """Rows of the training set."""
        events = None if self._events is None else self._events_of(self._events, name, rows)
        x0, condition = self._inputs(rows, events)
        draws = self._stratified(rows) if events is None else self._recorded(rows, events)
        found = self.embedder.embed(x0, condition, draws, measurements=self.config.measurements)
        return EmbeddingRows(
            sample_ids=self._ids(rows),
            rows=np.arange(rows.start, rows.stop, dtype=np.int64),
            vectors={str(name): vectors for name, vectors in found.vectors.items()},
            norms=found.norms,
            losses=found.losses,
            timesteps=draws.timesteps.astype(np.int32),
        )

    def _ids(self, rows: range) -> list[str]:
        return [sample.id for sample in self.training_set.samples[rows.start : rows.stop]]

    def _inputs(self, rows: range, events: pa.Table | None) -> tuple[Tensor, Condition]:
        """Clean pictures float32[N, c, h, w] and their condition, encoded a batch at a time."""
        flipped = None if events is None else _column(events, "flipped", np.bool_)
        dropped = None if events is None else _column(events, "caption_dropped", np.bool_)
        pictures, conditions = [], []
        with torch.no_grad():
            for start in range(0, len(rows), self.config.batch_size):
                part = slice(start, start + self.config.batch_size)
                pictures.append(self._x0(rows[part], None if flipped is None else flipped[part]))
                conditions.append(self._pictures.condition(rows[part], None if dropped is None else dropped[part]))
        parts = vars(Condition.joined(conditions)).items()
        condition = Condition(**{name: part.to(self.device) for name, part in parts if part is not None})
        return torch.cat(pictures), condition

    def _x0(self, rows: Sequence[int], flipped: NDArray[np.bool_] | None) -> Tensor:
        try:
            return self._pictures.x0(rows, flipped)
        except (OSError, ValueError, DataError) as broken:
            sample = next((self.training_set.samples[row] for row in rows if not self._readable(row)), None)
            if sample is None:
                raise
            raise DataError(
                f"the picture of sample {sample.id} ({sample.locator}) cannot be read any more: {broken}; restore it "
                "and run the same command, which goes on where it stopped, or begin anew without it by --restart"
            ) from None

    def _readable(self, row: int) -> bool:
        try:
            self.training_set.picture(row, self.model.image_size)
        except (OSError, ValueError, DataError):
            return False
        return True

    def _stratified(self, rows: range) -> Draws:
        ids = self._ids(rows)
        owners = [SHARED] * len(ids) if self.config.noise == "shared" else ids
        timesteps = stratified_timesteps(self.config.timesteps, self.model.total_timesteps)
        return Draws.at(timesteps, owners, self.config.seed, self.config.draws)

    def _recorded(self, rows: range, events: pa.Table) -> Draws:
        return Draws(
            timesteps=_column(events, "timestep", np.int64)[:, None],  # [N, 1]
            owners=tuple(self._ids(rows)),
            seeds=_column(events, "noise_seed", np.int64),
            draws=_column(events, "noise_draw", np.int64)[:, None, None],  # [N, 1, 1]
        )

    def _events_of(self, events: pa.Table, name: str, rows: range) -> pa.Table:
        """The events of the rows at a checkpoint, in the order of the rows."""
        ids = self._ids(rows)
        events = events.filter(pc.equal(events["checkpoint"], name))
        places = pc.index_in(pa.array(ids), events["sample_id"].combine_chunks())
        if places.null_count:
            missing = ids[places.is_null().to_pylist().index(True)]
            raise StoreError(
                f"{self.run.events_file} has no event of sample {missing} at {name}; use stratified timesteps, or the "
                "training set that the model was trained on"
            )
        return events.take(places)


def _column(events: pa.Table, name: str, kind: type[np.generic]) -> NDArray[Any]:
    values: NDArray[Any] = events[name].to_numpy().astype(kind)
    return values
