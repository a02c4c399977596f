"""Many clients at once for a bounded time, on loopback: no server error, and who has to wait is told how long."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

pytestmark = pytest.mark.slow
CLIENTS = 32
SECONDS = 120.0
GROWTH = 1.25
"""Of a replica's memory between the middle and the end."""


def memory(pids: list[int]) -> dict[int, int]:
    """Resident kilobytes by process."""
    found = {}
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        found[pid] = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
    return found


def test_clients_beyond_what_the_server_takes_on_are_told_to_wait(
    start_server, replicas, record_testsuite_property
) -> None:
    server = start_server()
    outcomes: Counter[int] = Counter()
    unexplained: list[str] = []

    async def ask(number: int, until: float) -> None:
        headers = {"Authorization": f"Bearer {server.secret}"}
        async with httpx2.AsyncClient(base_url=server.address, headers=headers, timeout=120) as client:
            turn = 0
            while time.monotonic() < until:
                turn += 1
                body = {"label": number % 8, "seed": number * 100_000 + turn, "steps": 5, "attribute": {"top_k": 5}}
                answer = await client.post("/v1/generate", json=body)
                outcomes[answer.status_code] += 1
                if answer.status_code == 429:
                    if not answer.headers.get("Retry-After", "").isdecimal():
                        unexplained.append(answer.text)
                    await asyncio.sleep(0.5)
                elif answer.status_code != 200:
                    unexplained.append(answer.text)

    async def ask_all() -> tuple[dict[int, int], dict[int, int]]:
        until = time.monotonic() + SECONDS
        asking = [asyncio.create_task(ask(number, until)) for number in range(CLIENTS)]
        await asyncio.sleep(SECONDS / 2)
        pids = [*replicas(server, "generator-fp32"), *replicas(server, "attributor"), *replicas(server, "gateway")]
        middle = memory(pids)
        await asyncio.gather(*asking)
        return middle, memory(pids)

    middle, end = asyncio.run(ask_all())
    record_testsuite_property("load", f"{dict(outcomes)} in {SECONDS:g} s, kB {middle} then {end}")
    assert not unexplained
    assert outcomes[200] > CLIENTS
    assert len(middle) == 3
    for pid, kilobytes in end.items():
        assert kilobytes <= GROWTH * middle[pid], (middle, end)
