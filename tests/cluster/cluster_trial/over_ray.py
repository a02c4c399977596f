"""Asks the services over ray:// from outside of the cluster, beside HTTP, and compares: a process for the trial.

python over_ray.py ray://HEAD:10001 http://HEAD:8000 TOKEN
"""

import sys
import time
from typing import Any

import click

from forebear.errors import ForebearError
from forebear_serve.client import Client, RayClient


def plain(answer: Any) -> Any:
    """An answer without the times that it took."""
    told = answer.model_dump(mode="json")
    told.pop("timings", None)
    for attribution in told.get("attributions", ()):
        attribution.pop("seconds")
    return told


def compare(over_ray: RayClient, over_http: Client) -> None:
    """Raise unless both say the same."""
    sample = over_http.samples(limit=1).samples[0]
    asked: dict[str, Any] = {"estimators": ("retrac",), "top_k": 5}
    pairs = {
        "samples": (over_ray.samples(limit=7), over_http.samples(limit=7)),
        "index": (over_ray.index(), over_http.index()),
        "attribute": (over_ray.attribute(sample, **asked), over_http.attribute(sample, **asked)),
    }
    for name, (one, other) in pairs.items():
        if plain(one) != plain(other):
            raise click.ClickException(f"{name} differs: {plain(one)} over Ray, {plain(other)} over HTTP")


def main() -> None:
    started = time.monotonic()
    try:
        over_ray = RayClient(sys.argv[1])
        connected = time.monotonic()
        with Client(sys.argv[2], sys.argv[3]) as over_http:
            compare(over_ray, over_http)
    except ForebearError as refused:
        raise click.ClickException(f"{refused} [after {time.monotonic() - started:.1f} s]") from None
    click.echo(f"the same answers; connected in {connected - started:.1f} s")


if __name__ == "__main__":
    try:
        main()
    except click.ClickException as failed:
        failed.show()
        sys.exit(failed.exit_code)
