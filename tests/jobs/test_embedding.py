"""The embedding job: the same bytes whatever happens, and errors that say what to do."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from forebear.config import ConfigError, plain
from forebear.data import DataConfig, open_training_set
from forebear.diffusion.checkpoint import list_checkpoints, load_checkpoint
from forebear.diffusion.events import read_events
from forebear.diffusion.noise import SHARED, draw_noise, stratified_timesteps
from forebear.diffusion.pictures import Pictures
from forebear.errors import DataError, JobError, ModelError, StoreError
from forebear.forking import can_fork
from forebear.gradients import ProjectionConfig
from forebear.gradients.embedding import Draws, Embedder
from forebear.jobs import embed
from forebear.jobs.embedding import _crew
from forebear.jobs.local import RayCrew
from forebear.jobs.planning import plan_embedding
from forebear.jobs.pool import Pool
from forebear.jobs.shards import ShardEmbedder
from forebear.run import Run
from forebear.store import Store, prepare_store


def shards_done(run: Run) -> int:
    return len(list(run.store_folder.glob("checkpoint=*/shard-*.json")))


def test_store_holds_every_sample_at_every_checkpoint(embedded: Run) -> None:
    store = Store.open(embedded.store_folder)
    store.verify()
    training_set = open_training_set(DataConfig("digits", limit=60))
    checkpoints = list_checkpoints(embedded)
    assert store.ids() == tuple(sample.id for sample in training_set.samples)
    assert store.manifest.weights == {item.name: item.weight for item in checkpoints}
    for checkpoint in checkpoints:
        assert store.norms(checkpoint.name).shape == (60, 2)
        assert (store.timesteps(checkpoint.name) == stratified_timesteps(2, 1000)).all()


def test_rows_are_the_embeddings_of_the_pictures(embedded: Run) -> None:
    store, checkpoint = Store.open(embedded.store_folder), list_checkpoints(embedded)[0]
    model = load_checkpoint(embedded, checkpoint)
    pictures = Pictures(open_training_set(DataConfig("digits", limit=60)), model)
    rows = [3, 17, 59]
    found = Embedder(model, ProjectionConfig(dim=64)).embed(
        pictures.x0(rows), pictures.condition(rows), Draws.at(stratified_timesteps(2, 1000), [SHARED] * 3, seed=0)
    )
    for column in ("mean", "unit_mean", "unit_matched"):
        stored, expected = store.vectors(checkpoint.name, column)[rows], getattr(found, column)
        # The store keeps 11 bits of each number.
        assert np.linalg.norm(stored - expected) < 1e-3 * np.linalg.norm(expected)
    np.testing.assert_allclose(store.losses(checkpoint.name)[rows], found.losses, rtol=1e-4)


def test_settings_are_recorded_without_workers(embedded: Run, small) -> None:
    recorded = embedded.section("embedding")
    assert recorded == {name: value for name, value in plain(small).items() if name != "workers"}


def test_again_changes_nothing(embedded: Run, small, copy_run, store_files) -> None:
    run = copy_run(embedded)
    before = {path: path.stat().st_mtime_ns for path in run.store_folder.rglob("*.parquet")}
    embed(run, small)
    assert {path: path.stat().st_mtime_ns for path in run.store_folder.rglob("*.parquet")} == before
    assert store_files(run) == store_files(embedded)


def test_killed_at_several_shards_gives_the_same_bytes(
    class_run: Run, embedded: Run, small, copy_run, store_files
) -> None:
    run = copy_run(class_run)
    for pause in (0.0, 0.005, 0.02):
        before = shards_done(run)
        # Forked, because a fresh interpreter would import torch each time.
        child = multiprocessing.get_context("fork").Process(target=embed, args=(run, small))
        child.start()
        while shards_done(run) <= before and child.is_alive():
            time.sleep(0.002)
        time.sleep(pause)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert before < shards_done(run) < 16
    embed(run, small)
    assert store_files(run) == store_files(embedded)


def test_damaged_and_half_written_shards_are_embedded_again(embedded: Run, small, copy_run, store_files) -> None:
    run = copy_run(embedded)
    first, second, third, *_ = sorted(run.store_folder.rglob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-100])
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    third.with_suffix(".json").unlink()
    (third.parent / "shard-00003.parquet.123.part").write_bytes(b"half")
    embed(run, small)
    assert store_files(run) == store_files(embedded)


def test_two_actors_give_the_same_bytes(
    ray_session: None, class_run: Run, embedded: Run, small, copy_run, store_files
) -> None:
    run = copy_run(class_run)
    embed(run, replace(small, workers=2))
    assert store_files(run) == store_files(embedded)
    assert run.section("embedding") == embedded.section("embedding")


def test_bad_model_is_refused_before_its_workers_begin(ray_session: None, class_run: Run, small, copy_run) -> None:
    run = copy_run(class_run)
    weights = next(run.model_folder.glob("unet/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        embed(run, replace(small, workers=2))
    assert not run.store_folder.exists()


def test_finished_store_begins_no_workers(ray_session: None, embedded: Run) -> None:
    with _crew(embedded, Pool(1), restart=False) as crew:
        assert isinstance(crew, RayCrew)
        assert crew.actors is None


FORKING = """
import json, sys
from pathlib import Path
from forebear.config import parse
from forebear.jobs import EmbedConfig, embed
from forebear.run import Run
from forebear.jobs.local import _until
import forebear.jobs.local as local
def few(over, tasks):  # the first worker has some shards, Ray's actors the others, however long Ray takes to start
    yield from (next(tasks) for _ in range(5))
    over.wait()
local._until = few
embed(Run(Path(sys.argv[1])), parse(EmbedConfig, json.loads(sys.argv[2]), "settings"))
"""


@pytest.mark.skipif(not can_fork(), reason="workers are forked on Linux alone")
def test_forked_workers_give_the_same_bytes(class_run: Run, embedded: Run, small, copy_run, store_files) -> None:
    run = copy_run(class_run)
    settings = json.dumps(plain(replace(small, workers=2)))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run([sys.executable, "-c", FORKING, str(run.folder), settings], env=environment, check=True)
    assert store_files(run) == store_files(embedded)
    assert shards_done(run) == 16


@pytest.mark.parametrize("trained", ["class_run", "text_run"])
def test_recorded_scheme_replays_training(trained: str, small, copy_run, request: pytest.FixtureRequest) -> None:
    run = copy_run(request.getfixturevalue(trained))
    store = embed(run, replace(small, scheme="recorded"))
    training_set = open_training_set(DataConfig("digits", limit=len(store)))
    flips = drops = 0
    for checkpoint in list_checkpoints(run):
        model = load_checkpoint(run, checkpoint)
        pictures = Pictures(training_set, model)
        events = {
            event["sample_id"]: event
            for event in read_events(run).to_pylist()
            if event["checkpoint"] == checkpoint.name
        }
        for row, sample in enumerate(training_set.samples):
            event = events[sample.id]
            flips, drops = flips + event["flipped"], drops + event["caption_dropped"]
            t = event["timestep"]
            noise = draw_noise(model.x0_shape, event["noise_seed"], [sample.id], [t], [event["noise_draw"]])
            x0 = pictures.x0([row])
            x0 = x0.flip(3) if event["flipped"] else x0
            caption = "" if event["caption_dropped"] else sample.caption
            with torch.no_grad():
                loss = model.per_sample_loss(x0, torch.tensor([t]), noise, model.condition([caption], [sample.label]))
            assert store.losses(checkpoint.name)[row, 0] == pytest.approx(loss.item(), rel=1e-4)
            assert store.timesteps(checkpoint.name)[row, 0] == t
    assert flips
    assert bool(drops) == (trained == "text_run")


def test_noise_of_its_own_for_every_sample(class_run: Run, small, copy_run) -> None:
    store = embed(copy_run(class_run), replace(small, noise="per_sample", draws=2, seed=3))
    checkpoint = list_checkpoints(class_run)[-1]
    model = load_checkpoint(class_run, checkpoint)
    pictures = Pictures(open_training_set(DataConfig("digits", limit=60)), model)
    timesteps, sample_id = stratified_timesteps(2, 1000), store.ids()[5]
    noise = draw_noise(model.x0_shape, 3, [sample_id] * 2, [int(timesteps[1])] * 2, [0, 1])
    two = torch.tensor([0, 0])
    with torch.no_grad():
        losses = model.per_sample_loss(
            pictures.x0([5])[two], torch.from_numpy(timesteps[[1, 1]]), noise, pictures.condition([5]).rows(two)
        )
    assert store.losses(checkpoint.name)[5, 1] == pytest.approx(losses.mean().item(), rel=1e-4)


def test_other_settings_are_refused_until_restart(embedded: Run, small, copy_run) -> None:
    run = copy_run(embedded)
    with pytest.raises(StoreError, match=r"seed: 0 -> 1.*--restart"):
        embed(run, replace(small, seed=1))
    assert run.section("embedding")["seed"] == 0
    embed(run, replace(small, seed=1), restart=True)
    assert run.section("embedding")["seed"] == 1
    assert Store.open(run.store_folder).plan.settings["seed"] == 1


def test_changed_weights_are_refused(embedded: Run, small, copy_run) -> None:
    run = copy_run(embedded)
    path = run.model_folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.bias"] += 1
    save_file(tensors, path)
    with pytest.raises(StoreError, match=r"checkpoints.step-00000006.fingerprint.*--restart"):
        embed(run, small)


def test_weights_that_change_under_way_are_refused(class_run: Run, small, copy_run) -> None:
    run = copy_run(class_run)
    plan = plan_embedding(ShardEmbedder(run, small))
    path = run.checkpoints_folder / "step-00000003" / "unet.safetensors"
    tensors = load_file(path)
    tensors["conv_in.bias"] += 1
    save_file(tensors, path)
    with pytest.raises(StoreError, match="changed while they were being embedded"):
        ShardEmbedder(run, small).write(plan, "step-00000003", 0)


def test_picture_that_vanishes_is_named(class_run: Run, small, copy_run, tmp_path: Path) -> None:
    for name in range(4):
        (tmp_path / "images" / "0").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 60 * name).save(tmp_path / "images" / "0" / f"{name}.png")
    run = copy_run(class_run)
    settings = run.settings_file.read_text()
    run.settings_file.write_text(settings.replace("source: digits", f"source: {tmp_path / 'images'}"))
    shards = ShardEmbedder(run, small)
    plan = plan_embedding(shards)
    (tmp_path / "images" / "0" / "2.png").unlink()
    gone = next(sample for sample in shards.training_set.samples if sample.locator.endswith("2.png"))
    with pytest.raises(DataError, match=f"{gone.id}.*2.png.*cannot be read any more.*same command"):
        shards.write(plan, "step-00000003", 0)


def test_projection_larger_than_the_gradient_keeps_the_store(embedded: Run, small, copy_run, store_files) -> None:
    run = copy_run(embedded)
    with pytest.raises(ConfigError, match="dim 10000000"):
        embed(run, replace(small, projection=ProjectionConfig(dim=10_000_000)), restart=True)
    assert store_files(run) == store_files(embedded)


def test_run_without_model(class_run: Run, small, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(ConfigError, match="is not a run"):
        embed(run, small)
    run.record("data", class_run.section("data"))
    with pytest.raises(ModelError, match="no model yet; finish `forebear train`"):
        embed(run, small)


def test_more_timesteps_than_the_model_has(class_run: Run, small) -> None:
    with pytest.raises(ConfigError, match="1001 are asked for, the model has 1000"):
        embed(class_run, replace(small, timesteps=1001))


def test_recorded_scheme_needs_events(class_run: Run, small, copy_run) -> None:
    run = copy_run(class_run)
    run.events_file.unlink()
    with pytest.raises(StoreError, match="use stratified timesteps"):
        embed(run, replace(small, scheme="recorded"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_said_before_anything_is_written(class_run: Run, small, copy_run) -> None:
    run = copy_run(class_run)
    with pytest.raises(JobError, match="PyTorch finds none"):
        embed(run, small, gpus_per_worker=0.5)
    assert not run.store_folder.exists()


def test_shards_of_unlike_devices_do_not_mix(embedded: Run, small, copy_run) -> None:
    run = copy_run(embedded)
    shards = ShardEmbedder(run, small)
    plan = plan_embedding(shards, "cuda")
    with pytest.raises(StoreError, match=r"settings\.device: cpu -> cuda"):
        prepare_store(run.store_folder, plan, {name: one.weight for name, one in shards.checkpoints.items()})
    with pytest.raises(StoreError, match="numbers of the device cuda, this worker computes on cpu"):
        shards.write(plan, plan.checkpoint_names[0], 0)
    assert plan_embedding(shards) == Store.open(run.store_folder).plan
