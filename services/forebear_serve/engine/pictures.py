"""Pictures that were made or uploaded, kept in the run under ids of their content, the oldest going first."""

import hashlib
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from forebear.errors import DataError
from forebear.files import read_json, whole_file, write_json
from forebear.images import UnreadableImage, decode, to_png
from forebear_serve.problems import Problem, invalid, not_found
from forebear_serve.schemas import PictureInfo

FOLDER = "served"
"""In the run."""
KINDS: Mapping[bytes, str] = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP"}
"""What an upload must begin with: its name and its declared type are the sender's word."""
PRUNE_EVERY = 100


def content_id(*parts: Any) -> str:
    """32 hexadecimal digits of JSON-like values or bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        value = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(value).to_bytes(8, "little") + value)
    return digest.hexdigest()


def decoded_upload(data: bytes, most_bytes: int, most_pixels: int) -> Image.Image:
    """A stranger's picture as RGB: type by content, sizes checked before pixels are unpacked.

    Raises Problem: 413 for too much, 415 for another type, 422 for a damaged one.
    """
    if len(data) > most_bytes:
        raise Problem(413, "too-large", f"the picture has {len(data):,} bytes; send at most {most_bytes:,}")
    if not data.startswith(tuple(KINDS)) or (data.startswith(b"RIFF") and data[8:12] != b"WEBP"):
        raise Problem(415, "unsupported-type", f"this is not a picture of type {', '.join(KINDS.values())}; send one")
    try:
        return decode(data, most_pixels)
    except UnreadableImage as reason:
        raise invalid(
            f"the picture cannot be used: {reason}; send a whole one of at most {most_pixels:,} pixels"
        ) from None


class PictureStore:
    """ID.png and ID.json in the run's folder; every replica on a shared file system sees the same pictures."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self._most = folder, most
        folder.mkdir(parents=True, exist_ok=True)
        self._added = 0

    def add(self, info: PictureInfo, png: bytes) -> None:
        """Keep a picture, whole or not at all; the description comes last and marks it as there."""
        with whole_file(self._png(info.id)) as part:
            part.write_bytes(png)
        write_json(self._json(info.id), info.model_dump(mode="json"))
        self._added += 1
        if self._added % PRUNE_EVERY == 1:
            self.prune()

    def add_upload(self, picture: Image.Image) -> PictureInfo:
        """Keep an uploaded picture, encoded anew: nothing that the sender hid in the file is stored."""
        png = to_png(picture)
        size = {"width": picture.width, "height": picture.height}
        info = PictureInfo(id=content_id(png), origin="uploaded", created=datetime.now(UTC), **size)
        if info.id not in self:
            self.add(info, png)
        return info

    def __contains__(self, picture_id: str) -> bool:
        return self._json(picture_id).is_file()

    def info(self, picture_id: str) -> PictureInfo:
        """Raises Problem 404 when it is not, or no longer, there."""
        if picture_id not in self:
            raise not_found(
                f"no picture {picture_id}; it was never made here, or gave way to later ones: make it again"
            )
        return PictureInfo.model_validate(read_json(self._json(picture_id), DataError, "make the picture again"))

    def png(self, picture_id: str) -> bytes:
        self.info(picture_id)
        return self._png(picture_id).read_bytes()

    def picture(self, picture_id: str) -> Image.Image:
        return Image.open(io.BytesIO(self.png(picture_id))).convert("RGB")

    def prune(self) -> None:
        """Drop the oldest beyond `most`; files that another replica has dropped are no error."""
        kept = sorted(self.folder.glob("*.json"), key=_modified, reverse=True)
        for description in kept[self._most :]:
            description.unlink(missing_ok=True)
            description.with_suffix(".png").unlink(missing_ok=True)

    def _png(self, picture_id: str) -> Path:
        return self.folder / f"{picture_id}.png"

    def _json(self, picture_id: str) -> Path:
        return self.folder / f"{picture_id}.json"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
