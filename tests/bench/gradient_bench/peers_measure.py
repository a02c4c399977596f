"""Runs in the peers' own environment, without Forebear: one UNet, given batches, each peer beside the training step.

    python peers_measure.py UNET BATCHES.npz RESULTS.npz WORK

BATCHES.npz holds noised float32[N, B, c, h, w], target likewise and timesteps int64[N, B]. Each batch is one round.
RESULTS.npz holds for each peer `seconds:NAME` float64[N or 1], of processor time, and `vectors:NAME` float32[N, B, k]
where it projects, or `error:NAME`, a sentence.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.func import functional_call

Rows = tuple[Tensor, Tensor, Tensor]
Measure = Callable[[Rows], "Tensor | None"]

SLOW = ("dattri, no projection", "traker, CPU default (float16)")
"""Run in the first round alone."""


def one_loss(unet: nn.Module, weights: dict[str, Tensor], noised: Tensor, timestep: Tensor, target: Tensor) -> Tensor:
    """Of one sample, in the functional style that both peers ask for."""
    predicted = functional_call(unet, weights, (noised[None], timestep[None])).sample[0]
    return (predicted - target).square().mean()


def training_step(unet: nn.Module) -> Measure:
    def measure(rows: Rows) -> None:
        noised, timesteps, target = rows
        (unet(noised, timesteps).sample - target).square().flatten(1).mean(1).sum().backward()
        unet.zero_grad(set_to_none=True)

    return measure


def traker(unet: nn.Module, folder: Path, *, project: bool = True, half: bool = True) -> Measure:
    """TRAKer.featurize with the projector that it chooses for a CPU, or with the one that does nothing."""
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput
    from trak.projectors import NoOpProjector

    class DiffusionOutput(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model, weights, buffers, noised, timestep, target):
            return one_loss(model, weights, noised, timestep, target)

        def get_out_to_loss_grad(self, model, weights, buffers, batch):
            return torch.ones(len(batch[0]), 1)

    rows_each = 64
    tracker = TRAKer(
        model=unet,
        task=DiffusionOutput(),
        train_set_size=rows_each,
        save_dir=str(folder),
        load_from_save_dir=False,
        device="cpu",
        projector=None if project else NoOpProjector(device="cpu"),
        use_half_precision=half,
        logging_level=logging.WARNING,
    )
    tracker.load_checkpoint(unet.state_dict(), model_id=0)

    def measure(rows: Rows) -> Tensor | None:
        places = np.arange(len(rows[0]))
        store = tracker.saver.current_store
        store["is_featurized"][places] = 0
        tracker.featurize(batch=rows, inds=places)
        return torch.from_numpy(np.array(store["grads"][places], np.float32)) if project else None

    return measure


def dattri(unet: nn.Module, rows: int, *, project: bool = True) -> Measure:
    """The gradient function of dattri's task, alone and with the projector that its TracIn has by default."""
    from dattri.algorithm.tracin import DEFAULT_PROJECTOR_KWARGS
    from dattri.func.projection import random_project
    from dattri.task import AttributionTask

    def loss(weights, data):
        return one_loss(unet, weights, *data)

    task = AttributionTask(loss_func=loss, model=unet, checkpoints=unet.state_dict())
    per_sample = task.get_grad_loss_func(in_dims=(None, 0))
    weights, _ = task.get_param(ckpt_idx=0)
    weights = weights.detach()
    projector = random_project(torch.zeros(rows, len(weights)), rows, **DEFAULT_PROJECTOR_KWARGS) if project else None

    def measure(rows: Rows) -> Tensor | None:
        gradients = per_sample(weights, rows)
        return projector(torch.nan_to_num(gradients), ensemble_id=0) if projector else None

    return measure


def main() -> None:
    torch.set_num_threads(1)
    unet_folder, batches_file, results_file, work = (Path(argument) for argument in sys.argv[1:])
    unet = UNet2DModel.from_pretrained(unet_folder).eval()
    batches = {name: torch.from_numpy(array) for name, array in np.load(batches_file).items()}
    rounds, rows = batches["timesteps"].shape
    results: dict[str, object] = dict(installed("torch", "traker", "dattri"))
    makers: dict[str, Callable[[], Measure]] = {
        "training step": lambda: training_step(unet),
        "traker, no projection": lambda: traker(unet, work / "whole", project=False),
        "traker, CPU default in float32": lambda: traker(unet, work / "float32", half=False),
        "dattri, CPU default": lambda: dattri(unet, rows),
        "dattri, no projection": lambda: dattri(unet, rows, project=False),
        "traker, CPU default (float16)": lambda: traker(unet, work / "float16"),
    }
    ready: dict[str, Measure] = {}
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    vectors: dict[str, list[Tensor]] = {name: [] for name in makers}
    for _ in range(2):
        training_step(unet)(batch(batches, 0))  # warms up what all share
    for number in range(rounds):
        for name, maker in makers.items():
            if f"error:{name}" in results or (number and name in SLOW):
                continue
            try:
                ready[name] = ready.get(name) or maker()
                start = time.process_time()
                found = ready[name](batch(batches, number))
                seconds[name].append(time.process_time() - start)
            except Exception as error:  # whatever a peer raises is its result
                results[f"error:{name}"] = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            vectors[name] += [] if found is None else [found.detach()]
            print(f"peers: round {number + 1} of {rounds}, {name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
    for name in (name for name in makers if f"error:{name}" not in results):
        results[f"seconds:{name}"] = np.array(seconds[name])
        if len(vectors[name]) == rounds:
            results[f"vectors:{name}"] = torch.stack(vectors[name]).numpy()
    np.savez(results_file, **results)


def installed(*names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        with suppress(PackageNotFoundError):
            yield f"version:{name}", version(name)


def batch(batches: dict[str, Tensor], number: int) -> Rows:
    return batches["noised"][number], batches["timesteps"][number], batches["target"][number]


if __name__ == "__main__":
    main()
