"""The pages that docs/reference has to hold, made once."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

MAKERS = Path(__file__).parents[2] / "deploy" / "docs"


@pytest.fixture(scope="session")
def makers() -> Iterator[Path]:
    """The folder of what makes pages, importable."""
    sys.path.insert(0, str(MAKERS))
    yield MAKERS
    sys.path.remove(str(MAKERS))


@pytest.fixture(scope="session")
def made(makers: Path) -> Mapping[str, str]:
    from reference.pages import pages

    return pages()
