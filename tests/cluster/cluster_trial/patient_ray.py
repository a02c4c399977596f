"""The command `ray`, on a busy machine: a host may take minutes to start, where Ray gives up after 30 s."""

import time
from collections.abc import Callable
from typing import Any

from ray._private import services
from ray.scripts.scripts import main

PATIENCE = 240.0
"""Seconds until a host that starts is known to the head."""


def patient(found: Callable[..., Any]) -> Callable[..., Any]:
    """What asks for a node, again and again until it is there."""

    def wait(*arguments: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return found(*arguments)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(1.0)

    return wait


if __name__ == "__main__":
    services.get_node = patient(services.get_node)
    main()
