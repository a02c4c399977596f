"""Settings are read once, and a wrong one is named."""

from pathlib import Path

import pytest

from forebear.config import parse, plain, read_yaml, to_yaml
from forebear.data import Columns, DataConfig
from forebear.diffusion.building import ModelConfig
from forebear.diffusion.training import TrainConfig, TrainingConfig
from forebear.errors import ConfigError

FULL = TrainConfig(
    data=DataConfig("digits", columns=Columns(group_columns=("class",)), where={"class": ("one", "two")}, limit=7),
    model=ModelConfig(conditioning="text", unet={"block_out_channels": [8, 16]}, scheduler={"beta_start": 1e-4}),
    training=TrainingConfig(epochs=3, checkpoint_epochs=(1, 3), learning_rate=1e-5),
)


def test_plain_values_and_yaml_read_back_to_the_same_configuration(tmp_path: Path) -> None:
    assert parse(TrainConfig, plain(FULL), "test") == FULL
    path = tmp_path / "train.yaml"
    path.write_text(to_yaml(plain(FULL)), encoding="utf-8")
    assert parse(TrainConfig, read_yaml(path), str(path)) == FULL


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"data": {"source": "digits"}, "traning": {}}, "train.yaml: traning"),
        ({"data": {"source": "digits"}, "training": {"epoch": 3}}, r"training\.epoch: Unexpected"),
        ({"data": {"source": "digits", "columns": {"captions": "x"}}}, r"data\.columns\.captions"),
        ({"data": {"source": "digits"}, "training": {"epochs": "many"}}, r"training\.epochs"),
        ({"data": {"source": "digits"}, "model": {"conditioning": "sound"}}, r"model\.conditioning"),
        ({}, "data: Field required"),
    ],
)
def test_an_unknown_or_wrong_setting_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(TrainConfig, values, "train.yaml")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"save_state_every": 0}, "save_state_every"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"caption_dropout": -0.1}, "caption_dropout"),
        ({"epochs": 3, "checkpoint_epochs": (4,)}, "checkpoint_epochs"),
    ],
)
def test_settings_that_cannot_train_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(TrainingConfig, settings, "training")


@pytest.mark.parametrize("settings", [{"limit": 0}, {"max_bytes": 0}])
def test_limits_that_leave_nothing_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        parse(DataConfig, {"source": "digits", **settings}, "data")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"- a\n- b\n", "name: value"),
        (b"a: [1,\n", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"", "name"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=named):
        read_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        read_yaml(tmp_path)
