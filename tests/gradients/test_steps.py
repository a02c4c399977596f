"""The clock of a gradient pass."""

import pytest
import torch
from torch import nn

from forebear.gradients import GradientEngine, ProjectionConfig
from forebear.gradients.steps import StepClock, timed


def clock_of(*times: float) -> StepClock:
    """A clock that reads these times, one after the other."""
    left = iter(times)
    return StepClock(lambda: next(left))


def test_a_step_is_without_those_inside_it() -> None:
    with clock_of(0, 1, 3, 7, 10, 20) as clock, timed("backward"):
        with timed("project"):
            pass
        with timed("project"):
            pass
    assert clock.seconds == {"backward": 1 + 4 + 10, "project": 2 + 3}


def test_an_exception_ends_its_step() -> None:
    def fail() -> None:
        with timed("forward"), timed("project"):
            raise ValueError("of the step")

    with clock_of(0, 1, 5, 6, 9, 10) as clock:
        with pytest.raises(ValueError, match="of the step"):
            fail()
        with timed("fold"):
            pass
    assert clock.seconds == {"forward": 2, "project": 4, "fold": 1}


def test_every_step_of_a_pass_is_seen_and_only_while_a_clock_listens() -> None:
    module = nn.Sequential(nn.Linear(80, 80), nn.Tanh(), nn.Linear(80, 4))
    engine = GradientEngine(module, ProjectionConfig(dim=64))
    x = torch.ones(2, 80)
    with clock_of(*range(1000)) as clock:
        engine.measure(lambda: module(x).square().sum(1))
    seen = dict(clock.seconds)
    engine.measure(lambda: module(x).square().sum(1))
    assert set(seen) == {"forward", "backward", "project", "contract", "fold"}
    assert all(count > 0 for count in seen.values())
    assert clock.seconds == seen
