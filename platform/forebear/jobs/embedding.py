"""`forebear embed`: gradient embeddings of a training set at every checkpoint of a run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from forebear.config import to_yaml
from forebear.errors import JobError
from forebear.files import write_text
from forebear.jobs.dispatch import SetAside, dispatch
from forebear.jobs.embed_config import EmbedConfig
from forebear.jobs.planning import plan_embedding
from forebear.jobs.shards import ShardEmbedder
from forebear.progress import progress
from forebear.run import Run
from forebear.store import Store, StorePlan, prepare_store, shard_done, write_manifest

Shard = tuple[str, int]
"""Checkpoint and number."""

SECTION = "embedding"
"""Of run.yaml."""
NAMED_IN_ERRORS = 5


def embed(run: Run, config: EmbedConfig, *, restart: bool = False) -> Store:
    """Embed every sample of the run's training set at each of its checkpoints; only shards that are missing.

    Checkpoints are those of the run, or its model alone, with weight 1, when it was trained elsewhere. Gradients are of
    the denoiser's parameters; a text encoder's states count as input. The files are a function of the run and of
    `config.decisive()`: the same bytes for any number of workers, and after any interruption. That is why one thread
    computes here too. Ray workers read and write the run's folder, so on several machines it must be a shared one.

    `restart` first deletes the store that is there. Raises StoreError when it was made from other inputs, JobError when
    shards kept killing their workers, and what ShardEmbedder and the gradient engine raise.
    """
    with one_thread():
        shards = ShardEmbedder(run, config)
        plan = plan_embedding(shards)
        weights = {name: checkpoint.weight for name, checkpoint in shards.checkpoints.items()}
        prepare_store(run.store_folder, plan, weights, restart=restart)
        _record(run, config)
        _embed_missing(shards, plan)
    write_manifest(run.store_folder)
    return Store.open(run.store_folder, plan)


def _embed_missing(shards: ShardEmbedder, plan: StorePlan) -> None:
    run, config = shards.run, shards.config
    missing = [shard for shard in plan.shards() if not shard_done(run.store_folder, plan, *shard)]
    total = plan.sample_count * len(plan.checkpoints)
    left = sum(len(plan.shard_range(number)) for _, number in missing)
    with progress("embedding", total, "samples", total - left) as bar:

        def done(shard: Shard) -> None:
            bar.advance(len(plan.shard_range(shard[1])), shard[0])

        if config.workers == 0 or not missing:
            _embed_here(shards, plan, missing, done)
        else:
            make_worker = partial(EmbedWorker, Run(run.folder.resolve()), config, plan)
            report_set_aside(plan, dispatch(make_worker, missing, config.workers, done))


def _embed_here(
    shards: ShardEmbedder, plan: StorePlan, missing: Sequence[Shard], done: Callable[[Shard], None]
) -> None:
    for shard in missing:
        shards.write(plan, *shard)
        done(shard)


@dataclass
class EmbedWorker:
    """Embeds and writes shards in a Ray actor, from a run that it opens itself."""

    run: Run
    config: EmbedConfig
    plan: StorePlan

    def open(self) -> None:
        torch.set_num_threads(1)
        self._shards = ShardEmbedder(self.run, self.config)

    def work(self, task: Shard) -> None:
        self._shards.write(self.plan, *task)


def report_set_aside(plan: StorePlan, set_aside: Sequence[SetAside[Shard]]) -> None:
    """Raise JobError that names the shards that could not be embedded."""
    if not set_aside:
        return
    named = [
        f"shard {number} of {name} (rows {plan.shard_range(number).start} to {plan.shard_range(number).stop - 1})"
        for name, number in (failed.task for failed in set_aside[:NAMED_IN_ERRORS])
    ]
    more = f" and {len(set_aside) - NAMED_IN_ERRORS} more" if len(set_aside) > NAMED_IN_ERRORS else ""
    raise JobError(
        f"not embedded, because their workers died each time: {', '.join(named)}{more} ({set_aside[-1].reason}); what "
        "is done is kept: run the same command again, with fewer workers if memory is short"
    )


def _record(run: Run, config: EmbedConfig) -> None:
    """Write the settings into run.yaml. The plan has been checked, so settings there of another store are outdated."""
    sections = run.settings()
    if sections.pop(SECTION, config.decisive()) != config.decisive():
        write_text(run.settings_file, to_yaml(sections))
    run.record(SECTION, config.decisive())


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: how a matrix product is shared among threads decides its rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
