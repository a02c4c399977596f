"""`forebear plan`: time, machines, memory, disk and query time of an embedding, before it is begun."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forebear.config import parse, read_yaml
from forebear.data import Columns, DataConfig
from forebear.files import write_json
from forebear.run import Run

if TYPE_CHECKING:
    from forebear.jobs.embed_config import EmbedConfig
    from forebear.jobs.plan import Job, Line, Plan
    from forebear.jobs.plan_measuring import MeasuredWork
    from forebear.jobs.simulation import Scenario, Simulated

NOTE = (
    "Rates are of one process of this machine, and workers are taken not to slow each other down. Machines differ, and "
    "so does a store that many write to: embed a small part on the cluster before you rely on this."
)


@click.command()
@click.option("--run", "folder", envvar="FOREBEAR_RUN", type=click.Path(path_type=Path), help="Run folder to measure.")
@click.option("--model", type=click.Path(path_type=Path), help="Or a diffusers directory, with --data; writes no run.")
@click.option("--data", "source", help="With --model: openmoji, digits, a folder of images, or Parquet files.")
@click.option("--caption-column", help="With --data: column with captions.")
@click.option("--label-column", help="With --data: integer column with class labels.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Pictures a second of one worker at one checkpoint; measures nothing.",
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="YAML file of embedding settings.  [default: the run's]"
)
@click.option("--dim", type=click.IntRange(1), help="Instead of the settings' size k.")
@click.option("--timesteps", type=click.IntRange(1), help="Instead of the settings' number for each image.")
@click.option("--shard-rows", type=click.IntRange(1), help="Instead of the settings' images in a shard.")
@click.option("--samples", type=click.IntRange(1), help="Images to plan for.  [default: the run's]")
@click.option("--checkpoints", type=click.IntRange(1), help="Checkpoints to plan for.  [default: the run's, or 1]")
@click.option(
    "--workers", type=click.IntRange(1), help="Workers of the cluster.  [default: 1, or as many as the GPUs hold]"
)
@click.option("--gpus", type=click.IntRange(0), default=0, help="GPUs of the cluster.")
@click.option(
    "--gpus-per-worker", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="With --gpus."
)
@click.option("--machine-workers", type=click.IntRange(1), default=8, show_default=True, help="Workers on one machine.")
@click.option("--seconds", type=click.FloatRange(0), default=20.0, show_default=True, help="To measure for.")
@click.option("--search/--no-search", default=True, show_default=True, help="Time a search in small indexes.")
@click.option("--simulate", is_flag=True, help="Run the real scheduler against simulated workers.")
@click.option(
    "--worker-hours", type=click.FloatRange(0, min_open=True), help="Simulated: mean time between deaths of a worker."
)
@click.option(
    "--machine-hours", type=click.FloatRange(0, min_open=True), help="Simulated: mean time between losses of a machine."
)
@click.option(
    "--poison", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Simulated: share of shards that kill."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every figure into this file.")
def plan(
    folder: Path | None,
    model: Path | None,
    source: str | None,
    caption_column: str | None,
    label_column: str | None,
    rate: float | None,
    config: Path | None,
    seconds: float,
    search: bool,
    simulate: bool,
    json_file: Path | None,
    **asked: Any,
) -> None:
    """Say what embedding any number of images would cost, with the arithmetic.

    Measures a few batches of the run's model and images (or of --model and --data) on this machine, and writes nothing
    into the run. With --rate it calculates alone.
    """
    from forebear.jobs.plan import make_plan
    from forebear.jobs.plan_measuring import measure_search, measure_work, run_of_model

    if (model is None) != (source is None) or (folder is None and model is None and rate is None):
        raise click.UsageError("give --run, or --model and --data together, or --rate")
    data = DataConfig(source or "", columns=Columns(caption_column, label_column))
    run = Run(folder) if folder is not None else None
    settings = _settings(run, config, asked)
    measured = None
    if rate is None:
        with run_of_model(model, data) if model is not None else nullcontext(Run(folder or Path())) as measured_run:
            measured = measure_work(measured_run, settings, seconds)
    job = _job(settings, measured, rate, asked)
    found = make_plan(job, measure_search(job.index_kind, job.index_dim) if search else None)
    figures: dict[str, Any] = {**found.plain(), "measured": asdict(measured) if measured else None}
    if measured is not None:
        _show_measured(measured)
    _show(found)
    if simulate:
        scenario = _scenario(job, asked)
        from forebear.jobs.simulation import simulate as run_simulation

        simulated = run_simulation(scenario)
        figures["simulated"] = {**asdict(simulated), "scenario": _finite(asdict(scenario))}
        _show_simulated(scenario, simulated)
    if json_file is not None:
        write_json(json_file, figures)


def _settings(run: Run | None, config: Path | None, asked: dict[str, Any]) -> "EmbedConfig":
    """Those of --config, else those that the run was embedded with, else the defaults; options win."""
    from forebear.jobs.embed_config import EmbedConfig

    values = read_yaml(config) if config else {}
    if config is None and run is not None and run.has_section("embedding"):
        values = run.section("embedding")
    settings = parse(EmbedConfig, values, str(config or "embedding"))
    if asked["dim"] is not None:
        settings = replace(settings, projection=replace(settings.projection, dim=asked["dim"]))
    chosen = {name: asked[name] for name in ("timesteps", "shard_rows") if asked[name] is not None}
    return replace(settings, **chosen)


def _job(settings: "EmbedConfig", measured: "MeasuredWork | None", rate: float | None, asked: dict[str, Any]) -> "Job":
    from forebear.jobs.plan import Job

    gpus, share = asked["gpus"], asked["gpus_per_worker"]
    if gpus and measured is not None and not measured.device.startswith("cuda"):
        raise click.UsageError(
            "measured on a CPU, which says nothing about GPUs: run plan on a machine with such a GPU, or give --rate"
        )
    samples = asked["samples"] or (measured.samples if measured else None)
    dim = measured.dim if measured else settings.projection.dim
    if samples is None or dim is None:
        raise click.UsageError("with --rate, give --samples, and --dim where the settings have none")
    return Job(
        samples=samples,
        checkpoints=asked["checkpoints"] or (measured.checkpoints if measured else 1),
        timesteps=1 if settings.scheme == "recorded" else settings.timesteps,
        dim=dim,
        columns=len(settings.columns),
        shard_rows=settings.shard_rows,
        workers=asked["workers"] or max(1, int(gpus / share)),
        rate=measured.rate if measured else rate or 0.0,
        gpus_per_worker=share if gpus else 0.0,
        machine_workers=asked["machine_workers"],
        opening=measured.opening if measured else 0.0,
        loading=measured.loading if measured else 0.0,
        worker_memory=measured.memory if measured else 0,
    )


def _scenario(job: "Job", asked: dict[str, Any]) -> "Scenario":
    from forebear.jobs.simulation import Scenario

    infinite = float("inf")
    return Scenario(
        samples=job.samples,
        checkpoints=job.checkpoints,
        shard_rows=job.shard_rows,
        workers=job.workers,
        rate=job.rate,
        opening=job.opening,
        worker_hours=asked["worker_hours"] or infinite,
        machine_hours=asked["machine_hours"] or infinite,
        machine_workers=job.machine_workers,
        poison=asked["poison"],
    )


def _show_measured(measured: "MeasuredWork") -> None:
    click.echo(
        f"measured on {measured.device}: {measured.pictures} pictures at {measured.rate:,.3g}/s for each checkpoint, "
        f"k = {measured.dim}; opening {measured.opening:.1f} s, a checkpoint {measured.loading:.2f} s\n"
    )


def _show(found: "Plan") -> None:
    width = max(len(line.name) for line in found.lines)
    values = [_value(line) for line in found.lines]
    widest = max(map(len, values))
    for line, value in zip(found.lines, values, strict=True):
        click.echo(f"{line.name.ljust(width)}  {value.rjust(widest)}  = {line.arithmetic}")
    for warning in found.warnings:
        click.echo(f"consider: {warning}")
    click.echo(f"\n{NOTE}")


def _show_simulated(scenario: "Scenario", found: "Simulated") -> None:
    counts = found.counts
    click.echo(
        f"\nsimulated: {scenario.shards:,} shards on {scenario.workers:,} workers took {_clock(found.makespan)} "
        f"({found.efficiency:.1%} of the ideal {_clock(found.ideal)})\n"
        f"  {counts.done:,} shards done, {counts.set_aside:,} set aside, {counts.retried:,} tries lost with "
        f"{counts.deaths:,} workers and {found.machines_lost:,} machines: {found.wasted_share:.3%} of the work\n"
        f"  the scheduler made {found.decisions_per_second:,.0f} decisions a second; {found.needed_per_second:,.1f} "
        f"were needed. It grew by {found.memory / 2**20:,.1f} MiB, to {found.resident / 2**20:,.0f} MiB"
    )
    if found.given_up:
        click.echo("  so many shards were set aside that the rest was not begun")


def _value(line: "Line") -> str:
    if line.unit == "s":
        return _clock(line.value)
    if line.unit == "h":
        return f"{line.value:,.2f} h"
    if line.unit in ("B", "B/s"):
        return _size(line.value) + line.unit[1:]
    return f"{line.value:,.0f}"


def _size(count: float) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        one = 2 ** (10 * ("KiB", "MiB", "GiB", "TiB").index(unit) + 10)
        if count >= one:
            return f"{count / one:,.2f} {unit}"
    return f"{count:,.0f} B"


def _clock(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:,.1f} ms"
    if seconds < 120:
        return f"{seconds:,.1f} s"
    days, rest = divmod(seconds / 3600, 24)
    return f"{days:.0f} d {rest:.1f} h" if days else f"{rest:.2f} h"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """With infinite times as null, which JSON has no number for."""
    return {name: None if value == float("inf") else value for name, value in values.items()}
