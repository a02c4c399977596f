"""A run like another one, with images planted in its training set that do not belong there.

Foreign images come from another source; mislabelled ones are the run's own under another one's caption or label. The
group `planted` marks both, and `outliers` measures whether they are found.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse, plain
from forebear.data import Columns, DataConfig, Sample, TrainingSet, open_training_set
from forebear.diffusion.building import ModelConfig
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.training import TrainConfig, TrainingConfig, train
from forebear.errors import ConfigError
from forebear.evaluation.figures import check_name
from forebear.evaluation.ground_truth import evaluation_folder, keep_plan
from forebear.files import write_text
from forebear.images import to_picture
from forebear.jobs import EmbedConfig, embed
from forebear.randomness import keyed_permutation
from forebear.run import Run

PLANTED_GROUP = "planted"
FOREIGN, MISLABELLED, OWN = "foreign", "mislabelled", "no"
Share = Annotated[float, Field(ge=0, lt=0.5)]


@dataclass(frozen=True, config=STRICT)
class PlantingConfig:
    """What is planted, and how the model is trained on it."""

    foreign: DataConfig = field(default_factory=lambda: DataConfig("digits"))
    """Where foreign images come from."""
    foreign_share: Share = 0.02
    """Foreign images for each of the run's own."""
    mislabelled_share: Share = 0.0
    """Part of the run's own images that get the caption and label of another one."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings that replace those of the run's training, such as {epochs: 40, checkpoint_epochs: [20, 40]}."""
    embedding: dict[str, Any] = field(default_factory=dict)
    """Settings that replace those of the run's embedding."""
    seed: int = 0
    """Of the choice of images."""

    def __post_init__(self) -> None:
        """Refuse to plant nothing."""
        if not self.foreign_share and not self.mislabelled_share:
            raise ConfigError("both foreign_share and mislabelled_share are 0, so nothing would be planted")


@plain_dataclass(frozen=True)
class Planted:
    """A training picture of the new run."""

    pixels: NDArray[np.float32]
    """float32[C, H, W]."""
    caption: str
    label: int | None
    groups: Mapping[str, str]
    kind: str
    """`foreign`, `mislabelled` or `no`."""


def planted_run(run: Run, config: PlantingConfig, name: str = "outliers") -> Run | None:
    """Train and embed a run with planted images in RUN/evaluation/NAME/run; None when a signal stopped the training.

    What is there already is kept: the same call goes on where it stopped. Raises ConfigError when the folder was made
    with other settings, when a model without captions or classes is to be mislabelled, and what opening the data,
    training and embedding raise.
    """
    folder = evaluation_folder(run, check_name(name))
    origin = str(run.settings_file)
    data = parse(DataConfig, run.section("data"), origin)
    training_set, foreign = open_training_set(data), open_training_set(config.foreign)
    settings = TrainConfig(
        planted_data(folder / "images", training_set, parse(ModelConfig, run.section("model"), origin)),
        parse(ModelConfig, run.section("model"), origin),
        parse(TrainingConfig, {**run.section("training"), **config.training}, "planting.training"),
    )
    keep_plan(
        folder,
        {
            "planting": plain(replace(config, embedding={})),
            "dataset": training_set.fingerprint,
            "foreign": foreign.fingerprint,
        },
    )
    model = DiffusionModel.load(run.model_folder)
    write_pictures(folder / "images", plant(training_set, foreign, config, model))
    planted = Run(folder / "run")
    if not train(planted, settings):
        return None
    embedding = run.section("embedding") if run.has_section("embedding") else {}
    embed(planted, parse(EmbedConfig, {**embedding, **config.embedding}, "planting.embedding"))
    return planted


def planted_data(folder: Path, training_set: TrainingSet, model: ModelConfig) -> DataConfig:
    """How `write_pictures` is read back."""
    label = "label" if model.conditioning == "class" else None
    return DataConfig(str(folder), columns=Columns("caption", label, (*training_set.group_names, PLANTED_GROUP)))


def plant(
    training_set: TrainingSet, foreign: TrainingSet, config: PlantingConfig, model: DiffusionModel
) -> list[Planted]:
    """The run's own pictures with their true or exchanged captions, then the foreign ones.

    A foreign picture keeps its caption; where the model knows classes it gets the label of a picture chosen by key.
    """
    by_id = sorted(training_set.samples, key=lambda sample: sample.id)
    strangers = _chosen(foreign, round(config.foreign_share * len(by_id)), "foreign", config.seed)
    exchanged = _exchanged(by_id, round(config.mislabelled_share * len(by_id)), config.seed, model)
    size, channels = model.image_size, model.image_channels
    found = []
    for row, sample in enumerate(training_set.samples):
        said = exchanged.get(sample.id, sample)
        (pixels,) = training_set.pixels([row], size, channels)
        kind = MISLABELLED if sample.id in exchanged else OWN
        found.append(Planted(pixels, said.caption, said.label, sample.groups, kind))
    labels = keyed_permutation(len(by_id), "foreign labels", config.seed)
    for number, row in enumerate(strangers):
        (pixels,) = foreign.pixels([row], size, channels)
        label = by_id[labels[number % len(by_id)]].label
        found.append(Planted(pixels, foreign.samples[row].caption, label, {}, FOREIGN))
    return found


def write_pictures(folder: Path, planted: Sequence[Planted]) -> None:
    """PNG files and metadata.jsonl in the ImageFolder convention; nothing is done when the metadata is there."""
    metadata = folder / "metadata.jsonl"
    if metadata.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, one in enumerate(planted):
        file = f"{number:06d}.png"
        to_picture(one.pixels).save(folder / file)
        line = {"file_name": file, "caption": one.caption, "label": one.label, **one.groups, PLANTED_GROUP: one.kind}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(metadata, "\n".join(lines) + "\n")


def _chosen(pool: TrainingSet, count: int, *key: str | int) -> list[int]:
    if count > len(pool):
        raise ConfigError(f"{count} foreign images are to be planted, their source has {len(pool)}; plant fewer")
    by_id = sorted(range(len(pool)), key=lambda row: pool.samples[row].id)
    return [by_id[place] for place in keyed_permutation(len(pool), *key)[:count].tolist()]


def _exchanged(by_id: Sequence[Sample], count: int, seed: int, model: DiffusionModel) -> dict[str, Sample]:
    """By id of a mislabelled sample, the sample whose caption and label it gets: one that differs in what counts."""
    if not count:
        return {}
    kind = model.conditioner.kind
    if kind == "unconditional":
        raise ConfigError("the model knows neither captions nor classes; set planting.mislabelled_share to 0")

    def told(sample: Sample) -> str | int | None:
        return sample.label if kind == "class" else sample.caption

    if len({told(sample) for sample in by_id}) < 2:
        raise ConfigError(
            "all images have one caption or label, so none can be mislabelled; set mislabelled_share to 0"
        )
    order = keyed_permutation(len(by_id), "mislabelled", seed).tolist()
    found = {}
    for place in range(count):
        own = by_id[order[place]]
        others = (by_id[order[(place + step) % len(order)]] for step in range(1, len(order)))
        found[own.id] = next(other for other in others if told(other) != told(own))
    return found
