"""`forebear embed`: gradient embeddings of every training image at every checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forebear.cli.doctor import Bytes
from forebear.cli.options import run_option
from forebear.cli.sample_ids import deny_option, take_out
from forebear.config import parse, read_yaml
from forebear.data import Columns, DataConfig
from forebear.run import Run

if TYPE_CHECKING:
    from forebear.diffusion.measurement import Measurement


@click.command()
@run_option()
@click.option(
    "--model", type=click.Path(path_type=Path), help="Start the run from this diffusers directory (safetensors)."
)
@click.option("--data", "source", help="With --model: openmoji, digits, a folder of images, or Parquet files.")
@click.option("--caption-column", help="With --data: column with captions.")
@click.option("--label-column", help="With --data: integer column with class labels.")
@click.option("--group-column", "group_columns", multiple=True, help="With --data: grouping column; may be repeated.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of embedding settings; options below win.")
@click.option("--timesteps", type=click.IntRange(1), help="Stratified timesteps for each image.  [default: 8]")
@click.option(
    "--scheme",
    type=click.Choice(["stratified", "recorded"]),
    help="recorded: the timestep and noise that training drew, for exact Diffusion-TracIn.  [default: stratified]",
)
@click.option("--dim", type=click.IntRange(1), help="Size k of the projected gradients.  [default: 4096]")
@click.option(
    "--mode",
    type=click.Choice(["fast", "default", "exact"]),
    help="How gradients are projected; exact is slower, and its norms are exact.  [default: default]",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="bfloat16 is faster where the processor computes in it.  [default: float32]",
)
@click.option(
    "--measurement",
    "measurements",
    type=click.Choice(["square", "output"]),
    multiple=True,
    help="Measure this beside the loss: square for dtrak, output for das; may be repeated. Each adds the time again.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Images at a time.  [default: 32]")
@click.option("--seed", type=int, help="Seed of the measuring noise.  [default: 0]")
@click.option("--workers", type=click.IntRange(0), help="One-thread Ray actors; 0 works in this process.  [default: 0]")
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, help="Whole GPUs, or a share of one.")
@click.option("--memory-per-worker", type=Bytes(), default=0, help="What Ray reserves for each worker, such as 4GiB.")
@click.option(
    "--shard-seconds",
    type=click.FloatRange(0, min_open=True),
    help="End a worker that takes longer for a shard.  [default: 10 times the slowest so far, and 5 minutes]",
)
@click.option("--retry-quarantined", is_flag=True, help="Try the shards again that were given up before.")
@click.option("--grow", is_flag=True, help="Embed images that came since, and take those that went out of all answers.")
@deny_option
@click.option("--restart", is_flag=True, help="Throw away the store that is there and begin anew.")
def embed(
    run: Run,
    model: Path | None,
    source: str | None,
    caption_column: str | None,
    label_column: str | None,
    group_columns: tuple[str, ...],
    config: Path | None,
    deny: Path | None,
    restart: bool,
    retry_quarantined: bool,
    grow: bool,
    gpus_per_worker: float,
    memory_per_worker: int,
    shard_seconds: float | None,
    measurements: tuple["Measurement", ...],
    **chosen: Any,
) -> None:
    """Embed a run's training images, or go on where an earlier call stopped.

    The run comes from `forebear train`, or starts here with --model and --data. Killed at any moment, the same command
    finishes the work, and the store is byte for byte the one of an uninterrupted run, with any number of workers.
    """
    from forebear.jobs import EmbedConfig, start_run
    from forebear.jobs import embed as embed_run

    if (model is None) != (source is None):
        raise click.UsageError("--model and --data start a run together: give both, or neither for a trained run")
    if model is not None and source is not None:
        columns = Columns(caption_column, label_column, group_columns)
        start_run(run.folder, model, DataConfig(source, columns=columns))
    if deny is not None:
        run.settings()  # an error before anything is written, where there is no run
        take_out(run, deny)
    settings = parse(EmbedConfig, read_yaml(config) if config else {}, str(config))
    projection = {name: value for name in ("dim", "mode") if (value := chosen.pop(name)) is not None}
    settings = replace(settings, **{name: value for name, value in chosen.items() if value is not None})
    if measurements:
        settings = replace(settings, measurements=tuple(dict.fromkeys(("loss", *measurements))))
    settings = replace(settings, projection=replace(settings.projection, **projection))
    store = embed_run(
        run,
        settings,
        restart=restart,
        retry_quarantined=retry_quarantined,
        gpus_per_worker=gpus_per_worker,
        memory_per_worker=memory_per_worker,
        shard_seconds=shard_seconds,
        grow=grow,
        tell=click.echo,
    )
    click.echo(
        f"embedded {len(store.ids()):,} images at {len(store.manifest.weights)} checkpoints in {run.store_folder}"
    )
