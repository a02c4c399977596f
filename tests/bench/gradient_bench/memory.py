"""Peak memory of each variant, on Linux: `python -m gradient_bench.memory MODEL PICTURES.npy NAME` measures one."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ForebearError
from forebear.jobs.doctor_costs import peak_memory
from forebear.progress import progress
from gradient_bench.models import one_thread, timing_batch
from gradient_bench.variants import Sketch, works


def extra_memory(model: Path, pictures: Path, names: Sequence[str], label: str) -> dict[str, int]:
    """Bytes that each variant takes at its peak on top of the process with the loaded model."""
    found = {}
    with progress(label, len(names), "processes") as bar:
        for name in names:
            command = [
                sys.executable,
                "-m",
                "gradient_bench.memory",
                str(model.resolve()),
                str(pictures.resolve()),
                name,
            ]
            bench = Path(__file__).parents[1]
            finished = subprocess.run(command, cwd=bench, capture_output=True, text=True, check=False)
            if finished.returncode:
                raise ForebearError(f"{name} in a process of its own failed:\n{finished.stderr[-2000:]}")
            found[name] = int(finished.stdout.split()[-1])
            bar.advance(1, name)
    return found


def main() -> None:
    one_thread()
    folder, pictures, name = sys.argv[1:]
    batch = timing_batch(DiffusionModel.load(folder), torch.from_numpy(np.load(pictures)))
    chosen = tuple(sketch for sketch in (Sketch.parse(name),) if sketch)

    def measured() -> None:
        work = works(batch, chosen)[name]()
        for _ in range(2):
            work()

    print(peak_memory(measured, torch.device("cpu")))


if __name__ == "__main__":
    main()
