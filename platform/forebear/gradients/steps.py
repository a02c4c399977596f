"""Where the time of a gradient pass goes: the engine names its steps, and a clock adds them up while one listens.

with StepClock(now) as clock:
    engine.measure(...)
clock.seconds["backward"]
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Self

Step = Literal["forward", "backward", "project", "contract", "fold"]
"""`forward` and `backward` run the network, activations alone; `project` makes their channels fewer; `contract` turns
both into a layer's gradients; `fold` takes norms and adds gradients into the vectors."""

_SILENT: AbstractContextManager[None] = nullcontext()
_listening: list["StepClock"] = []


def timed(name: Step) -> AbstractContextManager[object]:
    """Context: what runs inside belongs to the step `name`, apart from steps that begin within."""
    return _listening[-1].running(name) if _listening else _SILENT


class StepClock:
    """Context manager that adds up the seconds of each step of this process, without those of steps inside it.

    `now` gives seconds; on an accelerator it has to wait until the device is done, which makes the steps add up.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._now = now
        self._stack: list[str] = []
        self._since = 0.0

    def running(self, name: Step) -> AbstractContextManager[None]:
        return _Running(self, name)

    def switch(self, name: Step | None) -> None:
        """Begin a step inside the one that runs, or with None end the one that runs."""
        now = self._now()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now
        if name is None:
            self._stack.pop()
        else:
            self._stack.append(name)

    def __enter__(self) -> Self:
        _listening.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _listening.remove(self)


class _Running(AbstractContextManager[None]):
    def __init__(self, clock: StepClock, name: Step) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._clock.switch(self._name)

    def __exit__(self, *_: object) -> None:
        self._clock.switch(None)
