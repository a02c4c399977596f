"""The real scheduler with simulated workers."""

from dataclasses import replace

import pytest

from forebear.errors import ConfigError
from forebear.jobs.scheduler import Limits
from forebear.jobs.simulation import Scenario, simulate

CALM = Scenario(
    samples=10_000, checkpoints=2, shard_rows=100, workers=10, rate=5.0, spread=0.0, opening=7.0, latency=0.0
)


def test_calm_cluster_takes_the_ideal_time() -> None:
    found = simulate(CALM)
    assert found.counts.done == found.counts.started == 200
    assert found.ideal == 10_000 * 2 / (10 * 5.0)
    assert found.makespan == pytest.approx(found.ideal + 7.0)
    assert found.busy == pytest.approx(20_000 / 5.0)
    assert (found.wasted, found.counts.deaths, found.machines_lost) == (0.0, 0, 0)


def test_last_shard_is_shorter_and_slow_workers_count() -> None:
    short = simulate(replace(CALM, samples=10_001, workers=1, checkpoints=1))
    assert short.counts.done == 101
    assert short.makespan == pytest.approx(7.0 + 10_001 / 5.0)
    uneven = simulate(replace(CALM, spread=0.5))
    assert uneven.makespan > simulate(CALM).makespan


def test_everything_is_done_however_much_dies() -> None:
    stormy = replace(CALM, worker_hours=0.1, machine_hours=0.1, machine_workers=5, away=20.0, seed=3)
    found = simulate(stormy, Limits(attempts=20, losses=20))
    assert found.counts.done == 200
    assert found.counts.set_aside == 0
    assert found.counts.deaths > 5
    assert found.machines_lost > 1
    assert found.counts.started == 200 + found.counts.retried
    assert found.wasted > 0
    assert found.makespan > simulate(CALM).makespan
    assert found == replace(simulate(stormy, Limits(attempts=20, losses=20)), **_of_this_machine(found))


def _of_this_machine(found) -> dict[str, float]:
    return {name: getattr(found, name) for name in ("decisions_per_second", "memory", "resident")}


def test_poison_is_set_aside_and_nothing_else() -> None:
    found = simulate(replace(CALM, poison=0.05), Limits(set_aside=1000))
    assert 2 <= found.counts.set_aside <= 25
    assert found.counts.done == 200 - found.counts.set_aside
    assert found.counts.deaths == 3 * found.counts.set_aside
    assert simulate(replace(CALM, poison=0.05), Limits(set_aside=2)).given_up


def test_memory_of_the_driver_does_not_grow_with_the_samples() -> None:
    # 100 million samples in a quarter of a million shards; some machines are lost on the way.
    found = simulate(
        Scenario(samples=100_000_000, checkpoints=1, shard_rows=400, workers=1000, rate=50.0, machine_hours=10.0)
    )
    assert found.counts.done == 250_000
    assert found.machines_lost > 0
    assert found.memory < 100 * 2**20


def test_workers_that_die_before_a_shard_is_through_give_the_work_up() -> None:
    found = simulate(replace(CALM, worker_hours=1e-4))
    assert found.given_up
    assert found.counts.set_aside >= 10
    assert found.counts.done < 200


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"rate": 0.0}, {"poison": 1.0}, {"machine_hours": 0.0}, {"away": -1.0}]
)
def test_impossible_scenarios_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        replace(CALM, **wrong)
