"""`forebear quantize`: a quantised generator of a diffusers model."""

from pathlib import Path
from typing import Any

import click

from forebear.config import parse, read_yaml


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the generator.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of settings; options below win.")
@click.option("--variant", help="w4 or w8 with a8, a16 or a32, for example w4a8.  [default: w8a8]")
@click.option("--sampler", help="Sampler that the generator is made for: own, ddim, dpm-solver++.  [default: own]")
@click.option("--steps", type=click.IntRange(1), help="Its steps.  [default: 50]")
@click.option("--guidance", type=float, help="Guidance of the calibration pictures.  [default: 1]")
@click.option("--pictures", type=click.IntRange(1), help="Calibration pictures.  [default: 32]")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="Captions of calibration pictures, one a line; else the model's words.",
)
@click.option(
    "--iterations", type=click.IntRange(0), help="Round by AdaRound, with so many for each block; 20000 in the papers."
)
@click.option("--learning-rate", type=float, help="Of AdaRound; 0.01 for a thousand iterations.  [default: 0.001]")
@click.option("--seed", type=int, help="Seed of the calibration.  [default: 0]")
@click.option("--restart", is_flag=True, help="Forget what an interrupted run with the same --out has done.")
def quantize(model: Path, out: Path, config: Path | None, restart: bool, **options: Any) -> None:
    """Quantise MODEL, a diffusers directory, by the Temporal Feature Matters framework.

    The same command goes on after an interruption.
    """
    from forebear_generators.quantisation.quantise import quantise
    from forebear_generators.quantisation.settings import QuantisationConfig
    from forebear_generators.quantisation.workspace import restart as forget

    values = {} if config is None else read_yaml(config)
    chosen = parse(QuantisationConfig, _merged(values, options), "settings" if config is None else str(config))
    if restart:
        forget(out)
    description = quantise(model, chosen, out)
    report = description.report
    click.echo(
        f"{chosen.variant} generator in {out}: {report['bytes']:,} bytes for {report['bytes_full_precision']:,} "
        f"({report['share']:.3f}), of them {report['bytes_of_cache']:,} of cached temporal features"
    )
    click.echo(
        f"relative error of temporal features: {report['relative_error_block']:.2e} computed, "
        f"{report['relative_error_cache']:.2e} cached; kept: {len(description.structure.cached)} cached of "
        f"{report['features']}"
    )


def _merged(values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Settings of a file with the options that were given on top."""
    merged = dict(values)
    for name in ("variant", "sampler", "steps", "guidance"):
        if options[name] is not None:
            merged[name] = options[name]
    calibration, rounding = dict(merged.get("calibration") or {}), dict(merged.get("rounding") or {})
    for name in ("pictures", "seed"):
        if options[name] is not None:
            calibration[name] = options[name]
    if options["prompts"] is not None:
        calibration["prompts"] = [line for line in _lines(options["prompts"]) if line]
    for name in ("iterations", "learning_rate"):
        if options[name] is not None:
            rounding[name] = options[name]
    if options["iterations"] is not None:
        rounding.setdefault("method", "adaround")
    return merged | {"calibration": calibration, "rounding": rounding}


def _lines(path: Path) -> list[str]:
    from forebear.errors import ConfigError

    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path} cannot be read as text ({problem}); give a file with one caption a line") from None
