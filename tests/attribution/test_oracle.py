"""TracIn and ReTrac equal a plain autograd implementation of the papers' formulas.

The oracle knows nothing of the engine, the store or the index: it runs the diffusers model, one picture at a time, and
adds up METHODS.md section 1.1 as it is written. Training side: the one event that training recorded for a sample in the
epoch that closes a checkpoint. Query side: an average over noises at each timestep.
"""

import json

import numpy as np
import pytest
import torch

from forebear.attribution import Attributor, QueryConfig
from forebear.diffusion.checkpoint import list_checkpoints, load_checkpoint
from forebear.diffusion.events import read_events
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import SHARED, draw_noise
from forebear.estimators import estimator
from forebear.gradients import ProjectionConfig
from forebear.gradients.embedding import Draws, Embedder
from forebear.images import to_pixels
from forebear.run import Run

TIMESTEPS, DRAWS, SEED, LABEL = (40, 500, 910), 2, 0, 4
NAMES = ("tracin", "retrac")


def gradient(model: DiffusionModel, x0: torch.Tensor, label: int, timestep: int, noise: torch.Tensor) -> torch.Tensor:
    """The flat gradient, float64[P], of the loss of one picture x0 [c, h, w] at one timestep and noise."""
    at = torch.tensor([timestep])
    noised = model.scheduler.add_noise(x0[None], noise[None], at)
    predicted = model.denoiser(noised, at, class_labels=torch.tensor([label])).sample
    loss = torch.nn.functional.mse_loss(predicted, noise[None])
    parts = torch.autograd.grad(loss, list(model.denoiser.parameters()))
    return torch.cat([part.flatten() for part in parts]).double()


def query_gradients(model: DiffusionModel, x0: torch.Tensor) -> dict[str, torch.Tensor]:
    averaged = []
    for timestep in TIMESTEPS:
        noises = draw_noise(model.x0_shape, SEED, [SHARED] * DRAWS, [timestep] * DRAWS, range(DRAWS))
        averaged.append(sum(gradient(model, x0, LABEL, timestep, noise) for noise in noises) / DRAWS)
    return {
        "tracin": sum(averaged) / len(averaged),
        "retrac": sum(one / one.norm() for one in averaged) / len(averaged),
    }


@pytest.fixture(scope="module")
def query() -> np.ndarray:
    levels = np.add.outer(np.arange(8), np.arange(8)) % 5
    return (levels / 2.0 - 1.0).astype(np.float32)[None]  # [1, 8, 8]


@pytest.fixture(scope="module")
def oracle(recorded_run: Run, query: np.ndarray) -> dict[str, np.ndarray]:
    """Scores float64[N] by estimator."""
    training_set = Attributor.open(recorded_run.folder).training_set
    events = read_events(recorded_run).to_pylist()
    scores = {name: np.zeros(len(training_set)) for name in NAMES}
    for file in sorted(recorded_run.checkpoints_folder.glob("*/checkpoint.json")):
        said = json.loads(file.read_text())
        weight = said["learning_rate"] * said["batch_size"] * said["interval"] / len(training_set)
        (checkpoint,) = [one for one in list_checkpoints(recorded_run) if one.name == said["name"]]
        model = load_checkpoint(recorded_run, checkpoint)
        model.denoiser.requires_grad_(True)
        psi = query_gradients(model, torch.from_numpy(query))
        for event in events:
            if event["checkpoint"] != said["name"]:
                continue
            row = training_set.row(event["sample_id"])
            pixels = to_pixels(training_set.picture(row), 8, 1)  # [1, 8, 8]
            x0 = torch.from_numpy(pixels[:, :, ::-1].copy() if event["flipped"] else pixels)
            key = (event["noise_seed"], [event["sample_id"]], [event["timestep"]], [event["noise_draw"]])
            noise = draw_noise(model.x0_shape, *key)[0]
            g = gradient(model, x0, training_set.samples[row].label, event["timestep"], noise)
            scores["tracin"][row] += weight * float(g @ psi["tracin"])
            scores["retrac"][row] += weight * float((g / g.norm()) @ psi["retrac"])
    return scores


def test_events_include_flipped_pictures(recorded_run: Run) -> None:
    assert {event["flipped"] for event in read_events(recorded_run).to_pylist()} == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_estimators_equal_plain_autograd(name: str, recorded_run: Run, query: np.ndarray, oracle) -> None:
    """In float32, before anything is stored in half precision: every score to 1e-4 relative."""
    training_set = Attributor.open(recorded_run.folder).training_set
    ids = [sample.id for sample in training_set.samples]
    labels = [sample.label for sample in training_set.samples]
    train_side, query_side, weights = [], [], []
    for checkpoint in list_checkpoints(recorded_run):
        model = load_checkpoint(recorded_run, checkpoint)
        embedder = Embedder(model, ProjectionConfig(dim=None))
        events = {
            e["sample_id"]: e for e in read_events(recorded_run).to_pylist() if e["checkpoint"] == checkpoint.name
        }
        mine = [events[one] for one in ids]
        pixels = training_set.pixels(range(len(ids)), 8, 1)  # [N, 1, 8, 8]
        flipped = np.array([event["flipped"] for event in mine])
        pixels[flipped] = pixels[flipped, :, :, ::-1]
        draws = Draws(
            np.array([[event["timestep"]] for event in mine]),
            tuple(ids),
            np.array([event["noise_seed"] for event in mine]),
            np.array([[[event["noise_draw"]]] for event in mine]),
        )
        train_side.append(embedder.embed(torch.from_numpy(pixels), model.condition([""] * len(ids), labels), draws))
        asked = Draws.at(np.array(TIMESTEPS), [SHARED], SEED, DRAWS)
        query_side.append(embedder.embed(torch.from_numpy(query)[None], model.condition([""], [LABEL]), asked))
        weights.append(checkpoint.weight)
    method = estimator(name)
    blocks = [[(0, embeddings.column(method.column))] for embeddings in train_side]
    ((_, phi),) = method.training_vectors(blocks, weights)  # [N, C * P]
    parts = [embeddings.column(method.column) for embeddings in query_side]
    scores = phi.astype(np.float64) @ method.query_vector(parts, weights)[0]
    np.testing.assert_allclose(scores, oracle[name], rtol=1e-4, atol=1e-6 * np.abs(oracle[name]).max())


@pytest.mark.parametrize("name", NAMES)
def test_answers_equal_plain_autograd(name: str, recorded_run: Run, query: np.ndarray, oracle) -> None:
    """Through store, index and attribution, whose vectors are float16 with a scale."""
    attributor = Attributor.open(recorded_run.folder)
    settings = QueryConfig(timesteps=TIMESTEPS, draws=DRAWS, seed=SEED)
    answer = attributor.attribute(query, label=LABEL, estimator=name, top_k=24, query=settings)
    found = np.array([one.score for one in sorted(answer.proponents, key=lambda one: one.row)])
    np.testing.assert_allclose(found, oracle[name], rtol=1e-4, atol=1e-4 * np.abs(oracle[name]).max())
    assert answer.query.timesteps == TIMESTEPS
