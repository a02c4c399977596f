"""`forebear store`, and growing: damage is named and mended, removed images are in no answer, at once."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from forebear.attribution import Attributor
from forebear.attribution.opening import live_training_set, open_whole
from forebear.data import TrainingSet
from forebear.errors import ConfigError, StoreError
from forebear.progress import Progress
from forebear.run import Run
from forebear.store import Store, remove_samples, restore_samples
from forebear.store.compacting import compact_store

EMBED = ("--timesteps", 1, "--dim", 32)
COUNT = 12


def draw(folder: Path, number: int) -> Path:
    """A picture that no other number has."""
    path = folder / f"{number:02d}.png"
    levels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(levels).save(path)
    return path


def lines(result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def refused(result) -> str:
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, embedded_run: Path, forebear) -> Path:
    """A working folder: images/, and run/ with a store and an index; not to be written to."""
    place = tmp_path_factory.mktemp("store")
    (place / "images" / "one").mkdir(parents=True)
    for number in range(COUNT):
        draw(place / "images" / "one", number)
    config = place / "embed.yaml"
    config.write_text("shard_rows: 4\n")
    lines(
        forebear(
            "embed", "--run", place / "run", "--model", embedded_run / "model", "--data", place / "images",
            "--config", config, *EMBED,
        )
    )  # fmt: skip
    lines(forebear("index", "--run", place / "run", "--estimator", "retrac", "--no-calibration"))
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to damage, whose run reads the copy's images."""
    shutil.copytree(made, tmp_path / "place")
    settings = tmp_path / "place" / "run" / "run.yaml"
    settings.write_text(settings.read_text().replace(str(made / "images"), str(tmp_path / "place" / "images")))
    return tmp_path / "place"


def shards(place: Path) -> list[Path]:
    return sorted((place / "run" / "store").rglob("shard-*.parquet"))


def ask(place: Path, row: int = 0):
    attributor = Attributor.open(place / "run")
    return attributor.attribute(attributor.training_set.picture(row), label=0, estimator="retrac", top_k=COUNT)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), path)


def _of_another_plan(path: Path) -> None:
    """A valid file of the same size whose metadata name another plan, with a sidecar that vouches for it."""
    table = pq.read_table(path)
    said = {**table.schema.metadata, b"forebear.plan_hash": b"0" * 32}
    pq.write_table(
        table.replace_schema_metadata(said), path, compression="none", use_dictionary=False,
        write_statistics=["sample_id", "row"], write_page_checksum=True,
    )  # fmt: skip


@pytest.mark.parametrize("damage", [_cut, _flip, _foreign, _of_another_plan, Path.unlink])
def test_a_damaged_shard_is_named_and_repaired_to_the_same_bytes(place: Path, forebear, damage) -> None:
    before = {path: path.read_bytes() for path in shards(place)}
    damage(shards(place)[1])
    said = refused(forebear("store", "verify", "--run", place / "run"))
    assert "shard-00001.parquet" in said
    assert "1 problems; `forebear store repair" in said
    assert "1 shards were embedded again, with the bytes" in lines(forebear("store", "repair", "--run", place / "run"))
    assert {path: path.read_bytes() for path in shards(place)} == before
    assert "are whole" in lines(forebear("store", "verify", "--run", place / "run"))


def test_a_lost_manifest_and_sidecar_come_back(place: Path, forebear) -> None:
    store = place / "run" / "store"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    (store / "manifest.json").unlink()
    shards(place)[2].with_suffix(".json").unlink()
    (store / "manifest.json.99.part").write_text("half")
    assert "manifest.json does not exist" in refused(forebear("store", "verify", "--run", place / "run"))
    lines(forebear("store", "repair", "--run", place / "run"))
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_an_index_whose_store_was_made_anew_is_named(place: Path, forebear) -> None:
    lines(forebear("embed", "--run", place / "run", *EMBED, "--seed", 5, "--restart"))
    said = refused(forebear("store", "verify", "--run", place / "run"))
    assert "was built from another store" in said
    assert "forebear index --run" in said
    shutil.move(place / "run" / "store", place / "moved")
    assert "has no store" in refused(forebear("store", "verify", "--run", place / "run"))
    assert "has no store" in refused(forebear("store", "repair", "--run", place / "run"))
    shutil.move(place / "moved", place / "run" / "store")
    lines(forebear("index", "--run", place / "run", "--estimator", "retrac", "--no-calibration"))
    lines(forebear("store", "verify", "--run", place / "run"))


def test_removed_images_are_in_no_answer_at_once(place: Path, forebear, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask(place)
    first, second = before.proponents[0], before.opponents[0]
    (place / "list.csv").write_text(f"name,sample_id\nx,{first.sample_id}\ny,{second.sample_id}\n")
    said = lines(forebear("store", "remove", "--run", place / "run", "--ids-file", place / "list.csv"))
    assert "2 removed, 0 were removed before; 10 images are left" in said
    with monkeypatch.context() as patched:  # pictures that were decoded before are not decoded again
        patched.setattr(TrainingSet, "pixels", lambda *_: pytest.fail("decoded again"))
        after = ask(place)
    gone = {first.sample_id, second.sample_id}
    named = {one.sample_id for one in (*after.proponents, *after.opponents)}
    assert len(named) == COUNT - 2
    assert not named & gone
    assert not {one.sample_id for one in after.memorisation.nearest} & gone
    assert (after.fingerprint.samples, after.fingerprint.removed) == (COUNT - 2, 2)
    kept = {one.sample_id: one for one in before.proponents if one.sample_id not in gone}
    for one in after.proponents:  # the others' scores and rows are what they were
        assert (one.row, one.score) == (kept[one.sample_id].row, pytest.approx(kept[one.sample_id].score))
    (total,) = after.group_totals["class"]
    assert total.samples == COUNT - 2
    assert total.total == pytest.approx(sum(one.score for one in after.proponents))
    assert all(one.null_percentile is None or 0 <= one.null_percentile <= 100 for one in after.proponents)
    assert "10 images; 2 removed" in lines(forebear("store", "info", "--run", place / "run"))
    lines(forebear("index", "--run", place / "run", "--estimator", "retrac", "--no-calibration"))
    assert ask(place).proponents == after.proponents  # an index without them says the same
    lines(forebear("store", "restore", "--run", place / "run", "--id", first.sample_id))
    with pytest.raises(Exception, match="lacks 1 images that were restored"):
        ask(place)


def test_an_open_attributor_forgets_a_removed_image(place: Path, tmp_path: Path) -> None:
    from forebear.attribution import ReportEntry

    attributor = Attributor.open(place / "run")
    picture = attributor.training_set.picture(3)
    before = attributor.attribute(picture, label=0, estimator="retrac", top_k=COUNT, audit=None)
    gone = before.proponents[0].sample_id
    remove_samples(Run(place / "run").store_folder, [gone], "asked to")
    after = attributor.attribute(picture, label=0, estimator="retrac", top_k=COUNT, audit=None)
    assert gone not in {one.sample_id for one in after.proponents}
    with pytest.raises(ConfigError, match=f"{gone} was removed after this answer"):
        attributor.report(tmp_path / "page.html", [ReportEntry(picture, "3", [before])])
    attributor.report(tmp_path / "page.html", [ReportEntry(picture, "3", [after])])
    restore_samples(Run(place / "run").store_folder, [gone])
    assert (
        attributor.attribute(picture, label=0, estimator="retrac", top_k=COUNT, audit=None).proponents
        == before.proponents
    )


def test_unknown_ids_are_named_and_nothing_is_removed(place: Path, forebear) -> None:
    known = Store.open(place / "run" / "store").ids()[0]
    arguments = ("store", "remove", "--run", place / "run", "--id", known, "--id", "nobody")
    assert "nobody; nothing was removed" in refused(forebear(*arguments))
    assert not (place / "run" / "store" / "removed.json").exists()
    lines(forebear(*arguments, "--allow-unknown", "--reason", "takedown 17"))
    listed = json.loads((place / "run" / "store" / "removed.json").read_text())["removed"]
    assert {one["reason"] for one in listed} == {"takedown 17"}
    assert "no sample is named" in refused(forebear("store", "remove", "--run", place / "run"))


def test_growing_embeds_what_is_new_and_takes_out_what_is_gone(place: Path, forebear) -> None:
    images = place / "images" / "one"
    before = {path: path.read_bytes() for path in shards(place)}
    old = Store.open(place / "run" / "store").ids()
    draw(images, 50).rename(images / "00a.png")  # sorts between those that are there
    draw(images, 60)
    (images / "03.png").unlink()
    again = ("embed", "--run", place / "run", "--config", place / "embed.yaml", *EMBED)
    said = refused(forebear(*again))
    assert "2 new: " in said
    assert "1 gone: " in said
    assert "one/03.png" in said
    assert "--grow" in said
    with pytest.raises(StoreError, match="not in the source any more"):
        ask(place)
    assert "one/03.png" in lines(forebear(*again, "--grow"))
    assert all(path.read_bytes() == content for path, content in before.items())
    store = Store.open(place / "run" / "store")
    assert store.all_ids[:COUNT] == old
    assert (len(store), store.removed) == (COUNT + 1, 1)
    lines(forebear(*again))  # the same command again changes nothing
    lines(forebear("index", "--run", place / "run", "--estimator", "retrac", "--no-calibration"))
    answer = ask(place, COUNT)
    assert {one.sample_id for one in answer.proponents} <= set(store.ids())
    assert len(answer.proponents) == COUNT

    vectors = {name: store.vectors(name, "mean") for name in store.plan.checkpoint_names}
    lines(forebear("store", "compact", "--run", place / "run", "--yes"))
    compacted = Store.open(place / "run" / "store")
    assert compacted.ids() == store.ids()
    for checkpoint in store.plan.checkpoint_names:
        np.testing.assert_array_equal(compacted.vectors(checkpoint, "mean"), vectors[checkpoint])
    lines(forebear("index", "--run", place / "run", "--estimator", "retrac", "--no-calibration"))
    lines(forebear("store", "verify", "--run", place / "run"))
    again_answer = ask(place, COUNT - 1)
    assert [one.sample_id for one in again_answer.proponents] == [one.sample_id for one in answer.proponents]


def test_a_run_that_was_pushed_and_pulled_answers_the_same(place: Path, forebear) -> None:
    run, there, other = place / "run", place / "there", place / "other"
    gone = Store.open(run / "store").ids()[2]
    lines(forebear("store", "remove", "--run", run, "--id", gone))
    answer = ask(place)
    assert "0 were there" in lines(forebear("store", "push", "--run", run, there))
    assert "0 files sent" in lines(forebear("store", "push", "--run", run, there))
    said = lines(forebear("store", "pull", there, "--run", other / "run"))
    assert "1 samples were removed there and are now removed here" in said
    assert f"forebear index --run {other / 'run'}" in said
    lines(forebear("store", "verify", "--run", other / "run"))
    lines(forebear("index", "--run", other / "run", "--estimator", "retrac", "--no-calibration"))
    again = ask(other)
    assert again.proponents == answer.proponents
    assert again.fingerprint == answer.fingerprint
    assert "0 files fetched" in lines(forebear("store", "pull", there, "--run", other / "run"))
    assert "has no transfer.json" in refused(forebear("store", "pull", place / "nothing", "--run", place / "new"))
    assert "does not exist; make it" in refused(forebear("store", "push", "--run", place / "images", there))


def test_a_removed_image_that_is_still_there_is_not_grown_again(place: Path, forebear) -> None:
    gone = Store.open(place / "run" / "store").ids()[2]
    lines(forebear("store", "remove", "--run", place / "run", "--id", gone))
    lines(forebear("store", "compact", "--run", place / "run", "--yes"))
    again = ("embed", "--run", place / "run", "--config", place / "embed.yaml", *EMBED)
    lines(forebear(*again, "--grow"))
    lines(forebear(*again))
    assert gone not in Store.open(place / "run" / "store").all_ids
    lines(forebear(*again, "--restart"))
    assert gone not in Store.open(place / "run" / "store").all_ids


def test_a_changed_label_is_named(place: Path, forebear) -> None:
    (place / "images" / "aaa").mkdir()
    draw(place / "images" / "aaa", 70)  # a folder before the others: their labels move up by one
    again = ("embed", "--run", place / "run", "--config", place / "embed.yaml", *EMBED, "--grow")
    said = refused(forebear(*again))
    assert "the caption or the label of 12 training images changed" in said
    assert "one/00.png" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_loses_nothing(place: Path, small_disk: Path, forebear) -> None:
    shutil.move(place / "run", small_disk / "run")
    _flip(sorted((small_disk / "run" / "store").rglob("shard-*.parquet"))[0])
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"\0" * free)
    gone = Store.open(small_disk / "run" / "store").ids()[2]
    said = refused(forebear("store", "remove", "--run", small_disk / "run", "--id", gone))
    assert "No space left" in said
    assert "nothing was changed" in said
    assert "No space left" in refused(forebear("store", "repair", "--run", small_disk / "run"))
    (small_disk / "filler").unlink()
    lines(forebear("store", "repair", "--run", small_disk / "run"))
    lines(forebear("store", "verify", "--run", small_disk / "run"))
    lines(forebear("store", "remove", "--run", small_disk / "run", "--id", gone))


@pytest.mark.parametrize("size", [100, 5000])
def test_a_limit_on_file_sizes_ends_compaction_and_loses_nothing(place: Path, forebear, size: int) -> None:
    before = {path: path.read_bytes() for path in shards(place)}
    lines(forebear("store", "remove", "--run", place / "run", "--id", Store.open(place / "run" / "store").ids()[0]))
    store, whole = open_whole(Run(place / "run"))
    live = live_training_set(store, whole)
    live = live.with_samples(live.samples.identified())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(StoreError, match=r"File too large.*the store is as it was"):
            compact_store(store, live, Progress("compacting", 0, "rows"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in before} == before
    lines(forebear("store", "compact", "--run", place / "run", "--yes"))


@pytest.fixture
def read_only(place: Path) -> Iterator[Path]:
    """The run, mounted again so that not even root may write."""
    mounted = subprocess.run(["mount", "--bind", place / "run", place / "run"], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("bind mounts are not allowed here")
    subprocess.run(["mount", "-o", "remount,ro,bind", place / "run"], check=True)
    yield place
    subprocess.run(["umount", "-l", place / "run"], check=True)


def test_a_read_only_run_answers_and_refuses_changes(read_only: Path, forebear) -> None:
    run = read_only / "run"
    assert len(ask(read_only).proponents) == COUNT
    lines(forebear("store", "verify", "--run", run))
    lines(forebear("store", "info", "--run", run))
    gone = Store.open(run / "store").ids()[2]
    assert "Read-only file system" in refused(forebear("store", "remove", "--run", run, "--id", gone))
    assert os.access(run / "store" / "manifest.json", os.R_OK)


def test_a_removal_does_not_wait_for_a_repair(place: Path, forebear) -> None:
    gone = Store.open(place / "run" / "store").ids()[2]
    shards(place)[0].unlink()
    assert "is missing" in refused(forebear("store", "remove", "--run", place / "run", "--id", gone))
    lines(forebear("store", "remove", "--run", place / "run", "--id", gone, "--allow-unknown"))
    lines(forebear("store", "repair", "--run", place / "run"))
    assert gone not in Store.open(place / "run" / "store").ids()


def test_without_any_image_nothing_is_answered(place: Path, forebear) -> None:
    ids = Store.open(place / "run" / "store").ids()
    (place / "ids.txt").write_text("\n".join(ids))
    lines(forebear("store", "remove", "--run", place / "run", "--ids-file", place / "ids.txt"))
    with pytest.raises(ConfigError, match=r"every image of .* is removed"):
        ask(place)
    assert "every sample is removed" in refused(forebear("store", "compact", "--run", place / "run", "--yes"))
