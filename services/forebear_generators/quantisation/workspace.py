"""What an unfinished quantisation leaves on disk, so that the same command goes on where it was stopped."""

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from forebear.errors import ConfigError
from forebear.files import fingerprint, read_json, whole_file, write_json

FOLDER = "unfinished"


class Workspace:
    """A folder of finished steps, each a file of tensors, that belongs to one plan."""

    def __init__(self, out: Path, plan: Any) -> None:
        """Take up or begin; raises ConfigError when `out` holds the unfinished work of another plan."""
        self._folder = out / FOLDER
        mark, path = fingerprint(plan), self._folder / "plan.json"
        if path.is_file():
            if read_json(path, ConfigError, f"remove {self._folder}").get("plan") != mark:
                raise ConfigError(
                    f"{self._folder} holds unfinished work with another model or other settings; "
                    "give those again, another --out, or --restart"
                )
        else:
            write_json(path, {"plan": mark})

    def load(self, step: str) -> dict[str, Tensor] | None:
        """The tensors of a finished step; None when it has to be done."""
        path = self._folder / f"{step}.safetensors"
        if not path.is_file():
            return None
        try:
            found: dict[str, Tensor] = load_file(path)
        except SafetensorError:
            return None
        return found

    def save(self, step: str, tensors: dict[str, Tensor]) -> None:
        with whole_file(self._folder / f"{step}.safetensors") as part:
            save_file({name: each.contiguous() for name, each in tensors.items()}, part)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def restart(out: Path) -> None:
    """Forget unfinished work."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
