"""Plans: the arithmetic, and that it agrees with what an embedding really leaves behind."""

from dataclasses import replace

import pytest

from forebear.errors import ConfigError
from forebear.jobs import EmbedConfig, embed
from forebear.jobs.plan import Job, make_plan
from forebear.jobs.plan_measuring import SEARCH_ROWS, MeasuredSearch, measure_search, measure_work
from forebear.run import Run

JOB = Job(
    samples=1_000_000,
    checkpoints=4,
    timesteps=8,
    dim=4096,
    columns=3,
    shard_rows=1000,
    workers=16,
    rate=50.0,
    gpus_per_worker=0.5,
    machine_workers=8,
    opening=30.0,
    loading=10.0,
    worker_memory=2**30,
)


def test_arithmetic_of_time_and_machines() -> None:
    plan = make_plan(JOB)
    seconds = 1_000_000 * 4 / (16 * 50.0) + 30 + 3 * 10
    assert plan.value("time") == seconds
    assert plan.value("CPU-hours") == pytest.approx(16 * seconds / 3600)
    assert plan.value("GPU-hours") == pytest.approx(8 * seconds / 3600)
    assert plan.value("machines") == 2
    assert plan.value("memory of a machine") == 8 * 2**30
    assert plan.value("time of a shard") == 20.0
    assert plan.value("lost with the driver") == pytest.approx(16 * 20.0 / 3600)
    assert "GPU-hours" not in {line.name for line in make_plan(replace(JOB, gpus_per_worker=0.0)).lines}


def test_arithmetic_of_queries() -> None:
    search = MeasuredSearch("rabitq", 512, (0.003, 0.009))
    assert search.per_row == pytest.approx(1e-7)
    assert search.fixed == pytest.approx(0.001)
    plan = make_plan(JOB, search)
    stretch = 4 * 4096 / 512
    assert plan.value("searching") == pytest.approx(stretch * (1_000_000 * 1e-7 + 0.001))
    assert plan.value("query") == pytest.approx(plan.value("searching") + 4 / 50)
    assert plan.value("index") == 1_000_000 * (2 * 16384 + 2 * 2048 + 48)
    assert any("a search takes over a second" in warning for warning in plan.warnings)


def test_shards_of_a_bad_size_are_pointed_out() -> None:
    assert not [w for w in make_plan(JOB).warnings if "shard" in w]
    assert "set shard_rows to about 6,000" in make_plan(replace(JOB, shard_rows=10)).warnings[0]
    assert "set shard_rows to about 6,000" in make_plan(replace(JOB, shard_rows=100_000)).warnings[0]
    assert any("make shards smaller" in warning for warning in make_plan(replace(JOB, workers=3000)).warnings)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"rate": 0.0}, {"machine_workers": 0}])
def test_impossible_jobs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        replace(JOB, **wrong)


def test_measuring_leaves_no_trace_and_foretells_the_store(
    class_run: Run, small: EmbedConfig, copy_run, tmp_path
) -> None:
    run = copy_run(class_run)
    config = replace(small, shard_rows=60, projection=replace(small.projection, dim=1024))
    before = sorted(run.folder.rglob("*"))
    measured = measure_work(run, config, seconds=0.0)
    assert sorted(run.folder.rglob("*")) == before
    assert (measured.samples, measured.checkpoints, measured.dim) == (60, 2, 1024)
    assert measured.rate > 0
    assert measured.pictures >= 16
    assert measured.memory > 50 * 2**20
    job = Job(60, 2, config.timesteps, measured.dim, len(config.columns), 60, 1, measured.rate)
    embed(run, config)
    written = sum(path.stat().st_size for path in run.store_folder.rglob("*.parquet"))
    assert make_plan(job).value("store") == pytest.approx(written, rel=0.05)


@pytest.mark.parametrize("kind", ["exact", "rabitq"])
def test_search_is_measured_in_real_indexes(kind: str) -> None:
    found = measure_search(kind, 64)
    assert found.dim == 64
    assert len(found.seconds) == len(SEARCH_ROWS)
    assert min(found.seconds) > 0
