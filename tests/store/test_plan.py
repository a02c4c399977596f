"""A plan identifies a store and says what changed."""

import pytest
from pydantic import ValidationError

from forebear.config import parse, plain
from forebear.store import PlannedCheckpoint, StorePlan


def test_shards_cover_the_samples_once(plan: StorePlan) -> None:
    ranges = [plan.shard_range(shard) for shard in range(plan.shards_per_checkpoint)]
    assert [row for rows in ranges for row in rows] == list(range(plan.sample_count))
    assert list(plan.shards()) == [(name, shard) for name in plan.checkpoint_names for shard in range(3)]


def test_the_hash_survives_json_and_depends_on_every_field(plan: StorePlan, changed) -> None:
    assert parse(StorePlan, plain(plan), "test").hash == plan.hash
    others = [
        changed(dataset="d2"),
        changed(sample_count=11),
        changed(checkpoints=plan.checkpoints[:1]),
        changed(measurement="squared norm"),
        changed(timestep_scheme="recorded"),
        changed(timesteps=(100, 500, 901)),
        changed(timesteps=(1, 2), timesteps_per_sample=2),
        changed(draws=2),
        changed(projection={"kind": "sketch", "seed": 1}),
        changed(dim=9),
        changed(shard_rows=5),
        changed(columns=("mean",)),
        changed(settings={}),
        changed(first_row=10),
        changed(format_version=2),
    ]
    assert len({plan.hash, *(other.hash for other in others)}) == len(others) + 1


def test_changes_name_the_key_and_both_values(plan: StorePlan, changed) -> None:
    assert plan.changes(plan) == []
    wanted = changed(
        dim=16,
        projection={"kind": "sketch", "seed": 7},
        checkpoints=(plan.checkpoints[0], PlannedCheckpoint("step-00000020", 20, "other")),
    )
    assert plan.changes(wanted) == [
        "checkpoints.step-00000020.fingerprint: w20 -> other",
        "dim: 8 -> 16",
        "projection.seed: 0 -> 7",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"checkpoints": ()},
        {"checkpoints": (PlannedCheckpoint("b", 2, ""), PlannedCheckpoint("a", 1, ""))},
        {"checkpoints": (PlannedCheckpoint("a", 1, ""), PlannedCheckpoint("a", 2, ""))},
        {"columns": ("mean", "mean")},
        {"timesteps": (1,)},
        {"dim": 0},
        {"shard_rows": 0},
    ],
)
def test_an_inconsistent_plan_is_refused(changed, values) -> None:
    with pytest.raises(ValidationError):
        changed(**values)


def test_a_later_segment_counts_rows_on(changed) -> None:
    plan = changed(first_row=7)
    rows = [row for shard in range(plan.shards_per_checkpoint) for row in plan.shard_range(shard)]
    assert rows == list(range(7, 17))


def test_a_plan_from_before_there_were_devices_is_the_cpus(plan: StorePlan, changed) -> None:
    assert plan.device == "cpu"
    other = changed(settings={**plan.settings, "device": "cuda"})
    assert plan.changes(other) == ["settings.device: cpu -> cuda"]


def test_a_checkpoint_name_cannot_leave_the_store() -> None:
    with pytest.raises(ValidationError):
        PlannedCheckpoint("../outside", 1, "")
