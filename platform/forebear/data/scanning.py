"""How far the scan of a source is: so that another process goes on with it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

from forebear.data.occurrences import Occurrences
from forebear.data.sample import Entry
from forebear.data.storage import StoredFile


@dataclass
class Scan:
    """What a source has to know of its parts that are done."""

    seen: Occurrences
    """Keys of all samples so far."""
    done: int = 0
    """Parts that need not be read again."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else a source keeps from part to part, as JSON has it; a part changes it when all of its entries are out."""


class InParts(Protocol):
    """A source that is scanned part after part, each of them a fixed stretch of its entries."""

    def parts(self, scan: Scan) -> Iterator[Iterator[Entry]]:
        """The entries of each part that is not done, in order; a part is used up before the next is asked for."""


def scanned(source: InParts) -> Iterator[Entry]:
    """Every entry of a source, from the first part on."""
    with closing(Occurrences()) as seen:
        for part in source.parts(Scan(seen)):
            yield from part


class FileByFile(ABC):
    """A source whose parts are its files, in their order."""

    parts_are_files = True

    def __init__(self, files: Sequence[StoredFile]) -> None:
        self._files = files

    def files(self) -> Iterator[StoredFile]:
        return iter(self._files)

    def scan(self) -> Iterator[Entry]:
        return scanned(self)

    def parts(self, scan: Scan) -> Iterator[Iterator[Entry]]:
        first = scan.done
        for number, file in enumerate(self._files[first:], first):
            yield self._scan_file(number, file, scan)

    @abstractmethod
    def _scan_file(self, number: int, file: StoredFile, scan: Scan) -> Iterator[Entry]:
        """The entries of one file."""
