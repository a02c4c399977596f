"""What a training sample is, apart from its pixels."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One training image: a stable id and what is known about it.

    `locator` is what the sample's source needs to find the picture again; only the source reads it.
    """

    id: str
    locator: str
    caption: str = ""
    label: int | None = None
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Quarantined:
    """An entry of the source that cannot be used, and why."""

    locator: str
    reason: str


Entry = Sample | Quarantined
"""What a source finds at one place."""


def sample_id(name: str, content: bytes) -> str:
    """A stable id from the picture's name in its source and its bytes, never its position: 20 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=10)
    digest.update(name.encode() + b"\0")
    digest.update(content)
    return digest.hexdigest()
