"""Checkpoints of a training run: the trained weights at a step, and what TracIn needs to know about them."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ModelError
from forebear.files import read_json, whole_file, write_json
from forebear.run import Run

REMEDY = "train again, or restore the checkpoint folder"


@dataclass(frozen=True)
class Checkpoint:
    """What checkpoint.json holds."""

    name: str
    """Folder name, `step-00004000`."""
    step: int
    epoch: int
    """Epochs completed when it was written; its events are those of the last one."""
    learning_rate: float
    """The mean since the checkpoint before it: TracIn adds up the rates of the steps that a checkpoint stands for."""
    batch_size: int
    interval: int
    """Epochs since the checkpoint before it."""
    sample_count: int
    ema: bool
    """Whether the weights are the exponential moving average."""
    weights: Literal["here", "model"]
    """`model`: the weights are those of the run's model folder and not written twice."""

    @property
    def weight(self) -> float:
        """w_c of Diffusion-TracIn: lr x batch size x interval / N (METHODS.md section 1.1)."""
        return self.learning_rate * self.batch_size * self.interval / self.sample_count


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def write_checkpoint(run: Run, checkpoint: Checkpoint, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the weights by part (unless they are the model's own) and checkpoint.json last."""
    folder = run.checkpoints_folder / checkpoint.name
    if checkpoint.weights == "here":
        for part, tensors in parts.items():
            save_tensors(folder / f"{part}.safetensors", tensors)
    write_json(folder / "checkpoint.json", asdict(checkpoint))


def list_checkpoints(run: Run) -> list[Checkpoint]:
    """The run's checkpoints by step; a folder without checkpoint.json was never finished and is left out."""
    found = [_read_checkpoint(path) for path in run.checkpoints_folder.glob("step-*/checkpoint.json")]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def attributed_checkpoints(run: Run) -> list[Checkpoint]:
    """The run's checkpoints, or its model as the only one, with weight 1, when it was trained elsewhere."""
    whole = Checkpoint(
        name=checkpoint_name(0),
        step=0,
        epoch=0,
        learning_rate=1.0,
        batch_size=1,
        interval=1,
        sample_count=1,
        ema=False,
        weights="model",
    )
    return list_checkpoints(run) or [whole]


def _read_checkpoint(path: Path) -> Checkpoint:
    try:
        return Checkpoint(**read_json(path, ModelError, REMEDY))
    except TypeError as foreign:
        raise ModelError(f"{path} is not a checkpoint of this version ({foreign}); {REMEDY}") from None


def load_checkpoint(run: Run, checkpoint: Checkpoint, like: DiffusionModel | None = None) -> DiffusionModel:
    """The run's model with the weights of a checkpoint, in float32.

    `like` is the same model at another of its checkpoints: it is copied, which takes a tenth of the time of opening it.
    """
    here = checkpoint.weights == "here"
    model = DiffusionModel.load(run.model_folder) if like is None or not here else deepcopy(like)
    if here:
        for part, module in model.trained_parts().items():
            load_tensors(module, run.checkpoints_folder / checkpoint.name / f"{part}.safetensors")
    return model


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with whole_file(path) as part:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part)


def load_tensors(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module, whatever the file's floating-point width."""
    try:
        tensors = load_file(path)
        module.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; {REMEDY}") from None
    except Exception as broken:  # safetensors' own type for a cut file, torch's RuntimeError for a foreign one
        reason = str(broken).splitlines()[0]
        raise ModelError(f"{path} does not fit the model ({reason}); {REMEDY}") from None
