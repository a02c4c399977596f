"""Growing on Ray: workers that open the run themselves embed a segment's own images, whatever the source's order."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from forebear.errors import StoreError
from forebear.jobs import EmbedConfig, embed
from forebear.run import Run
from forebear.store import Store, remove_samples


def draw(folder: Path, names: str, first: int) -> None:
    for place, name in enumerate(names):
        Image.new("L", (8, 8), 9 * (first + place)).save(folder / f"{name}.png")


@pytest.fixture
def grown(class_run: Run, copy_run, small: EmbedConfig, tmp_path: Path) -> tuple[Run, EmbedConfig]:
    """Six pictures embedded, one of them removed, one gone, and five more that sort between them."""
    folder = tmp_path / "images" / "0"
    folder.mkdir(parents=True)
    draw(folder, "cfilor", 1)
    run = copy_run(class_run)
    run.settings_file.write_text(run.settings_file.read_text().replace("source: digits", f"source: {folder.parent}"))
    config = replace(small, shard_rows=2)
    store = embed(run, config)
    remove_samples(run.store_folder, store.ids()[:1], "test")
    draw(folder, "aehmz", 11)
    (folder / "i.png").unlink()
    return run, config


def test_workers_grow_a_store_to_the_same_bytes(
    ray_session: None, grown: tuple[Run, EmbedConfig], copy_run, store_files
) -> None:
    run, config = grown
    quiet = copy_run(run)
    said: list[str] = []
    store = embed(quiet, config, grow=True, tell=said.append)
    (line,) = said
    assert "5 new: " in line
    assert "1 gone: " in line
    assert "0/i.png" in line
    assert (len(store.all_ids), len(store)) == (11, 9)
    embed(run, replace(config, workers=2), grow=True)
    one, other = store_files(run), store_files(quiet)
    removed = [files.pop("removed.json") for files in (one, other)]
    assert all(b"gone from the source" in listed for listed in removed)
    assert one == other


def test_growth_that_was_begun_for_other_images_begins_anew(grown: tuple[Run, EmbedConfig], copy_run, tmp_path) -> None:
    run, config = grown
    quiet = copy_run(run)
    embed(run, config, grow=True)
    (run.store_folder / "segments.json").unlink()  # killed just before the segment became a part of the store
    draw(tmp_path / "images" / "0", "x", 20)
    embed(run, config, grow=True)
    embed(quiet, config, grow=True)
    assert Store.open(run.store_folder).all_ids == Store.open(quiet.store_folder).all_ids
    assert Store.open(run.store_folder).plan == Store.open(quiet.store_folder).plan


def test_recorded_training_cannot_grow(class_run: Run, copy_run, small: EmbedConfig) -> None:
    run = copy_run(class_run)
    config = replace(small, scheme="recorded")
    embed(run, config)
    run.settings_file.write_text(run.settings_file.read_text().replace("limit: 60", "limit: 64"))
    with pytest.raises(StoreError, match="training never drew the new images"):
        embed(run, config, grow=True)


def test_a_copy_of_the_run_is_whole_without_its_pictures(grown: tuple[Run, EmbedConfig], tmp_path: Path) -> None:
    run, config = grown
    embed(run, config, grow=True)
    shutil.copytree(run.store_folder, tmp_path / "store")
    assert Store.open(tmp_path / "store").ids() == Store.open(run.store_folder).ids()
