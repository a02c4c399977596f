"""Small pictures on disk."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _png(seed: int, side: int = 6) -> bytes:
    levels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """The bytes of a random picture, by seed (and side)."""
    return _png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures: two classes of two."""
    root = tmp_path / "pictures"
    for seed, name in enumerate(["cat/a.png", "cat/b.png", "dog/a.png", "dog/c.PNG"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_png(seed))
    return root
