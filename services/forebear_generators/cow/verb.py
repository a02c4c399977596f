"""`forebear cow`: pictures from an image, a mask and a prompt, by a model that is left as it is."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from forebear.config import plain, read_yaml
from forebear.errors import ConfigError
from forebear.files import whole_file, write_json
from forebear.progress import progress
from forebear_generators.cow.settings import MODES, CowConfig, preset

if TYPE_CHECKING:
    from forebear_generators.cow.condition import CowCondition
    from forebear_generators.cow.sampler import CowResult
    from forebear_generators.generator import Generator

RECORD = "cow.json"
T = TypeVar("T")


@click.command()
@click.option("--image", "images", multiple=True, type=click.Path(path_type=Path), help="The condition; repeatable.")
@click.option(
    "--mask",
    "masks",
    multiple=True,
    type=click.Path(path_type=Path),
    help="White where the image is kept, of its size: one for all images, or one each.  [default: keep all]",
)
@click.option("--prompt", "prompts", multiple=True, help="One for all images, or one each.")
@click.option("--label", "labels", multiple=True, type=int, help="The same, for class-conditional models.")
@click.option("--model", type=click.Path(path_type=Path), help="Diffusers directory.  [default: that of --run]")
@click.option("--generator", type=click.Path(path_type=Path), help="Instead: a folder that `forebear quantize` wrote.")
@click.option("--backend", default="auto", show_default=True, help="Of a quantised generator.")
@click.option("--mode", type=click.Choice(list(MODES)), default="scene", show_default=True, help="Preset of settings.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of settings; options below win.")
@click.option("--steps", type=int, help="[default: 10, or the generator's]")
@click.option("--cycles", type=int, help="At most.  [default: 10]")
@click.option("--strength", type=float, help="From 0, keep every pixel, to 1, follow the text.  [default: the mode's]")
@click.option("--guidance", type=float, help="[default: 7.5]")
@click.option("--size", help="Side of the condition on the canvas in pixels, half or canvas.  [default: the mode's]")
@click.option("--x", type=int, help="Pixels to its left.  [default: centred]")
@click.option("--y", type=int, help="Pixels above it.  [default: 0]")
@click.option("--edge", type=click.Choice(["hard", "soft"]), help="Whether grey of masks is blended.  [default: hard]")
@click.option("--keep", type=click.Choice(["white", "black"]), help="What of masks is kept.  [default: white]")
@click.option("--inversion", type=click.Choice(["alone", "canvas"]), help="Of the condition.  [default: alone]")
@click.option("--tolerance", type=float, help="End cycles when the boundary is this still.  [default: 0, never]")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Pictures of each image.")
@click.option("--seed", default=42, show_default=True, help="Seed of each image's first picture; others count up.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="More: quicker, exact to rounding.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("pictures"), show_default=True, help="Folder.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="Attribute the pictures with this run.")
@click.option("--estimator", help="Of --run.  [default: retrac-ridge]")
@click.option("--top-k", type=click.IntRange(1), default=8, show_default=True, help="Ancestors to show, with --run.")
def cow(
    images: tuple[Path, ...],
    masks: tuple[Path, ...],
    prompts: tuple[str, ...],
    labels: tuple[int, ...],
    mode: str,
    config: Path | None,
    count: int,
    seed: int,
    batch: int,
    out: Path,
    run_folder: Path | None,
    estimator: str | None,
    top_k: int,
    **options: Any,
) -> None:
    """Make pictures around images by Cyclic One-Way Diffusion, without training.

    Writes a PNG for each, grid.png, and cow.json with settings, calls and what was preserved. With --run, also which
    part the condition and which the training images have in them: attribution.json, attribution.html and grids.
    """
    from forebear_generators.cow.condition import CowCondition
    from forebear_generators.cow.sampler import cow as make
    from forebear_generators.cow.sampler import planned_calls

    settings = preset(mode, _merged({} if config is None else read_yaml(config), options))
    conditions = [
        CowCondition(image, mask, prompt, label, seed + number)
        for image, mask, prompt, label in zip(
            images,
            _each(masks, len(images), "masks", None),
            _each(prompts, len(images), "prompts", ""),
            _each(labels, len(images), "labels", None),
            strict=True,
        )
        for number in range(count)
    ]
    maker = _opened(options["model"], options["generator"], options["backend"], run_folder)
    with progress("cow", planned_calls(maker, len(conditions), settings, batch), "calls") as bar:
        made = make(maker, conditions, settings, batch=batch, on_call=lambda _: bar.advance())
    names = _names(conditions)
    _write(out, mode, settings, maker, made, conditions, names)
    if run_folder is not None:
        _attribute(out, run_folder, maker, made, conditions, names, estimator, top_k)


def _merged(values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Settings of a file with the options that were given on top."""
    merged = dict(values)
    for name in ("steps", "cycles", "strength", "guidance", "edge", "keep", "inversion", "tolerance"):
        if options[name] is not None:
            merged[name] = options[name]
    placement = {name: options[name] for name in ("x", "y") if options[name] is not None}
    if options["size"] is not None:
        size: str = options["size"]
        placement["size"] = int(size) if size.isdecimal() else size
    return merged | {"placement": dict(merged.get("placement") or {}) | placement}


def _each(given: Sequence[T], count: int, what: str, without: T) -> list[T]:
    """One for each of `count` images; raises ConfigError when there are neither none, one nor as many."""
    if len(given) in (0, 1):
        return [given[0] if given else without] * count
    if len(given) != count:
        raise ConfigError(f"{len(given)} {what} and {count} images; give one for all images, or one for each")
    return list(given)


def _opened(model: Path | None, generator: Path | None, backend: str, run_folder: Path | None) -> "Generator":
    from forebear.run import Run
    from forebear_generators.generator import Generator

    if model is not None and generator is not None:
        raise ConfigError("give either --model, a diffusers directory, or --generator, a quantised one")
    folder = generator or model or (None if run_folder is None else Run(run_folder).model_folder)
    if folder is None:
        raise ConfigError("give --model, a diffusers directory, --generator, a quantised one, or --run")
    return Generator.load(folder, backend=backend)


def _names(conditions: Sequence["CowCondition"]) -> list[str]:
    """The image's name, its place among the conditions and the seed: no two are the same."""
    return [f"{Path(str(one.image)).stem}-{place}-seed{one.seed}" for place, one in enumerate(conditions)]


def _write(
    out: Path,
    mode: str,
    settings: CowConfig,
    maker: "Generator",
    made: "CowResult",
    conditions: Sequence["CowCondition"],
    names: Sequence[str],
) -> None:
    from forebear_generators.cow.report import condition_grid
    from forebear_generators.cow.share import similarity

    alike = similarity(made)
    for name, picture in [*zip(names, made.pictures(), strict=True), ("grid", condition_grid(made))]:
        with whole_file(out / f"{name}.png") as part:
            picture.save(part, format="PNG")
    rows = zip(names, conditions, alike, made.cycles, made.changes, strict=True)
    record = {
        "mode": mode,
        "settings": plain(settings),
        "generator": {"variant": maker.variant, **maker.facts},
        "calls": made.calls,
        "evaluations": made.evaluations,
        "timesteps": made.timesteps,
        "pictures": [
            {
                "name": name,
                "image": str(one.image),
                "mask": None if one.mask is None else str(one.mask),
                "prompt": one.prompt,
                "label": one.label,
                "seed": one.seed,
                "cycles": cycles,
                "changes": changes,
                "inside_mask": asdict(kept),
            }
            for name, one, kept, cycles, changes in rows
        ],
    }
    write_json(out / RECORD, record)
    count = len(names)
    click.echo(f"{count} pictures, grid.png and {RECORD} in {out}, by {maker.variant} with {maker.facts['backend']}")
    click.echo(f"{made.calls} calls of the denoiser, {made.evaluations} evaluations")
    for name, kept in zip(names, alike, strict=True):
        alike_there = "" if kept.correlation is None else f", correlation {kept.correlation:.2f}"
        click.echo(f"{name}: inside the mask PSNR {kept.psnr:.1f} dB{alike_there}")


def _attribute(
    out: Path,
    run_folder: Path,
    maker: "Generator",
    made: "CowResult",
    conditions: Sequence["CowCondition"],
    names: Sequence[str],
    estimator: str | None,
    top_k: int,
) -> None:
    from forebear.attribution import Attributor
    from forebear.estimators import DEFAULT_ESTIMATOR
    from forebear_generators.cow.report import attribute_cow, write_attribution

    attributor = Attributor.open(run_folder)
    name = estimator or DEFAULT_ESTIMATOR
    found = attribute_cow(attributor, maker, made, conditions, estimator=name, top_k=top_k)
    written = write_attribution(out, attributor, made, conditions, found, names)
    for title, one in zip(names, found, strict=True):
        nearest = "; ".join(
            f"{answer.query.region.label if answer.query.region else 'whole'}: {answer.proponents[0].sample_id}"
            for answer in one.answers
        )
        click.echo(
            f"{title}: the condition explains {one.share.explained:.0%} of the loss in the kept area, "
            f"{one.share.share:.0%} of all; nearest ancestors {nearest}"
        )
    click.echo(f"attribution: {', '.join(str(path) for path in written)}")
