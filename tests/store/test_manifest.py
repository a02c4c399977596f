"""Beginning, resuming, restarting and closing a store."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from forebear.errors import StoreError
from forebear.store import (
    SIGN,
    PlannedCheckpoint,
    Store,
    StorePlan,
    prepare_store,
    read_manifest,
    shard_done,
    shard_path,
    write_manifest,
    write_shard,
)


def test_the_manifest_says_what_the_store_holds(store_folder: Path, plan: StorePlan, weights) -> None:
    manifest = read_manifest(store_folder)
    assert manifest.plan == plan
    assert manifest.weights == weights
    assert manifest.sign == SIGN
    assert [(record.checkpoint, record.shard) for record in manifest.shards] == list(plan.shards())
    values = json.loads((store_folder / "manifest.json").read_text())
    assert values["plan_hash"] == plan.hash
    assert values["plan"]["projection"] == {"kind": "sketch", "seed": 0}


def test_another_plan_is_refused_naming_what_changed(store_folder: Path, changed, weights) -> None:
    wanted = changed(
        checkpoints=(PlannedCheckpoint("step-00000010", 10, "w10"), PlannedCheckpoint("step-00000020", 20, "new")),
        settings={"noise_seed": 3},
    )
    expected = (
        f"the store in {store_folder} was made by another plan "
        "(checkpoints.step-00000020.fingerprint: w20 -> new; settings.noise_seed: 0 -> 3); "
        f"use a new run folder, or start over with `forebear embed --run {store_folder.parent} --restart`"
    )
    with pytest.raises(StoreError, match=f"^{re.escape(expected)}$"):
        prepare_store(store_folder, wanted, weights)
    with pytest.raises(StoreError, match=f"^{re.escape(expected)}$"):
        Store.open(store_folder, wanted)


def test_a_plan_may_change_until_the_first_shard_is_done(tmp_path: Path, plan, changed, weights, rows_of) -> None:
    prepare_store(tmp_path, plan, weights)
    other = changed(dim=4)
    assert prepare_store(tmp_path, other, weights).plan == other
    write_shard(tmp_path, other, "step-00000010", 0, rows_of(other, "step-00000010", 0))
    with pytest.raises(StoreError, match="dim: 4 -> 8"):
        prepare_store(tmp_path, plan, weights)


def test_restart_deletes_what_was_there(store_folder: Path, changed, weights) -> None:
    other = changed(dim=4)
    prepare_store(store_folder, other, weights, restart=True)
    assert [path.name for path in store_folder.iterdir()] == ["manifest.json"]
    assert read_manifest(store_folder).plan == other


def test_a_resumed_store_ends_as_an_uninterrupted_one(tmp_path: Path, store_folder, plan, weights, rows_of) -> None:
    folder = tmp_path / "resumed" / "store"
    prepare_store(folder, plan, weights)
    for checkpoint, shard in list(plan.shards())[1::2]:
        write_shard(folder, plan, checkpoint, shard, rows_of(plan, checkpoint, shard))
    leftover = shard_path(folder, "step-00000010", 0).with_name("shard-00000.parquet.4711.part")
    leftover.write_bytes(b"half")
    with pytest.raises(StoreError, match=r"shard-00000\.json does not exist; run `forebear embed --run"):
        write_manifest(folder)
    prepare_store(folder, plan, weights)
    assert not leftover.exists()
    for checkpoint, shard in plan.shards():
        if not shard_done(folder, plan, checkpoint, shard):
            write_shard(folder, plan, checkpoint, shard, rows_of(plan, checkpoint, shard))
    write_manifest(folder)
    for path in store_folder.rglob("*.*"):
        assert path.read_bytes() == (folder / path.relative_to(store_folder)).read_bytes()


def test_preparing_a_finished_store_leaves_it_finished(store_folder: Path, plan, weights) -> None:
    before = (store_folder / "manifest.json").read_bytes()
    prepare_store(store_folder, plan, weights)
    assert (store_folder / "manifest.json").read_bytes() == before


def test_new_weights_need_no_new_embeddings(store_folder: Path, plan, weights) -> None:
    weights["step-00000010"] = 2.0
    prepare_store(store_folder, plan, weights)
    store = Store.open(store_folder, plan)
    assert store.manifest.weights["step-00000010"] == 2.0
    store.verify()


def test_weights_must_name_the_checkpoints(tmp_path: Path, plan) -> None:
    with pytest.raises(StoreError, match="weights are given for"):
        prepare_store(tmp_path, plan, {"step-00000010": 1.0})


def test_checkpoints_must_hold_the_same_samples(store_folder: Path, plan, rows_of) -> None:
    rows = rows_of(plan, "step-00000020", 1)
    write_shard(store_folder, plan, "step-00000020", 1, replace(rows, sample_ids=["a", "b", "c", "d"]))
    with pytest.raises(StoreError, match=r"shard 1 of checkpoint step-00000020 .* holds other samples"):
        write_manifest(store_folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: values.update(format_version=99), "not a store of format version 1"),
        (lambda values: values.update(surprise=1), "surprise"),
        (lambda values: values["plan"].update(dim=9), "was edited: its plan hash does not match"),
        (lambda values: values["plan"].pop("draws"), "plan.draws"),
        (lambda values: values["shards"].pop(), "does not hold every shard"),
        (lambda values: values["shards"][0].update(rows=3), "does not hold the rows of the plan"),
        (lambda values: values["shards"][2].update(plan_hash="other"), "belongs to another plan"),
    ],
)
def test_a_damaged_manifest_is_refused_with_a_remedy(store_folder: Path, damage, message) -> None:
    path = store_folder / "manifest.json"
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(StoreError, match=message) as caught:
        Store.open(store_folder)
    assert f"`forebear embed --run {store_folder.parent}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "not json"])
def test_a_manifest_that_is_not_one_is_refused(store_folder: Path, text: str) -> None:
    (store_folder / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=re.escape("manifest.json is not")):
        Store.open(store_folder)


def test_a_missing_store_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"manifest\.json does not exist; make it with `forebear embed --run"):
        Store.open(tmp_path / "store")
