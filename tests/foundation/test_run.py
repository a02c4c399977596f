"""A run keeps the settings that made it, and refuses others."""

from pathlib import Path

import pytest

from forebear.errors import ConfigError
from forebear.run import Run, differences
from forebear.version import __version__


def test_sections_are_recorded_beside_each_other(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.record("data", {"source": "digits"})
    run.record("training", {"epochs": 3, "betas": [0.9, 0.99], "learning_rate": 1e-5})
    assert run.section("data") == {"source": "digits"}
    assert run.section("training") == {"epochs": 3, "betas": [0.9, 0.99], "learning_rate": 1e-5}
    assert run.settings()["version"] == __version__
    assert run.has_section("data")
    assert not run.has_section("store")


def test_the_same_settings_may_be_recorded_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.record("training", {"epochs": 3})
    before = run.settings_file.read_bytes()
    run.record("training", {"epochs": 3})
    assert run.settings_file.read_bytes() == before


def test_other_settings_are_refused_by_name_and_change_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.record("model", {"unet": {"layers": 1}, "size": 8})
    before = run.settings_file.read_bytes()
    with pytest.raises(ConfigError, match=r"model: unet\.layers: 1 -> 2.*use a new run folder"):
        run.record("model", {"unet": {"layers": 2}, "size": 8})
    assert run.settings_file.read_bytes() == before


def test_a_folder_without_settings_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        Run(tmp_path).settings()
    assert not Run(tmp_path).has_section("data")


def test_a_missing_section_says_how_far_the_run_has_come(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.record("data", {})
    with pytest.raises(ConfigError, match="no section 'store'"):
        run.section("store")


def test_differences_name_added_removed_and_changed_settings() -> None:
    old, new = {"a": 1, "b": {"c": [1, 2], "d": None}}, {"b": {"c": [1], "d": None}, "e": 0}
    assert differences(old, new) == ["a: 1 -> None", "b.c: [1, 2] -> [1]", "e: None -> 0"]
    assert differences(old, {"b": {"d": None, "c": [1, 2]}, "a": 1}) == []
