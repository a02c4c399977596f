"""How long a picture's ancestors take after the picture, in both modes, from a server that `forebear serve` started.

    OMP_NUM_THREADS=1 python tests/bench/bench_serve.py --publish docs/serve-benchmark

The server and this script share the machine; FOREBEAR_TOKEN holds a token with the scopes read and generate.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import publishing

from forebear_serve.client import Client
from forebear_serve.schemas import AttributeOptions, Mode, Picture, PictureInfo, Timings, Traced

PACKAGES = ("torch", "diffusers", "ray", "fastapi")
TOP = 10


def asked(client: Client, prompt: str, seed: int, mode: Mode, steps: int, guidance: float) -> dict[str, Any]:
    """One picture with its ancestors: seconds as this client saw them, and what the server says of its stages."""
    started = time.perf_counter()
    found: dict[str, Any] = {}
    options = AttributeOptions(mode=mode, top_k=24)
    for event in client.stream(prompt, seed=seed, steps=steps, guidance=guidance, attribute=options):
        now = time.perf_counter() - started
        if isinstance(event, Picture):
            found |= {"picture": now, "info": event}
        elif isinstance(event, Traced):
            found |= {"ancestors": now - found["picture"], "traced": event}
        elif isinstance(event, Timings):
            found["stages"] = event.stages
    return found


def overlap(client: Client, one: dict[str, Any]) -> float:
    """Share of the best ten that the exact mode names for the same picture."""
    info: PictureInfo = one["info"]
    exact = client.attribute(info, mode=Mode.EXACT, top_k=TOP)
    first, second = (
        {influence.sample_id for influence in traced.attributions[0].proponents[:TOP]}
        for traced in (one["traced"], exact)
    )
    return len(first & second) / TOP


def measured(client: Client, prompts: Sequence[str], steps: int, guidance: float) -> dict[str, Any]:
    """Both modes in turn, so that a busy minute meets both."""
    rows: dict[str, list[dict[str, Any]]] = {mode.value: [] for mode in Mode}
    agreement = []
    for number, prompt in enumerate(prompts):
        for mode in Mode:
            one = asked(client, prompt, int(time.time_ns() % 2**40), mode, steps, guidance)
            rows[mode.value].append({"picture": one["picture"], "ancestors": one["ancestors"], "stages": one["stages"]})
            if mode is Mode.FAST:
                agreement.append(overlap(client, one))
        print(
            f"{number + 1}/{len(prompts)} {prompt}: {rows['fast'][-1]['ancestors']:.2f} s, overlap {agreement[-1]}",
            flush=True,
        )
    attributes = []
    for prompt in prompts[:8]:
        sample = client.samples(prompt, limit=1).samples
        if sample:
            started = time.perf_counter()
            client.attribute(sample[0], mode=Mode.FAST, top_k=24)
            attributes.append(time.perf_counter() - started)
    return {"modes": rows, "overlap": agreement, "attribute": attributes}


def page(found: dict[str, Any], machine: dict[str, Any]) -> str:
    lines = [
        "# Ancestors after the picture",
        "",
        f"    {publishing.command()}",
        "",
        f"{machine['processor']} ({machine['identity']}), {machine['usable_cores']} cores. Medians; seconds.",
        "",
        "| mode | picture | ancestors after it | as a part of the picture's time | stages |",
        "| --- | --- | --- | --- | --- |",
    ]
    for mode, rows in found["modes"].items():
        made, after = (np.array([row[name] for row in rows]) for name in ("picture", "ancestors"))
        stages = sorted({name for row in rows for name in row["stages"]})
        told = ", ".join(f"{name} {np.median([row['stages'].get(name, 0) for row in rows]):.2f}" for name in stages)
        share = np.median(after / made)
        lines.append(f"| {mode} | {np.median(made):.2f} | {np.median(after):.2f} | {share:.0%} | {told} |")
    lines += [
        "",
        f"Of the best ten by `exact`, `fast` names {np.mean(found['overlap']):.2f} in the mean over "
        f"{len(found['overlap'])} pictures. `POST /v1/attribute` of a training image, `fast`: median "
        f"{np.median(found['attribute']):.2f} s."
        if found["attribute"]
        else "",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="Of the server")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--publish", type=Path, help="Stem of the JSON and the page to write")
    given = parser.parse_args()
    with Client(given.address) as client:
        samples = client.samples(limit=500).samples
        chosen = samples[:: max(1, len(samples) // given.pictures)][: given.pictures]
        asked(client, chosen[0].caption, 1, Mode.EXACT, 2, given.guidance)  # everything is loaded after this
        found = measured(client, [one.caption for one in chosen], given.steps, given.guidance)
    machine = publishing.machine(PACKAGES)
    print(page(found, machine))
    if given.publish is not None:
        publishing.write(
            {"command": publishing.command(), "machine": machine, **found}, given.publish, page(found, machine)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
