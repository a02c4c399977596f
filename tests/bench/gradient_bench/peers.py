"""Other libraries on the same weights and rows, in an environment and a process of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forebear.errors import ForebearError
from forebear.files import fingerprint
from forebear.gradients.fidelity import Gram, compare
from forebear.jobs.doctor_costs import cost
from gradient_bench.fidelity import summary
from gradient_bench.models import Batch
from gradient_bench.variants import STEP

HERE = Path(__file__).parent
REQUIREMENTS = HERE.parent / "requirements-peers.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def environment(folder: Path) -> Path:
    """The Python of the peers' environment, made when it is not there or its requirements have changed.

    What cannot be installed is reported and left out: its rows will say that it is missing.
    """
    python, stamp = folder / "bin" / "python", folder / "requirements-fingerprint"
    torch_version = version("torch").split("+")[0]
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    wanted = fingerprint([*lines, torch_version])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python.absolute()
    print(f"making {folder} for the peers", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    _install_torch(python, torch_version)
    for requirement in (line for line in lines if line and not line.startswith("#")):
        try:
            _pip(python, requirement)
        except ForebearError as failed:
            print(failed, file=sys.stderr)
    stamp.write_text(wanted, encoding="utf-8")
    return python.absolute()


def _install_torch(python: Path, torch_version: str) -> None:
    """From a folder of wheels that pip knows, or a CPU build, or whatever pip's own index has."""
    ways = (
        ("--no-index", "--no-deps", f"torch=={torch_version}"),
        ("--no-deps", "--index-url", CPU_INDEX, f"torch=={torch_version}+cpu"),
        (f"torch=={torch_version}",),
    )
    for way in ways[:-1]:
        try:
            _pip(python, *way)
        except ForebearError:
            continue
        return
    _pip(python, *ways[-1])


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-qq", "--no-input", "--disable-pip-version-check", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ForebearError(
            f"{' '.join(command)} failed; --without-peers leaves the peers out:\n{finished.stderr[-2000:]}"
        )


@dataclass(frozen=True)
class Peers:
    """The peers' process, which runs beside this one. One thread each: a second core is welcome."""

    process: subprocess.Popen[bytes]
    results: Path
    rows: int
    truths: Mapping[int, Gram]

    @classmethod
    def start(
        cls, python: Path, model: Path, batches: Mapping[int, Batch], truths: Mapping[int, Gram], work: Path
    ) -> "Peers":
        """Give them the batches, in two rounds for each timestep."""
        work.mkdir(parents=True, exist_ok=True)
        rows, given, results = len(next(iter(batches.values())).x0) // 2, work / "batches.npz", work / "results.npz"
        _save(list(batches.values()), rows, given)
        command = [python, HERE / "peers_measure.py", model / "unet", given, results, work]
        return cls(subprocess.Popen([str(part) for part in command]), results, rows, truths)

    def finish(self) -> dict[str, Any]:
        """By name, cost against the training step of the same process, and the fidelity of those that project."""
        if self.process.wait():
            raise ForebearError("the peers' process failed, see above; --without-peers leaves the peers out")
        with np.load(self.results) as loaded:
            found = dict(loaded)
        return {
            "measured": datetime.now(UTC).date().isoformat(),
            "rows": self.rows,
            "timesteps": list(self.truths),
            "versions": {name: str(value) for name, value in _named(found, "version").items()},
            "variants": {
                **{name: _variant(found, name, self.rows, self.truths) for name in _named(found, "seconds")},
                **{name: {"error": str(value)} for name, value in _named(found, "error").items()},
            },
        }


def earlier(results: Path) -> dict[str, Any] | None:
    """The peers' part of results that are there, and since when; None where there is none."""
    try:
        found: dict[str, Any] | None = json.loads(results.read_text(encoding="utf-8")).get("peers")
    except FileNotFoundError:
        return None
    if found is None:
        return None
    written = datetime.fromtimestamp(results.stat().st_mtime, UTC).date().isoformat()
    return {"measured": written, **found}


def _save(batches: Sequence[Batch], rows: int, file: Path) -> None:
    parts: dict[str, torch.Tensor] = {
        "noised": torch.stack([b.model.noised(b.x0, b.timesteps, b.noise) for b in batches]),
        "target": torch.stack([b.model.target(b.x0, b.timesteps, b.noise) for b in batches]),
        "timesteps": torch.stack([b.timesteps for b in batches]),
    }
    np.savez(file, **{name: part.reshape(-1, rows, *part.shape[2:]).numpy() for name, part in parts.items()})


def _named(found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {key.partition(":")[2]: value for key, value in found.items() if key.startswith(f"{kind}:")}


def _variant(found: Mapping[str, Any], name: str, rows: int, truths: Mapping[int, Gram]) -> dict[str, Any]:
    seconds = found[f"seconds:{name}"]
    result: dict[str, Any] = asdict(cost(seconds, found[f"seconds:{STEP}"][: len(seconds)], rows))
    vectors = found.get(f"vectors:{name}")
    if vectors is not None:
        projected = torch.from_numpy(vectors).reshape(len(truths), -1, vectors.shape[-1])  # [T, n, k]
        grams = {t: _rescaled(Gram.of(one), truths[t]) for t, one in zip(truths, projected, strict=True)}
        result["own"] = summary({t: [compare(gram, truths[t])] for t, gram in grams.items()})
        result["dim"] = vectors.shape[-1]
    return result


def _rescaled(gram: Gram, true: Gram) -> Gram:
    """Peers scale their projections in ways of their own, which no ranking depends on: the mean norm is made right."""
    factor = float(np.mean(true.norms) / np.mean(gram.norms))
    return Gram(gram.inner * factor**2, gram.norms * factor)
