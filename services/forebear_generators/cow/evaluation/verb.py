"""`forebear evaluate cow`: Cyclic One-Way Diffusion beside other ways to keep a part of a picture."""

from pathlib import Path

import click

from forebear.cli.evaluate import chosen_settings, finish
from forebear.cli.options import run_option
from forebear.run import Run


@click.command()
@run_option()
@click.option(
    "--generator",
    "generators",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder that `forebear quantize` wrote of the run's model, to make COW's pictures too. May be repeated.",
)
@click.option("--config", type=click.Path(path_type=Path), help="YAML file with the evaluation's settings.")
@click.option("--name", default="cow", show_default=True, help="Folder of the results in RUN/evaluation.")
@click.option("--conditions", type=click.IntRange(2), help="Training images that are kept.  [default: 64]")
@click.option("--steps", type=int, help="N of every method.  [default: 10]")
@click.option("--seed", type=int, help="Of the choice of conditions and of the first picture.  [default: 0]")
@click.option("--backend", help="Of the generators; see docs/quantisation.md.  [default: auto]")
def cow(
    run: Run,
    generators: tuple[Path, ...],
    config: Path | None,
    name: str,
    conditions: int | None,
    steps: int | None,
    seed: int | None,
    backend: str | None,
) -> None:
    """Does COW keep the condition and follow the words, and at what price?

    Preservation inside the mask, the seam, adherence by the model's own loss, diversity, calls and seconds, beside
    pasting, SDEdit and RePaint; with COW's settings varied where the settings say so.
    """
    from forebear_generators.cow.evaluation.comparing import run_cow
    from forebear_generators.cow.evaluation.settings import CowEvaluationConfig

    settings = chosen_settings(
        CowEvaluationConfig,
        config,
        generators=generators,
        conditions=conditions,
        steps=steps,
        seed=seed,
        backend=backend,
    )
    finish(run, run_cow(run, settings, name))
