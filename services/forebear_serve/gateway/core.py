"""What every route works with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from forebear_serve.gateway.access import Access
from forebear_serve.gateway.measuring import Measures
from forebear_serve.parts import Part, Parts
from forebear_serve.problems import invalid
from forebear_serve.settings import ServeSettings


@dataclass
class Core:
    """One gateway replica's own."""

    settings: ServeSettings
    parts: Parts
    access: Access
    replicas: Callable[[], Mapping[str, Mapping[str, int]]] = dict
    """By part and state, how many copies of it there are; none where parts are of this process. May block."""
    measures: Measures = field(default_factory=Measures)
    active: int = 0
    """Requests being answered."""
    closing: bool = False
    """Whether new ones are turned away."""

    def maker(self, name: str | None) -> Part:
        """The generator of a name, or the first; raises Problem 422."""
        makers = self.parts.makers
        if name is not None and name not in makers:
            raise invalid(f"there is no generator {name[:80]}; choose one of {', '.join(makers)}")
        return makers[name or next(iter(makers))]


def core_of(request: Request) -> Core:
    """The replica's core, for a dependency."""
    core: Core = request.app.state.core
    return core


Gateway = Annotated[Core, Depends(core_of)]
