"""An engine without a model, which a forked process can import: tests of forks put this folder on its path."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from forebear.errors import ConfigError


def import_libraries() -> None:
    import torch  # noqa: F401


class UnpicklableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Engine:
    """What a test engine needs to be asked."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ConfigError(f"start is {start}")
        self.told: list[int] = []
        self._start = start

    def add(self, number: int) -> int:
        print("adding", flush=True)  # noqa: T201 - whoever started the server reads no more of what it prints
        return self._start + number

    def facts(self) -> dict[str, object]:
        torch = "torch" in sys.modules
        return {"pid": os.getpid(), "folder": Path.cwd(), "marked": os.environ.get("MARKED"), "torch": torch}

    def wait_for(self, path: Path) -> None:
        while not path.exists():
            time.sleep(0.01)

    def fail(self, kind: str) -> None:
        raise {"config": ConfigError("no"), "odd": UnpicklableError("one", "two")}[kind]

    def count(self, end: int, hear: Callable[[int], None]) -> str:
        for number in range(end):
            hear(number)
            self.told.append(number)
        return "counted"

    def counted(self) -> list[int]:
        return self.told

    def unsendable(self) -> object:
        return lambda: None
