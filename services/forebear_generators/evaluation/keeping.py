"""Tensors that an evaluation has made, kept in files so that the same command goes on."""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from forebear.files import whole_file


def kept_tensors(path: Path, make: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], bool]:
    """What the file holds, made and written first when it is missing or damaged; and whether it was there."""
    try:
        found: dict[str, Tensor] = load_file(path)
    except (FileNotFoundError, SafetensorError):  # not made yet, or damaged
        found = {name: each.contiguous() for name, each in make().items()}
        with whole_file(path) as part:
            save_file(found, part)
        return found, False
    return found, True
