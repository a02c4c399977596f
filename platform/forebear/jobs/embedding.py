"""`forebear embed`: gradient embeddings of a training set at every checkpoint of a run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from forebear.config import to_yaml
from forebear.diffusion.loading import import_libraries
from forebear.errors import DataError, JobError
from forebear.files import write_text
from forebear.forking import inherited
from forebear.jobs.disks import unwritable, writing
from forebear.jobs.dispatch import Pool, ray_actors
from forebear.jobs.driving import ProgressWatch, first_of, run_here, unworkable
from forebear.jobs.embed_config import EmbedConfig
from forebear.jobs.events import EMBEDDING, EventLog, RayMetrics, events_path
from forebear.jobs.growth import divided, growing
from forebear.jobs.local import Crew, ForkingCrew, RayCrew, may_fork
from forebear.jobs.overtime import TimeLimit
from forebear.jobs.planning import plan_embedding
from forebear.jobs.quarantine import Quarantine, QuarantinedShard, Shard
from forebear.jobs.scheduler import SetAside
from forebear.jobs.shards import ShardEmbedder
from forebear.progress import Progress, progress
from forebear.run import Run
from forebear.store import Store, StorePlan, prepare_store, read_manifest, shard_done, write_manifest, write_samples
from forebear.store.manifest import manifest_path
from forebear.store.segments import listed_segments
from forebear.store.shard import NotFiniteError

SECTION = EMBEDDING
"""Of run.yaml, and the stage of progress events."""


def embed(
    run: Run,
    config: EmbedConfig,
    *,
    restart: bool = False,
    retry_quarantined: bool = False,
    gpus_per_worker: float = 0.0,
    memory_per_worker: int = 0,
    shard_seconds: float | None = None,
    grow: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Store:
    """Embed every sample of the run's training set at each of its checkpoints; only shards that are missing.

    Checkpoints are those of the run, or its model alone, with weight 1, when it was trained elsewhere. Gradients are of
    the denoiser's parameters; a text encoder's states count as input. The files are a function of the run and of
    `config.decisive()`: the same bytes for any number of workers, and after any interruption. That is why one thread
    computes here too. Ray workers read and write the run's folder, so on several machines it must be a shared one. For
    each of them Ray reserves `gpus_per_worker` (a share below one, or whole ones) and `memory_per_worker` bytes.

    A shard that cannot be embedded (its workers die or hang, a picture cannot be read, a gradient is not finite) is
    noted in RUN/quarantine.json, the others are done, and JobError names it at the end. It is left out from then on,
    until `retry_quarantined`. `grow` adds images that came to the source since the store was made as a segment of it,
    and takes those that went out of all answers (forebear.jobs.growth); `tell` hears of both. Progress is appended to
    RUN/progress/embedding.jsonl. `restart` first deletes the store that is there. Raises StoreError when it was made
    from other inputs, naming them, and what ShardEmbedder and the gradient engine raise about anything but a sample.
    """
    folder = run.store_folder
    limit = TimeLimit(shard_seconds)
    pool = Pool(config.workers, 1.0, gpus_per_worker, memory_per_worker, limit) if config.workers else None
    with one_thread(), writing(run.folder), _crew(run, pool, restart=restart) as crew:
        shards = ShardEmbedder(run, config, _device(gpus_per_worker) if pool is None else "cpu")
        first, added = divided(run, shards.source, grow=grow, restart=restart, tell=tell)
        shards.use(first)
        plan = plan_embedding(shards, "cuda" if gpus_per_worker else "cpu")
        weights = {name: checkpoint.weight for name, checkpoint in shards.checkpoints.items()}
        prepare_store(folder, plan, weights, restart=restart)
        if restart:
            run.quarantine_file.unlink(missing_ok=True)
        _record(run, config)
        write_samples(folder, first)
        _complete(shards, plan, folder, crew, retry_quarantined=retry_quarantined)
        for listed in listed_segments(folder):
            part = folder / listed.name
            continued = read_manifest(part).plan
            shards.use_segment(continued, part)
            prepare_store(part, continued, weights)
            _complete(shards, continued, part, crew, retry_quarantined=retry_quarantined)
        if added is not None:
            with growing(folder, added, weights) as (continued, part):
                shards.use(added)
                _complete(shards, continued, part, crew, retry_quarantined=retry_quarantined)
    return Store.open(folder)


@contextmanager
def _crew(run: Run, pool: Pool | None, *, restart: bool) -> Iterator[Crew | None]:
    """Who embeds on the pool; None without one. Nothing is begun yet where all may be done."""
    if pool is None:
        yield None
    elif may_fork(pool):
        with ForkingCrew(pool) as crew:
            yield crew
    elif not run.model_folder.is_dir() or (not restart and _closed(run.store_folder)):
        yield RayCrew(pool)
    else:
        # Ray first: beside imports in this process its start takes longer than both, one after the other.
        with ray_actors(pool, import_libraries) as actors:
            import_libraries()
            yield RayCrew(pool, actors)


def _closed(folder: Path) -> bool:
    """Whether every shard of the store was done once."""
    return manifest_path(folder).is_file() and bool(read_manifest(folder).shards)


def _complete(
    shards: ShardEmbedder, plan: StorePlan, folder: Path, crew: Crew | None, *, retry_quarantined: bool
) -> None:
    """Embed what is missing of a store or segment, and close it; raises JobError for quarantined shards."""
    quarantine = Quarantine(shards.run.quarantine_file, plan)
    given_up = _embed_missing(shards, plan, quarantine, folder, crew, retry_quarantined=retry_quarantined)
    if len(quarantine):
        raise JobError(describe_quarantined(quarantine.shards, given_up=given_up))
    write_manifest(folder)


def _embed_missing(
    shards: ShardEmbedder,
    plan: StorePlan,
    quarantine: Quarantine,
    folder: Path,
    crew: Crew | None,
    *,
    retry_quarantined: bool,
) -> bool:
    """Whether so many shards failed that others were not begun."""
    run = shards.run

    def tasks() -> Iterator[Shard]:
        return (shard for shard in plan.shards() if retry_quarantined or shard not in quarantine)

    total = plan.sample_count * len(plan.checkpoints)
    with (
        EventLog(events_path(run, SECTION)) as log,
        progress(SECTION, total, "samples", listeners=(log, RayMetrics(run))) as bar,
    ):
        watch = EmbedWatch(shards, plan, quarantine, bar)
        if crew is None or (not crew.pool.gpus and _seem_done(folder, plan, tasks())):
            # Where nothing seems to be missing, checksums are compared here, without starting a Ray.
            run_here(EmbedWorker(run, shards.config, plan, shards, folder=folder), tasks(), watch)
        else:
            place, there = Run(run.folder.resolve()), folder.resolve()
            make_worker = partial(EmbedWorker, place, shards.config, plan, gpus=crew.pool.gpus, folder=there)
            crew.run(make_worker, tasks(), watch, gift=shards)
    return watch.left_out(quarantine) > 0


def _seem_done(folder: Path, plan: StorePlan, tasks: Iterator[Shard]) -> bool:
    return all(shard_done(folder, plan, *shard, rehash=False) for shard in tasks)


@dataclass
class EmbedWorker:
    """Embeds and writes shards: in another process from a run that it opens itself, unless it was forked with one."""

    run: Run
    config: EmbedConfig
    plan: StorePlan
    shards: ShardEmbedder | None = None
    gpus: float = 0.0
    folder: Path | None = None
    """Of the store, by default the run's, or of a segment of it."""

    def open(self) -> None:
        torch.set_num_threads(1)
        self._folder = self.folder or self.run.store_folder
        self._shards = self.shards or inherited() or ShardEmbedder(self.run, self.config, _device(self.gpus))
        if self.shards is None:
            self._shards.use_segment(self.plan, self._folder)

    def work(self, task: Shard) -> bool:
        """False when the shard was there and whole: checksums are compared here, by all workers at once."""
        if shard_done(self._folder, self.plan, *task):
            return False
        try:
            self._shards.write(self.plan, *task, self._folder)
        except OSError as refused:
            raise unwritable(self._folder, refused) from None
        except (DataError, NotFiniteError, RuntimeError, ValueError) as problem:
            raise unworkable(problem) from problem
        return True


class EmbedWatch(ProgressWatch[Shard]):
    """Keeps progress, the quarantine and the events of an embedding."""

    def __init__(self, shards: ShardEmbedder, plan: StorePlan, quarantine: Quarantine, bar: Progress) -> None:
        super().__init__(bar)
        self._shards, self._plan, self._quarantine = shards, plan, quarantine
        self._done, self._total = 0, plan.shards_per_checkpoint * len(plan.checkpoints)

    def done(self, task: Shard, result: object) -> None:
        self._quarantine.release(task)
        self._done += 1
        self.note = f"shard {self._done:,}/{self._total:,}, {task[0]}"
        (self.bar.advance if result else self.bar.found)(len(self._plan.shard_range(task[1])), self.note)

    def retried(self, task: Shard, reason: str) -> None:
        self.bar.tell("retried", checkpoint=task[0], shard=task[1], reason=reason)

    def set_aside(self, failed: SetAside[Shard]) -> None:
        samples = self._shards.training_set.samples
        ids = [samples[row - self._plan.first_row].id for row in self._plan.shard_range(failed.task[1])]
        self._quarantine.add(failed.task, ids, failed.reason, failed.tries)
        self.bar.tell("set_aside", checkpoint=failed.task[0], shard=failed.task[1], reason=failed.reason)

    def left_out(self, quarantine: Quarantine) -> int:
        """Shards that are neither done nor quarantined."""
        return self._total - self._done - len(quarantine)


def describe_quarantined(quarantined: Sequence[QuarantinedShard], *, given_up: bool = False) -> str:
    """The shards that could not be embedded, their samples, and what to do."""
    named = first_of([str(shard) for shard in quarantined])
    rest = "too many failed to go on; what is done is kept" if given_up else "all other shards are done"
    return (
        f"not embedded: {named}; {rest}. Mend the samples, or give workers more memory, and run the same command "
        "with --retry-quarantined"
    )


def _device(gpus: float) -> str:
    """Where a process with that many GPUs computes gradients."""
    if gpus and not torch.cuda.is_available():
        raise JobError("a GPU is asked for and PyTorch finds none here; install PyTorch for CUDA, or ask for no GPU")
    return "cuda" if gpus else "cpu"


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
