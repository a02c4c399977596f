"""`forebear doctor`: whether embeddings of a model would be right, how faithful, how fast, and with which options."""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forebear.config import parse, plain, read_yaml
from forebear.data import Columns, DataConfig
from forebear.errors import ForebearError
from forebear.files import write_json
from forebear.run import Run

if TYPE_CHECKING:
    from forebear.gradients.projection import Mode
    from forebear.gradients.running import Precision
    from forebear.jobs.doctor import Doctor
    from forebear.jobs.doctor_costs import BatchCost, Cost
    from forebear.jobs.doctor_fidelity import Fidelity, Setting
    from forebear.jobs.doctor_subject import Subject
    from forebear.jobs.embed_config import EmbedConfig

WRONG = 2
"""Exit code when an answer would be wrong."""
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
Row = Sequence[object]


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """An amount of memory: 4GiB, 500MiB, or a plain number of bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"\s*([\d.]+)\s*([KMG]?)(?:i?B)?\s*", str(value), re.IGNORECASE)
        if not found or found[1].count(".") > 1 or not any(digit.isdigit() for digit in found[1]):
            self.fail(f"{value!r} is no amount of memory; write for example 4GiB", param, ctx)
        return int(float(found[1]) * UNITS[found[2].upper()])


@click.command()
@click.option("--run", "folder", envvar="FOREBEAR_RUN", type=click.Path(path_type=Path), help="Run folder to examine.")
@click.option("--model", type=click.Path(path_type=Path), help="Or a diffusers directory, with --data; writes no run.")
@click.option("--data", "source", help="With --model: openmoji, digits, a folder of images, or Parquet files.")
@click.option("--checkpoint", help="With --run: examine the weights of this checkpoint.  [default: the last]")
@click.option("--all-checkpoints", is_flag=True, help="With --run: whether the settings are right at the others too.")
@click.option("--caption-column", help="With --data: column with captions.")
@click.option("--label-column", help="With --data: integer column with class labels.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="YAML file of embedding settings.  [default: the run's]"
)
@click.option("--dim", type=click.IntRange(1), help="Instead of the settings' size k.")
@click.option("--mode", type=click.Choice(["fast", "default", "exact"]), help="Instead of the settings' mode.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Instead of the settings' precision.")
@click.option("--samples", type=click.IntRange(3), default=24, show_default=True, help="Pictures to measure.")
@click.option("--timesteps", type=click.IntRange(1), default=3, show_default=True, help="Timesteps of each picture.")
@click.option("--memory-budget", type=Bytes(), help="For one process, such as 4GiB.  [default: half of what is free]")
@click.option(
    "--min-fidelity",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Spearman of cosines that the run's own settings must reach.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every figure into this file.")
def doctor(
    folder: Path | None,
    model: Path | None,
    source: str | None,
    caption_column: str | None,
    label_column: str | None,
    checkpoint: str | None,
    all_checkpoints: bool,
    memory_budget: int | None,
    min_fidelity: float,
    json_file: Path | None,
    samples: int,
    timesteps: int,
    **chosen: Any,
) -> None:
    """Examine a model on its own pictures before anything is spent.

    Checks every layer against plain autograd, measures how faithfully projected gradients rank pictures, and recommends
    options for `forebear embed`. Exit code 2 when an answer would be wrong.
    """
    from forebear.jobs.doctor import Doctor
    from forebear.jobs.embedding import one_thread

    if (model is None) != (source is None):
        raise click.UsageError("give --model and --data together, or --run")
    if model is not None and (checkpoint is not None or all_checkpoints):
        raise click.UsageError("--checkpoint and --all-checkpoints go with --run; a --model has one set of weights")
    run = None if folder is None else Run(folder)
    columns = Columns(caption_column, label_column)
    data = None if source is None else DataConfig(source, columns=columns)
    named = {"model": model, "data": source, "caption_column": caption_column, "label_column": label_column}
    started = _started(run, **named, config=chosen["config"])
    config = _settings(run, **chosen)
    with one_thread():
        subject = _subject(run, model, data, config, samples, timesteps, checkpoint)
        examined = Doctor(subject, min_fidelity=min_fidelity, budget=memory_budget)
        examined.found["settings"] = plain(config)
        try:
            _examine(examined, started)
            if run is not None and all_checkpoints:
                _show_checkpoints(examined, run)
        except ForebearError as stop:
            examined.problems.append(str(stop))
    for problem in examined.problems:
        click.echo(f"WRONG: {problem}")
    if json_file is not None:
        write_json(json_file, _finite({**examined.found, "problems": examined.problems}))
    if examined.problems:
        raise SystemExit(WRONG)
    click.echo("all right")


def _subject(
    run: Run | None,
    model: Path | None,
    data: DataConfig | None,
    config: "EmbedConfig",
    samples: int,
    timesteps: int,
    checkpoint: str | None,
) -> "Subject":
    """The model and its pictures; a directory of its own wins over the run."""
    from forebear.diffusion.model import DiffusionModel
    from forebear.jobs.doctor_subject import Subject

    if model is not None and data is not None:
        return Subject.of(DiffusionModel.load(model), data, config, samples, timesteps)
    if run is None:
        raise click.UsageError("give --run, or --model and --data together")
    return Subject.of_run(run, config, samples, timesteps, checkpoint)


def _settings(
    run: Run | None, config: Path | None, dim: int | None, mode: str | None, precision: str | None
) -> "EmbedConfig":
    """Those of --config, else those that the run was embedded with, else the defaults; options win."""
    from forebear.jobs.embed_config import EmbedConfig

    values: dict[str, Any] = {}
    if config is not None:
        values = read_yaml(config)
    elif run is not None and run.has_section("embedding"):
        values = run.section("embedding")
    settings = parse(EmbedConfig, values, str(config or "embedding"))
    projection: dict[str, Any] = {k: v for k, v in (("dim", dim), ("mode", mode)) if v is not None}
    settings = replace(settings, projection=replace(settings.projection, **projection))
    return settings if precision is None else replace(settings, precision=precision)  # type: ignore[arg-type]


def _started(run: Run | None, **named: object) -> str:
    """The options of `forebear embed` that name what was examined."""
    words = ["--run", shlex.quote(str(run.folder)) if run else "RUN"]
    for option, value in named.items():
        words += [] if value is None else [f"--{option.replace('_', '-')}", shlex.quote(str(value))]
    return " ".join(words)


def _examine(doctor: "Doctor", started: str) -> None:
    """Every section, printed as soon as it is there."""
    _show_coverage(doctor)
    _show_exactness(doctor)
    fidelity = _show_fidelity(doctor)
    costs = _show_throughput(doctor)
    setting, reason = doctor.choose(fidelity, costs)
    found = doctor.recommend(setting, reason, _show_memory(doctor, setting))
    _show_time(doctor, setting, found.batch_size)
    click.echo(f"recommended, {found.reason}:\n  forebear embed {started} {found.options}\n")


def _show_coverage(doctor: "Doctor") -> None:
    rows = doctor.coverage()
    _table(
        "coverage",
        ("kind", "layers", "parameters", "share", "covered"),
        [
            (row.kind, row.layers, f"{row.parameters:,}", f"{row.share:.2%}", "yes" if row.covered else row.reason)
            for row in rows
        ],
    )


def _show_exactness(doctor: "Doctor") -> None:
    found = doctor.exactness()
    rows: list[Row] = []
    for path in found.paths:
        if path.refused:
            rows.append((path.path, "", f"does not run here: {path.refused}"))
            continue
        rows.append((path.path, f"{path.worst:.1e}", path.errors[0].name))
    rows.append(("own mode and k, projected", f"{found.own:.1e}", ""))
    _table(
        f"largest relative error against plain autograd with the math attention, {found.samples} samples",
        ("path", "error", "worst layer"),
        rows,
    )


AGREEMENT = ("inner products", "cosines", "lowest", "cosine error", "top 5", "norm spread", "norm largest")


def _agreement(row: "Fidelity") -> Row:
    mean = row.mean
    return (
        *(f"{mean.inner_spearman:.4f}", f"{mean.cosine_spearman:.4f}", f"{row.lowest:.4f}"),
        *(f"{mean.cosine_error:.4f}", f"{mean.top:.2f}", f"{mean.norm_error:.2%}", f"{row.norm_largest:.2%}"),
    )


def _show_fidelity(doctor: "Doctor") -> "list[Fidelity]":
    fidelity, folded = doctor.fidelity()
    truth = "a huge fold of the exact mode (whole gradients would not fit)" if folded else "whole gradients"
    _table(
        f"fidelity over pairs of {len(doctor.subject)} pictures at {len(doctor.subject.timesteps)} timesteps, against "
        f"{truth}",
        ("mode", "k", "precision", *AGREEMENT),
        [(row.setting.mode, row.setting.dim or "whole", row.setting.precision, *_agreement(row)) for row in fidelity],
    )
    return fidelity


def _show_throughput(doctor: "Doctor") -> "dict[tuple[Mode, Precision], Cost]":
    costs, low = doctor.throughput(), doctor.low_precision()
    rows, step = doctor.found["throughput"]["rows"], doctor.found["throughput"]["training step"]
    _table(
        f"throughput of one thread at {rows} rows; {doctor.found['bfloat16']}",
        ("mode", "precision", "samples/s", "x training step", "quartiles"),
        [
            ("training step", "float32", f"{step['samples_per_second']:.1f}", "1.00", ""),
            *(
                (mode, precision, f"{c.samples_per_second:.1f}", f"{c.ratio:.2f}", f"{c.low:.2f} to {c.high:.2f}")
                for (mode, precision), c in costs.items()
            ),
        ],
        f"bfloat16 reaches {low.low} of {low.layers} linear layers and convolutions, with {low.share:.1%} of their "
        "multiplications",
    )
    return costs


def _show_memory(doctor: "Doctor", setting: "Setting") -> "list[BatchCost]":
    batches = doctor.memory(setting)
    _table(
        f"memory of one process on top of the model, {setting.mode}, {setting.precision}; budget "
        f"{_size(doctor.budget)}",
        ("batch", "samples/s", "peak", "per row", "fits"),
        [
            (
                *(c.rows, "" if c.samples_per_second is None else f"{c.samples_per_second:.1f}", _size(c.peak)),
                *(_size(c.per_row), "yes" if c.fits else "no"),
            )
            for c in batches
        ],
    )
    return batches


def _show_time(doctor: "Doctor", setting: "Setting", batch_size: int) -> None:
    from forebear.jobs.doctor_time import STEPS

    found = doctor.time(setting, batch_size)
    draws = "" if found.draws == 1 else f" and {found.draws} noises at each"
    _table(
        f"where the time goes: {1000 * found.total:.1f} ms for a picture at {found.timesteps} timesteps{draws}, "
        f"{setting.mode}, k = {setting.dim or 'whole'}, {setting.precision}, batches of {batch_size}",
        ("step", "ms", "share", "what it does"),
        [
            (name, f"{1000 * seconds:.2f}", f"{found.shares[name]:.1%}", STEPS[name])
            for name, seconds in found.seconds.items()
        ],
    )


def _show_checkpoints(doctor: "Doctor", run: Run) -> None:
    """The run's own settings at every checkpoint; problems are added to the doctor's."""
    from forebear.jobs.doctor import at_checkpoints

    rows = at_checkpoints(doctor, run)
    _table(
        "the settings at every checkpoint",
        ("checkpoint", "error", *AGREEMENT),
        [(row.name, f"{row.error:.1e}", *_agreement(row.fidelity)) for row in rows],
    )


def _table(title: str, headings: Row, rows: Sequence[Row], note: str = "") -> None:
    """Plain text, columns aligned: numbers to the right, words to the left; the note goes below."""
    lines = [[str(cell) for cell in line] for line in (headings, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    right = [
        all(re.fullmatch(r"[\d.,e+%x-]*( [KMG]iB)?|nan|whole", line[c]) for line in lines[1:])
        for c in range(len(widths))
    ]
    click.echo(title)
    for line in lines:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        click.echo(f"  {'  '.join(cells)}".rstrip())
    click.echo(f"  {note}\n" if note else "")


def _size(count: float | None) -> str:
    if count is None:
        return ""
    unit = next((unit for unit in ("G", "M", "K") if count >= UNITS[unit]), "")
    return f"{count / UNITS[unit]:.1f} {unit}iB" if unit else f"{count:.0f}"


def _finite(value: Any) -> Any:
    """With numbers that JSON cannot hold as null."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
