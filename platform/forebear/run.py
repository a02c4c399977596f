"""A run on disk: one folder that holds the model, its checkpoints, the embeddings and their indexes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebear.config import read_yaml, to_yaml
from forebear.errors import ConfigError
from forebear.files import write_text
from forebear.version import __version__

LONGEST_SHOWN = 200
"""Characters of a setting in an error; a deny list can have thousands."""


@dataclass(frozen=True)
class Run:
    """Names the parts of a run folder and keeps `run.yaml`, the resolved settings that replay it."""

    folder: Path

    @property
    def settings_file(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    @property
    def checkpoints_folder(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def training_state_folder(self) -> Path:
        return self.folder / "training"

    @property
    def events_file(self) -> Path:
        return self.folder / "events.parquet"

    @property
    def store_folder(self) -> Path:
        return self.folder / "store"

    @property
    def quarantine_file(self) -> Path:
        return self.folder / "quarantine.json"

    def index_folder(self, estimator: str) -> Path:
        return self.folder / "index" / estimator

    def settings(self) -> dict[str, Any]:
        """All sections of run.yaml; raises ConfigError when this is not a run folder."""
        if not self.settings_file.is_file():
            raise ConfigError(
                f"{self.folder} is not a run (no run.yaml); start one with `forebear train` or `forebear embed`"
            )
        return read_yaml(self.settings_file)

    def section(self, name: str) -> dict[str, Any]:
        """One section of run.yaml; raises ConfigError when the run has not come that far."""
        sections = self.settings()
        if name not in sections:
            raise ConfigError(f"{self.settings_file} has no section {name!r}; the run has not come that far")
        values: dict[str, Any] = sections[name]
        return values

    def has_section(self, name: str) -> bool:
        return self.settings_file.is_file() and name in self.settings()

    def record(self, name: str, values: Mapping[str, Any]) -> None:
        """Write one section of run.yaml.

        Raises ConfigError naming the settings that differ when the section is there with other values: results of two
        configurations never mix in one run.
        """
        sections = self.settings() if self.settings_file.is_file() else {}
        if name in sections:
            changed = differences(sections[name], values)
            if changed:
                raise ConfigError(
                    f"{self.folder} was made with other settings ({name}: {'; '.join(changed)}); "
                    "use a new run folder, or the settings in its run.yaml"
                )
            return
        write_text(self.settings_file, to_yaml({**sections, "version": __version__, name: dict(values)}))


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """The settings in which two nested mappings differ, as `name: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            change
            for key in sorted(set(old) | set(new))
            for change in differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if old == new else [f"{name}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
