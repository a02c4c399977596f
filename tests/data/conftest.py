"""Small pictures on disk."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

FEATURES = {
    "image": {"_type": "Image"},
    "style": {"names": ["cubism", "fauvism"], "_type": "ClassLabel"},
    "text": {"dtype": "string", "_type": "Value"},
}


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


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of each test's own; returns it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FOREBEAR_CACHE", str(folder))
    return folder


def _write_tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload] # the mode is one of tarfile's
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def _save_to_disk(folder: Path, files: Sequence[Sequence[bytes | None]], rows: int = 2, **state: Any) -> Path:
    """Files of rows, each a stream of record batches; styles alternate, texts count."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
    for name, images in zip(names, files, strict=True):
        table = pa.table(
            {
                "image": [{"bytes": image, "path": f"{row}.png"} for row, image in enumerate(images)],
                "style": [row % 2 for row in range(len(images))],
                "text": [f"{name[5:10]} {row}" for row in range(len(images))],
            }
        ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, rows)
    written = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": "train", **state}
    (folder / "state.json").write_text(json.dumps(written))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


@pytest.fixture(scope="session")
def write_tar() -> Callable[..., Path]:
    """Writes members, name and bytes, into a tar (path, members, mode)."""
    return _write_tar


@pytest.fixture(scope="session")
def save_to_disk() -> Callable[..., Path]:
    """Writes files of pictures as Hugging Face's `save_to_disk` lays them out (folder, files, rows of a batch)."""
    return _save_to_disk
