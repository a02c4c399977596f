"""Forebear tells which training images a diffusion model's picture descends from.

import forebear

run = forebear.open("runs/demo")
answer = run.attribute("picture.png", caption="red heart", estimator="retrac-ridge", top_k=12)
for influence in answer.proponents:
    print(influence.rank, influence.score, influence.caption)
"""

from os import PathLike
from typing import TYPE_CHECKING

from forebear.errors import ForebearError
from forebear.version import __version__

if TYPE_CHECKING:
    from forebear.attribution import Attributor

__all__ = ["ForebearError", "__version__", "open"]


def open(run: str | PathLike[str]) -> "Attributor":  # noqa: A001 - `forebear.open` is how it is read
    """Open a run that has been embedded and indexed; raises ForebearError when it has not."""
    # Imported here, so that `import forebear` stays quick: attribution needs torch.
    from forebear.attribution import Attributor

    return Attributor.open(run)
