"""`forebear demo`: from the shipped OpenMoji model to a report on four generated pictures."""

import os
import shutil
import time
from pathlib import Path

import click

from forebear.cli.options import run_option
from forebear.errors import ModelError
from forebear.images import to_picture
from forebear.run import Run

PROMPTS = ("red heart", "cat face", "flag of France", "woman police officer dark skin tone")
SEED = 3
GUIDANCE = 1.0
STEPS = 50
TIMESTEPS = 4
"""Per image and checkpoint: what two cores embed in about four minutes."""


@click.command()
@run_option(default="runs/demo")
@click.option(
    "--model",
    "shipped",
    type=click.Path(path_type=Path),
    default=Path("deploy/demo/openmoji"),
    show_default=True,
    help="The trained run that the repository ships.",
)
@click.option("--workers", type=click.IntRange(0), help="One-thread Ray actors.  [default: one for each core]")
def demo(run: Run, shipped: Path, workers: int | None) -> None:
    """Embed OpenMoji's training images, generate four pictures, and say which images each descends from."""
    started = time.monotonic()
    _copy_shipped(shipped, run)
    _embed_and_index(run, os.cpu_count() or 1 if workers is None else workers)
    report = _generate_and_attribute(run)
    click.echo(f"done in {time.monotonic() - started:.0f} s; open {report.resolve()} in a browser")


def _copy_shipped(shipped: Path, run: Run) -> None:
    if not (shipped / "run.yaml").is_file():
        raise ModelError(f"{shipped} is not there; run `forebear demo` from the repository's root, or give --model")
    if not run.settings_file.is_file():
        click.echo(f"copying the trained model from {shipped} to {run.folder}")
        run.folder.mkdir(parents=True, exist_ok=True)
        for name in ("model", "checkpoints", "events.parquet", "run.yaml"):  # run.yaml last: it marks a whole copy
            source, target = shipped / name, run.folder / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)


def _embed_and_index(run: Run, workers: int) -> None:
    from forebear.index import IndexConfig
    from forebear.jobs import EmbedConfig, build_indexes, embed

    embed(run, EmbedConfig(timesteps=TIMESTEPS, workers=workers))
    click.echo("building one index for each estimator")
    build_indexes(run, None, IndexConfig())


def _generate_and_attribute(run: Run) -> Path:
    from forebear.attribution import Attributor, ReportEntry, write_report
    from forebear.cli.attribute import echo_attribution
    from forebear.diffusion.model import DiffusionModel
    from forebear.diffusion.sampling import generate

    click.echo(f"generating {len(PROMPTS)} pictures")
    model = DiffusionModel.load(run.model_folder)
    unlabelled = [None] * len(PROMPTS)
    pixels = generate(model, PROMPTS, unlabelled, [SEED] * len(PROMPTS), steps=STEPS, guidance=GUIDANCE)
    attributor = Attributor.open(run.folder)
    pictures = run.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    entries = []
    for prompt, array in zip(PROMPTS, pixels.numpy(), strict=True):
        picture = to_picture(array)
        picture.save(pictures / f"{prompt.replace(' ', '-')}.png")
        answers = attributor.attribute_all(picture, caption=prompt, first="retrac-matched", top_k=12)
        click.echo(f"\n{prompt}")
        echo_attribution(answers[0])
        entries.append(ReportEntry(picture, prompt, answers))
    report = run.folder / "report.html"
    write_report(report, entries, attributor.training_set)
    return report
