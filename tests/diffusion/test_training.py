"""Training resumes bit for bit, and its checkpoints and events are what it really did."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from forebear.data import TrainingSet, open_training_set
from forebear.data.digits import DigitsSource
from forebear.diffusion import training
from forebear.diffusion.checkpoint import list_checkpoints, load_checkpoint
from forebear.diffusion.events import EpochPlan, read_events
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.diffusion.noise import draw_noise
from forebear.diffusion.pictures import Pictures
from forebear.diffusion.training import TrainConfig, TrainingConfig, learning_rate, train
from forebear.errors import DataError, ModelError, StoreError
from forebear.files import read_json, write_json
from forebear.run import Run

Configure = Callable[..., TrainConfig]

COUNT, BATCH = 20, 8
STEPS_PER_EPOCH = 3  # the last batch of an epoch holds 4


def test_checkpoints_say_what_training_did(trained: Run, train_config: Configure) -> None:
    settings = train_config("text").training
    total = 4 * STEPS_PER_EPOCH
    found = list_checkpoints(trained)
    assert [(c.name, c.step, c.epoch, c.interval) for c in found] == [
        ("step-00000003", 3, 1, 1),
        ("step-00000009", 9, 3, 2),
        ("step-00000012", 12, 4, 1),
    ]
    rates = [learning_rate(settings, step, total) for step in range(total)]
    starts = [0, *(c.step for c in found[:-1])]
    means = [np.mean(rates[start : c.step]) for start, c in zip(starts, found, strict=True)]
    assert [c.learning_rate for c in found] == pytest.approx(means)
    assert {(c.batch_size, c.sample_count, c.ema) for c in found} == {(BATCH, COUNT, True)}
    assert [c.weights for c in found] == ["here", "here", "model"]
    assert found[1].weight == pytest.approx(found[1].learning_rate * BATCH * 2 / COUNT)


def test_checkpoints_load_with_their_own_weights(trained: Run) -> None:
    models = [load_checkpoint(trained, checkpoint) for checkpoint in list_checkpoints(trained)]
    assert len({weights_fingerprint(model.trained_parts()) for model in models}) == 3
    for model, checkpoint in zip(models, list_checkpoints(trained), strict=True):
        folder = trained.checkpoints_folder / checkpoint.name
        for part, module in model.trained_parts().items():
            path = folder / f"{part}.safetensors"
            expected = load_file(path) if checkpoint.weights == "here" else None
            for name, tensor in module.state_dict().items():
                assert tensor.dtype == torch.float32 or not tensor.is_floating_point()
                assert expected is None or torch.equal(tensor, expected[name])
    final = DiffusionModel.load(trained.model_folder)
    assert weights_fingerprint(final.trained_parts()) == weights_fingerprint(models[-1].trained_parts())


def test_events_replay_the_losses_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_config: Configure
) -> None:
    """Each step's losses, as training computed them, equal those made again from the recorded events alone."""
    seen: list[dict[str, float]] = []
    weights: list[dict[str, torch.Tensor]] = []
    real = training._Trainer._step

    def spied(self: Any, plan: Any, place: int, total: int) -> float:
        weights.append({name: value.clone() for name, value in self.parts.state_dict().items()})
        inner = self.model.per_sample_loss

        def loss(*arguments: Any) -> torch.Tensor:
            losses: torch.Tensor = inner(*arguments)
            rows = plan.order[place * BATCH : (place + 1) * BATCH]
            seen.append(dict(zip([self.ids[row] for row in rows], losses.tolist(), strict=True)))
            return losses

        with monkeypatch.context() as patched:
            patched.setattr(self.model, "per_sample_loss", loss)
            return real(self, plan, place, total)

    monkeypatch.setattr(training._Trainer, "_step", spied)
    run, settings = (
        Run(tmp_path),
        train_config("text", epochs=2, checkpoint_epochs=(2,), flip=True, caption_dropout=0.3),
    )
    assert train(run, settings)
    events = {line["sample_id"]: line for line in read_events(run).to_pylist()}
    assert {line["epoch"] for line in events.values()} == {1}
    assert 0 < sum(line["flipped"] for line in events.values()) < COUNT
    assert 0 < sum(line["caption_dropped"] for line in events.values()) < COUNT

    model, training_set = DiffusionModel.load(run.model_folder), open_training_set(settings.data)
    pictures = Pictures(training_set, model)
    parts = torch.nn.ModuleDict(model.trained_parts())
    assert set().union(*seen[STEPS_PER_EPOCH:]) == set(events)
    for step in range(STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH):
        parts.load_state_dict(weights[step])
        for sample_id, recorded in seen[step].items():
            event, row = events[sample_id], [training_set.row(sample_id)]
            timestep = [event["timestep"]]
            noise = draw_noise(model.x0_shape, event["noise_seed"], [sample_id], timestep, [event["noise_draw"]])
            with torch.no_grad():
                replayed = model.per_sample_loss(
                    pictures.x0(row, np.array([event["flipped"]])),
                    torch.tensor(timestep),
                    noise,
                    pictures.condition(row, np.array([event["caption_dropped"]])),
                )
            assert float(replayed) == pytest.approx(recorded, rel=1e-4)


def test_events_name_every_sample_once_for_each_checkpoint(trained: Run, train_config: Configure) -> None:
    lines = read_events(trained).to_pylist()
    ids = {sample.id for sample in open_training_set(train_config().data).samples}
    for checkpoint in list_checkpoints(trained):
        own = [line for line in lines if line["checkpoint"] == checkpoint.name]
        assert len(own) == COUNT
        assert {line["sample_id"] for line in own} == ids
        assert {(line["epoch"], line["noise_draw"], line["noise_seed"]) for line in own} == {
            (checkpoint.epoch - 1, checkpoint.epoch - 1, 0)
        }
    assert len(lines) == 3 * COUNT


def test_the_average_is_that_of_the_weights_after_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_config: Configure
) -> None:
    history: list[dict[str, torch.Tensor]] = []
    real = training._Trainer._average

    def spied(self: Any) -> None:
        if not history:
            history.append({name: value.clone() for name, value in self.state.average.items()})
        history.append({name: value.detach().clone() for name, value in self.parts.named_parameters()})
        real(self)

    monkeypatch.setattr(training._Trainer, "_average", spied)
    run = Run(tmp_path)
    train(run, train_config(epochs=3, ema_decay=0.2, checkpoint_epochs=()))
    average = history[0]
    for step, weights in enumerate(history[1:]):
        decay = min(0.2, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    for name, tensor in DiffusionModel.load(run.model_folder).denoiser.named_parameters():
        torch.testing.assert_close(tensor, average[f"unet.{name}"], rtol=1e-5, atol=1e-7)


def test_without_average_checkpoints_hold_the_trained_weights(tmp_path: Path, train_config: Configure) -> None:
    run = Run(tmp_path)
    train(run, train_config(epochs=1, ema_decay=0.0, checkpoint_epochs=()))
    state = load_file(run.training_state_folder / "state.safetensors")
    for name, tensor in DiffusionModel.load(run.model_folder).denoiser.named_parameters():
        assert torch.equal(tensor, state[f"weight.unet.{name}"])
    assert not list_checkpoints(run)[0].ema


def test_half_precision_checkpoints_are_half_the_size_and_load(
    tmp_path: Path, trained: Run, capfd: pytest.CaptureFixture[str], train_config: Configure
) -> None:
    run = Run(tmp_path)
    train(run, train_config("text", flip=True, caption_dropout=0.3, checkpoint_dtype="float16"))
    assert "float32" not in "".join(capfd.readouterr())  # diffusers would warn of a cast
    for half, full in zip(list_checkpoints(run), list_checkpoints(trained), strict=True):
        model = load_checkpoint(run, half)
        reference = dict(torch.nn.ModuleDict(load_checkpoint(trained, full).trained_parts()).named_parameters())
        for name, tensor in torch.nn.ModuleDict(model.trained_parts()).named_parameters():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, reference[name].half().float())
    for path in (run.model_folder / "unet").glob("*.safetensors"):
        assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {torch.float16}


def test_training_lowers_the_loss_and_moves_the_text_encoder(trained: Run) -> None:
    first, *_, last = (load_checkpoint(trained, checkpoint) for checkpoint in list_checkpoints(trained))
    for part in ("unet", "text_encoder"):
        assert weights_fingerprint({part: first.trained_parts()[part]}) != weights_fingerprint(
            {part: last.trained_parts()[part]}
        )


def test_learning_rate_endpoints() -> None:
    settings = TrainingConfig(learning_rate=1e-2, final_learning_rate=1e-4, warmup_steps=10)
    rates = [learning_rate(settings, step, 110) for step in range(110)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == rates[10] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-4)
    middle = 10 + (109 - 10) / 2
    assert (rates[math.floor(middle)] + rates[math.ceil(middle)]) / 2 == pytest.approx((1e-2 + 1e-4) / 2)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert learning_rate(replace(settings, warmup_steps=0), 0, 110) == pytest.approx(1e-2)
    assert learning_rate(settings, 3, 5) == pytest.approx(4e-3)  # stopped within the warm-up


@pytest.mark.parametrize(
    ("epochs", "chosen", "expected"),
    [(100, (), (25, 50, 75, 100)), (3, (), (1, 2, 3)), (1, (), (1,)), (10, (4,), (4, 10)), (10, (10, 2), (2, 10))],
)
def test_closing_epochs(epochs: int, chosen: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert TrainingConfig(epochs=epochs, checkpoint_epochs=chosen).closing_epochs == expected


def test_a_class_model_refuses_unlabelled_samples_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_config: Configure
) -> None:
    samples = list(open_training_set(train_config().data).samples)
    samples[3] = replace(samples[3], label=None)
    monkeypatch.setattr(training, "open_training_set", lambda _: TrainingSet(DigitsSource(), samples))
    with pytest.raises(DataError, match="1 of 20 samples have no label"):
        train(Run(tmp_path), train_config("class"))


def test_damaged_state_checkpoints_and_events_say_what_to_do(tmp_path: Path, train_config: Configure) -> None:
    run, settings = Run(tmp_path), train_config(epochs=2, checkpoint_epochs=(1,))
    train(run, settings)
    first = list_checkpoints(run)[0]
    weights = run.checkpoints_folder / first.name / "unet.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"unet\.safetensors does not fit the model.*restore the checkpoint"):
        load_checkpoint(run, first)
    weights.unlink()
    with pytest.raises(ModelError, match="is missing; train again"):
        load_checkpoint(run, first)
    path = run.checkpoints_folder / first.name / "checkpoint.json"
    write_json(path, read_json(path, ModelError, "") | {"surprise": 1})
    with pytest.raises(ModelError, match=r"checkpoint\.json is not a checkpoint of this version.*surprise"):
        list_checkpoints(run)
    path.unlink()
    assert [c.step for c in list_checkpoints(run)] == [6]  # a checkpoint without its facts was never finished
    run.events_file.write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="damaged"):
        read_events(run)
    run.events_file.unlink()
    with pytest.raises(StoreError, match="use stratified timesteps"):
        read_events(run)
    (run.training_state_folder / "state.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="remove the folder to train from the start"):
        train(run, settings)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_timesteps_follow_the_chosen_power(power: float) -> None:
    timesteps = EpochPlan.draw(seed=3, epoch=0, count=20_000, total_timesteps=1000, power=power).timesteps
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    assert (timesteps < 500).mean() == pytest.approx(0.5**power, abs=0.015)  # four standard errors
