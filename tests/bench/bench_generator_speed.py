"""How long a step of the denoiser takes by every backend, in one run, and where the time goes.

    forebear quantize runs/demo/model --variant w8a8 --out generators/w8a8 --config reduced.yaml
    OMP_NUM_THREADS=1 python tests/bench/bench_generator_speed.py --model runs/demo/model --w8a8 generators/w8a8 \
        --w4a8 generators/w4a8 --out docs/generator-speed

Backends take turns within every round; figures are of processor time over all threads, so that other work on the
machine costs them little, and speed-ups are medians of those within a round. Resident bytes are what a process grew by
when it had loaded one backend and made a step.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import publishing
import torch

from forebear.diffusion.sampling import starting_noise
from forebear_generators.generator import Generator
from forebear_generators.quantisation.layers import layer_bytes
from forebear_generators.quantisation.openvino_backend import CompiledStep
from forebear_generators.samplers import moves

BATCHES = (8, 1)
PACKAGES = ("torch", "diffusers", "openvino")


def cases(arguments: argparse.Namespace) -> dict[str, tuple[Path, str]]:
    """Folder and backend by name, the baseline first."""
    found = {"fp32": (arguments.model, "auto"), "bf16": (arguments.model, "bf16")}
    found["fp32, openvino"] = (arguments.model, "openvino")
    for name in ("w8a8", "w4a8"):
        folder = getattr(arguments, name)
        if folder is not None:
            for backend in ("simulated", "onednn-int8", "openvino"):
                found[f"{name}, {backend}"] = (folder, backend)
    return found


class Step:
    """A generator's step in the middle of its sampler."""

    def __init__(self, generator: Generator, batch: int) -> None:
        model = self.model = generator.model
        self.condition = model.condition(["red heart"] * batch, [0] * batch)
        self.x = starting_noise(model, range(batch))
        self.times = moves(model, "own", 50)[25].time.repeat(batch)

    @torch.no_grad()
    def __call__(self) -> float:
        """Seconds of processor time."""
        started = time.process_time()
        self.model.denoise(self.x, self.times, self.condition)
        return time.process_time() - started


def timed(generators: Mapping[str, Generator], batch: int, rounds: int) -> dict[str, list[float]]:
    steps = {name: Step(generator, batch) for name, generator in generators.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for measured in range(rounds + 1):
        for name, step in steps.items():
            seconds = step()
            if measured:
                found[name].append(seconds)
    return found


def torch_profile(generator: Generator) -> dict[str, float]:
    """Milliseconds of a step by torch's operators, the slowest ones."""
    step = Step(generator, BATCHES[0])
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    return {row.key: row.self_cpu_time_total / 1e3 for row in rows[:8]}


def openvino_profile(folder: Path) -> dict[str, float]:
    """Milliseconds of a step by OpenVINO's operations and kernels, the slowest ones."""
    CompiledStep.profiled = True
    try:
        generator = Generator.load(folder, backend="openvino")
        step = Step(generator, BATCHES[0])
        step()
        step()
    finally:
        CompiledStep.profiled = False
    denoiser: Any = generator.model.denoiser
    compiled = getattr(denoiser, "compiled", None) or denoiser.step
    rows = sorted(compiled.profile().items(), key=lambda row: -row[1])
    return {" ".join(key): seconds * 1e3 for key, seconds in rows[:8]}


def resident(folder: Path, backend: str) -> int:
    """Bytes that this process grows by when a backend is loaded and makes a step, after everything is imported."""
    for module in ("diffusers", "transformers", "openvino.frontend.pytorch.ts_decoder", "torch._dynamo"):
        __import__(module)
    before = resident_now()
    step = Step(Generator.load(folder, backend=backend), BATCHES[0])
    step()
    return resident_now() - before


def resident_now() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def own_process(folder: Path, backend: str) -> int:
    command = [sys.executable, __file__, "--resident", str(folder), backend]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(json.loads(answer.strip().splitlines()[-1]))


def loaded_bytes(generator: Generator) -> int:
    return int(generator.facts.get("bytes_in_memory") or layer_bytes(generator.model.denoiser))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    asked = cases(arguments)
    generators = {name: Generator.load(folder, backend=backend) for name, (folder, backend) in asked.items()}
    seconds = {batch: timed(generators, batch, arguments.rounds) for batch in BATCHES}
    profiles = {"fp32": torch_profile(generators["fp32"])}
    for name, (folder, backend) in asked.items():
        if backend == "openvino":
            profiles[name] = openvino_profile(folder)
        if backend == "onednn-int8":
            profiles[name] = torch_profile(generators[name])
    return {
        "command": publishing.command(),
        "machine": publishing.machine(PACKAGES),
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "seconds": {str(batch): found for batch, found in seconds.items()},
        "backend": {name: generator.facts["backend"] for name, generator in generators.items()},
        "integer_layers": {name: generator.facts.get("integer_layers", 0) for name, generator in generators.items()},
        "reason": {name: generator.facts.get("reason", "") for name, generator in generators.items()},
        "bytes": {name: loaded_bytes(generator) for name, generator in generators.items()},
        "resident": {name: own_process(*each) for name, each in asked.items()},
        "profile_milliseconds": profiles,
    }


def row(results: Mapping[str, Any], name: str) -> str:
    cells = [name]
    for batch in BATCHES:
        found, base = (results["seconds"][str(batch)][each] for each in (name, "fp32"))
        share = median(full / own for full, own in zip(base, found, strict=True))
        cells.append(f"{1e3 * min(found):,.1f} ({1e3 * median(found):,.1f})")
        cells.append(f"{share:.2f} x")
    share = results["bytes"][name] / results["bytes"]["fp32"]
    cells.append(f"{results['bytes'][name]:,} ({share:.2f})")
    cells.append(f"{results['resident'][name] / 1e6:,.0f} MB")
    return "| " + " | ".join(cells) + " |"


def page(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    lines = [
        "# Speed of generators",
        "",
        f"`{results['command']}`",
        "",
        f"{machine['processor']} ({machine['identity']}), {results['threads']} thread, "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f"; {results['rounds']} rounds, backends in turn. A step of the denoiser in milliseconds of processor time: "
        "the least, and the median in brackets; the speed-up is the median of fp32's time over the backend's within "
        "a round. Bytes are of weights and buffers, and their share of fp32's; resident memory is what a process of "
        "its own grew by, kernels and working memory in.",
        "",
        "| | batch 8 | speed-up | batch 1 | speed-up | bytes | resident |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(row(results, name) for name in results["bytes"]),
        "",
    ]
    notes = [f"* {name}: {reason}." for name, reason in results["reason"].items() if reason]
    lines += [*notes, "", "## Where the time goes", ""]
    lines.append(
        "Milliseconds by the clock of one step of batch 8, the eight slowest operators or kernels; on a busy machine, "
        "read shares."
    )
    lines.append("")
    for name, profile in results["profile_milliseconds"].items():
        said = ", ".join(f"{key} {milliseconds:.1f}" for key, milliseconds in profile.items())
        lines.append(f"* **{name}**: {said}")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/demo/model"))
    parser.add_argument("--w8a8", type=Path, help="generator; with weights.reduced where 8-bit products overflow")
    parser.add_argument("--w4a8", type=Path, help="generator")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("docs/generator-speed"))
    parser.add_argument("--resident", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.resident:
        print(resident(Path(arguments.resident[0]), arguments.resident[1]))
        return
    results = measure(arguments)
    publishing.write(results, arguments.out, page(results))
    print(page(results))


if __name__ == "__main__":
    main()
