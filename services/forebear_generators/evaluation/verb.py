"""`forebear evaluate quantization`: quantised generators beside the full-precision model."""

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
    help="A folder that `forebear quantize` wrote of the run's model. May be repeated.",
)
@click.option("--config", type=click.Path(path_type=Path), help="YAML file with the evaluation's settings.")
@click.option("--name", default="quantization", show_default=True, help="Folder of the results in RUN/evaluation.")
@click.option("--pictures", type=click.IntRange(3), help="Seeds that every generator starts from.  [default: 64]")
@click.option("--prompt", "prompts", multiple=True, help="May be repeated.  [default: captions of training images]")
@click.option("--label", "labels", multiple=True, type=int, help="Class, for class-conditional models; repeatable.")
@click.option("--seed", type=int, help="Of the first picture.  [default: 0]")
@click.option("--backend", help="Of the generators; see docs/quantisation.md.  [default: auto]")
@click.option("--estimator", help="Whose attributions are compared.  [default: retrac-ridge]")
def quantization(
    run: Run,
    generators: tuple[Path, ...],
    config: Path | None,
    name: str,
    pictures: int | None,
    prompts: tuple[str, ...],
    labels: tuple[int, ...],
    seed: int | None,
    backend: str | None,
    estimator: str | None,
) -> None:
    """Do quantised generators make the same pictures as the run's model, and with the same ancestors?

    Temporal features, trajectories, pictures, bytes, seconds and, where the run has a store, attributions are compared
    at equal prompts, seeds and sampler.
    """
    from forebear_generators.evaluation.comparing import run_quantization
    from forebear_generators.evaluation.settings import GeneratorsConfig

    settings = chosen_settings(
        GeneratorsConfig,
        config,
        generators=generators,
        pictures=pictures,
        prompts=prompts,
        labels=labels,
        seed=seed,
        backend=backend,
        estimator=estimator,
    )
    finish(run, run_quantization(run, settings, name))
