"""Shards that cannot be embedded: named, kept out, and taken up again when asked for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from forebear.errors import JobError, StoreError
from forebear.jobs import EmbedConfig, embed
from forebear.jobs.embedding import EmbedWorker, _embed_missing
from forebear.jobs.events import events_path, read_events
from forebear.jobs.planning import plan_embedding
from forebear.jobs.quarantine import Quarantine
from forebear.jobs.scheduler import SetAside
from forebear.jobs.shards import ShardEmbedder
from forebear.run import Run
from forebear.store import Store, prepare_store

TWELVE = 12


@pytest.fixture
def picture_run(class_run: Run, copy_run, tmp_path: Path) -> Run:
    """Twelve pictures on disk, three shards of four at two checkpoints."""
    folder = tmp_path / "images" / "0"
    folder.mkdir(parents=True)
    for name in range(TWELVE):
        Image.new("L", (8, 8), 20 * name).save(folder / f"{name:02d}.png")
    run = copy_run(class_run)
    settings = run.settings_file.read_text()
    run.settings_file.write_text(settings.replace("source: digits", f"source: {folder.parent}"))
    return run


@pytest.fixture
def fours(small: EmbedConfig) -> EmbedConfig:
    return replace(small, shard_rows=4)


def embed_without(run: Run, config: EmbedConfig, picture: Path) -> tuple[Quarantine, bool]:
    """Embed while `picture` cannot be read: it went after the images had been listed."""
    shards = ShardEmbedder(run, config)
    plan = plan_embedding(shards)
    prepare_store(run.store_folder, plan, {name: one.weight for name, one in shards.checkpoints.items()})
    quarantine = Quarantine(run.quarantine_file, plan)
    content = picture.read_bytes()
    picture.unlink()
    given_up = _embed_missing(shards, plan, quarantine, run.store_folder, None, retry_quarantined=False)
    picture.write_bytes(content)
    return quarantine, given_up


def test_unreadable_picture_costs_its_shards_alone_until_they_are_retried(
    picture_run: Run, fours, store_files, copy_run, tmp_path: Path
) -> None:
    quiet = copy_run(picture_run)
    embed(quiet, fours)
    picture = tmp_path / "images" / "0" / "05.png"
    quarantine, given_up = embed_without(picture_run, fours, picture)
    assert not given_up
    assert [shard.key for shard in quarantine.shards] == [("step-00000003", 1), ("step-00000006", 1)]
    assert len(list(picture_run.store_folder.rglob("*.parquet"))) == 4
    (entry, _) = json.loads(picture_run.quarantine_file.read_text())["shards"]
    samples = Store.open(quiet.store_folder).ids()
    assert entry["samples"] == list(samples[4:8])
    assert f"sample {samples[5]} (0/05.png) cannot be read any more" in entry["reason"]
    told = [event for event in read_events(events_path(picture_run, "embedding")) if event["event"] == "set_aside"]
    assert [(event["checkpoint"], event["shard"]) for event in told] == [shard.key for shard in quarantine.shards]

    before = picture_run.quarantine_file.read_bytes()
    with pytest.raises(JobError, match=rf"rows 4 to 7: {samples[4]}.*0/05\.png.*--retry-quarantined"):
        embed(picture_run, fours)  # the picture is back, but nobody asked
    assert picture_run.quarantine_file.read_bytes() == before

    embed(picture_run, fours, retry_quarantined=True)
    assert not picture_run.quarantine_file.exists()
    assert store_files(picture_run) == store_files(quiet)


def test_restart_forgets_the_quarantine_of_another_plan(picture_run: Run, fours, tmp_path: Path) -> None:
    embed_without(picture_run, fours, tmp_path / "images" / "0" / "05.png")
    embed(picture_run, replace(fours, seed=1), restart=True)
    assert len(Store.open(picture_run.store_folder)) == TWELVE


def test_restart_tries_everything_again(picture_run: Run, fours, tmp_path: Path) -> None:
    embed_without(picture_run, fours, tmp_path / "images" / "0" / "05.png")
    embed(picture_run, fours, restart=True)
    assert len(Store.open(picture_run.store_folder)) == TWELVE


def test_full_disk_ends_the_job_and_accuses_no_shard(picture_run: Run, fours) -> None:
    shards = ShardEmbedder(picture_run, fours)
    worker = EmbedWorker(picture_run, fours, plan_embedding(shards), shards)
    worker.open()
    picture_run.store_folder.write_text("a file where the folder should be")
    with pytest.raises(JobError, match=r"cannot be written \((Not a directory|File exists).*same command"):
        worker.work(("step-00000003", 0))


def test_damaged_file_is_refused_with_the_remedy(embedded: Run, tmp_path: Path) -> None:
    plan = Store.open(embedded.store_folder).plan
    path = tmp_path / "quarantine.json"
    quarantine = Quarantine(path, plan)
    failed = SetAside(("step-00000003", 7), "its workers died", tries=3)
    quarantine.add(failed.task, ["a", "b"], failed.reason, failed.tries)
    assert Quarantine(path, plan).shards == quarantine.shards
    assert Quarantine(path, plan).shards[0].last_row == 59
    for damage in ("{", '{"plan_hash": 1}', "[]"):
        path.write_text(damage)
        with pytest.raises(StoreError, match=r"quarantine\.json.*delete it"):
            Quarantine(path, plan)
