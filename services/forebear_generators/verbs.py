"""`forebear generate`: pictures from a trained model."""

from pathlib import Path

import click

from forebear.errors import ConfigError
from forebear.images import grid
from forebear.progress import progress


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Diffusers directory, for example runs/NAME/model.")
@click.option("--generator", type=click.Path(path_type=Path), help="Instead: a folder that `forebear quantize` wrote.")
@click.option(
    "--backend", default="auto", show_default=True, help="Of a quantised generator; see docs/quantisation.md."
)
@click.option("--prompt", "prompts", multiple=True, help="Caption of a picture; may be repeated.")
@click.option("--label", "labels", multiple=True, type=int, help="Class of a picture, for class-conditional models.")
@click.option(
    "--count", type=click.IntRange(1), default=1, show_default=True, help="Pictures for each prompt or label."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the first picture; the next ones count up.")
@click.option("--sampler", help="own (DDIM, or Euler for flow models), ddim, dpm-solver++.  [default: the generator's]")
@click.option("--steps", type=click.IntRange(1), help="[default: the generator's, or 50]")
@click.option("--batch", type=click.IntRange(1), help="Pictures at once.  [default: all]")
@click.option("--guidance", type=float, default=1.0, show_default=True, help="1 switches classifier-free guidance off.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("pictures"), show_default=True, help="Folder.")
def generate(
    model: Path | None,
    generator: Path | None,
    backend: str,
    prompts: tuple[str, ...],
    labels: tuple[int, ...],
    count: int,
    seed: int,
    sampler: str | None,
    steps: int | None,
    batch: int | None,
    guidance: float,
    out: Path,
) -> None:
    """Generate pictures and write each as PNG, and all of them as one grid."""
    from forebear_generators.generator import Generator

    folder = generator or model
    if folder is None or (generator is not None and model is not None):
        raise ConfigError("give either --model, a diffusers directory, or --generator, a quantised one")
    wanted: list[tuple[str, int | None]] = [(prompt, None) for prompt in prompts]
    wanted += [("", label) for label in labels]
    wanted = wanted or [("", None)]
    asked = [(*pair, seed + number) for pair in wanted for number in range(count)]
    maker = Generator.load(folder, backend=backend)
    rounds = -(-len(asked) // (batch or len(asked)))
    with progress("generating", (steps or maker.steps) * rounds, "steps") as bar:
        pictures = maker.pictures(
            [prompt for prompt, _, _ in asked],
            [number for _, _, number in asked],
            labels=[label for _, label, _ in asked],
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            batch=batch,
            on_step=lambda _: bar.advance(),
        )
    out.mkdir(parents=True, exist_ok=True)
    for (prompt, label, number), picture in zip(asked, pictures, strict=True):
        name = prompt or (f"class {label}" if label is not None else "picture")
        picture.save(out / f"{name.replace(' ', '-').replace('/', '-')}-{number}.png")
    grid(pictures, columns=min(8, len(pictures)), scale=3).save(out / "grid.png")
    click.echo(f"{len(pictures)} pictures and grid.png in {out}, by {maker.variant} with {maker.facts['backend']}")
    if maker.facts.get("storage_only"):
        click.echo(maker.facts["storage_only"])
