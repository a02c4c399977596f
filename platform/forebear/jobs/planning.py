"""The plan of an embedding: everything that decides its numbers, gathered from the run."""

import hashlib

import torch
from torch import nn

from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.diffusion.noise import stratified_timesteps
from forebear.files import fingerprint, sha256_of_file
from forebear.jobs.shards import ShardEmbedder
from forebear.store import PlannedCheckpoint, StorePlan
from forebear.store.plan import CPU


def plan_embedding(shards: ShardEmbedder, device: str | None = None) -> StorePlan:
    """The store's plan, for workers on `device`, those of `shards` by default.

    Loads every checkpoint once, because their weights are part of it.
    """
    kind = torch.device(device or shards.device).type
    config, model = shards.config, shards.model
    recorded = config.scheme == "recorded"
    timesteps = () if recorded else tuple(stratified_timesteps(config.timesteps, model.total_timesteps).tolist())
    return StorePlan(
        dataset=shards.training_set.fingerprint,
        sample_count=len(shards.training_set),
        checkpoints=tuple(
            PlannedCheckpoint(name=name, step=checkpoint.step, fingerprint=shards.load(name))
            for name, checkpoint in shards.checkpoints.items()
        ),
        measurement="training loss",
        timestep_scheme=config.scheme,
        timesteps=timesteps,
        timesteps_per_sample=1 if recorded else config.timesteps,
        draws=1 if recorded else config.draws,
        projection=dict(shards.embedder.engine.fingerprint_data()),
        dim=shards.embedder.dim,
        shard_rows=config.shard_rows,
        columns=config.columns,
        settings={
            "noise": config.noise,
            "seed": config.seed,
            "loss": config.loss,
            "precision": config.precision,
            "parameters": list(config.parameters),
            "batch_size": config.batch_size,
            "diffusion": _diffusion_fingerprint(model),
            **({} if kind == CPU else {"device": kind}),
            **({"events": sha256_of_file(shards.run.events_file)} if recorded else {}),
        },
    )


def _diffusion_fingerprint(model: DiffusionModel) -> str:
    """Identifies what checkpoints share: the noise schedule, what the model predicts, and the way to its space."""
    vae = getattr(model.codec, "vae", None)
    return fingerprint(
        {
            "alphas": hashlib.sha256(model.schedule().tobytes()).hexdigest(),
            "prediction_type": model.prediction_type,
            "codec": [type(model.codec).__name__, model.codec.factor],
            "autoencoder": weights_fingerprint({"vae": vae}) if isinstance(vae, nn.Module) else None,
        }
    )
