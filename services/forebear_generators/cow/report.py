"""A picture made from a condition, attributed: the condition's own share, and ancestors inside and outside of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from forebear.attribution import Attribution, Attributor, AuditConfig, ReportEntry
from forebear.attribution.region import marked
from forebear.errors import ConfigError
from forebear.estimators import DEFAULT_ESTIMATOR
from forebear.files import whole_file, write_json
from forebear.images import grid, to_picture
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.sampler import CowResult
from forebear_generators.cow.share import ConditionShare, condition_shares
from forebear_generators.generator import Generator

KEPT, AROUND = "kept area", "surroundings"
JSON_FILE, PAGE_FILE = "attribution.json", "attribution.html"


@dataclass(frozen=True)
class AttributedCow:
    """One picture's sources."""

    share: ConditionShare
    """Of the condition."""
    whole: Attribution
    kept: Attribution
    """Of the loss in the kept area alone."""
    around: Attribution | None
    """Of the loss outside of it; None when everything is kept."""

    @property
    def answers(self) -> tuple[Attribution, ...]:
        return tuple(each for each in (self.whole, self.kept, self.around) if each is not None)


def attribute_cow(
    attributor: Attributor,
    generator: Generator,
    result: CowResult,
    conditions: Sequence[CowCondition],
    *,
    estimator: str = DEFAULT_ESTIMATOR,
    top_k: int = 8,
    audit: AuditConfig | None = None,
) -> list[AttributedCow]:
    """Attribute each picture of a result to its condition, and to the training images of the attributor's run.

    Raises ConfigError when the run's model sees pictures of another size; what `Attributor.embed_query` raises.
    """
    side = result.pixels.shape[-1]
    if attributor.image_size != side:
        raise ConfigError(
            f"the pictures have {side} pixels along a side, and the run's model sees {attributor.image_size}; "
            "attribute them with the run whose model made them"
        )
    shares = condition_shares(generator.model, result, conditions)
    found = []
    for row, condition in enumerate(conditions):
        picture, kept = result.pixels[row].numpy(), result.kept[row].numpy()
        answers: list[Attribution | None] = []
        for label, mask in (("", None), (KEPT, kept), (AROUND, 1.0 - kept)):
            if mask is not None and not mask.any():
                answers.append(None)
                continue
            region = None if mask is None else attributor.region(mask, picture)
            if region is not None:
                region = replace(region, record=replace(region.record, label=label))
            embedded = attributor.embed_query(
                picture,
                condition.prompt,
                condition.label,
                mask=region,
                estimators=[estimator],
                by_timestep=audit is not None,
            )
            copies = attributor.examine_copies(embedded, audit) if region is None else None
            answers.append(attributor.score(embedded, estimator, top_k, audit, copies))
        whole, inside, around = answers
        if whole is None or inside is None:
            raise ConfigError("nothing of the picture is kept; give a mask that keeps a part")
        found.append(AttributedCow(shares[row], whole, inside, around))
    return found


def write_attribution(
    folder: Path,
    attributor: Attributor,
    result: CowResult,
    conditions: Sequence[CowCondition],
    found: Sequence[AttributedCow],
    names: Sequence[str],
) -> list[Path]:
    """Write one JSON file, one page, and for each of B names a grid of the nearest ancestors, NAME-ancestors.png.

    The grid's rows are the whole picture, the kept area and the surroundings, each with its proponents, first to last.
    """
    pictures = result.pictures()
    plain = [
        {
            "name": name,
            "prompt": condition.prompt,
            "label": condition.label,
            "seed": condition.seed,
            "condition": one.share.to_dict(),
            "answers": {
                answer.query.region.label if answer.query.region else "whole picture": answer.to_dict()
                for answer in one.answers
            },
        }
        for name, condition, one in zip(names, conditions, found, strict=True)
    ]
    write_json(folder / JSON_FILE, plain)
    attributor.report(
        folder / PAGE_FILE,
        [ReportEntry(picture, name, one.answers) for picture, name, one in zip(pictures, names, found, strict=True)],
    )
    written = [folder / JSON_FILE, folder / PAGE_FILE]
    for name, picture, one in zip(names, pictures, found, strict=True):
        target = folder / f"{name}-ancestors.png"
        with whole_file(target) as part:
            _ancestors(attributor, picture, one).save(part, format="PNG")
        written.append(target)
    return written


def condition_grid(result: CowResult, columns: int = 6) -> Image.Image:
    """Each condition on its grey canvas beside its picture."""
    pairs = [
        picture
        for canvas, made in zip(result.canvas.numpy(), result.pictures(), strict=True)
        for picture in (to_picture(np.asarray(canvas)), made)
    ]
    return grid(pairs, columns=min(columns, len(pairs)), scale=max(1, 96 // pairs[0].width))


def _ancestors(attributor: Attributor, picture: Image.Image, one: AttributedCow) -> Image.Image:
    side = 96
    tiles = []
    for answer in one.answers:
        region = answer.query.region
        tiles.append(
            picture.resize((side, side), Image.Resampling.NEAREST) if region is None else marked(picture, region, side)
        )
        tiles += [
            attributor.training_set.picture(influence.row, side).resize((side, side)) for influence in answer.proponents
        ]
    return grid(tiles, columns=len(tiles) // len(one.answers))
