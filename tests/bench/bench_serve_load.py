"""Many clients at once for a bounded time: answers a second, refusals, memory; with one replica of each engine or more.

    OMP_NUM_THREADS=1 python tests/bench/bench_serve_load.py --run runs/demo --replicas 1 2 --output docs/serve-load

Servers and clients share the machine, so that two replicas can only show what the cores allow. Each server is started
by `forebear serve`, over a database of its own, and ended.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import publishing

PACKAGES = ("torch", "diffusers", "ray", "fastapi")
PAUSE = 0.5
"""Seconds after a 429; a polite client would wait for as long as Retry-After says, which is no load."""
ENGINES = ("generator-fp32", "attributor", "gateway")


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    address: str
    secret: str

    def replicas(self, name: str) -> list[int]:
        """Processes of the server's Ray whose title holds a name, and engines of that name that were forked for it."""
        columns = "pid=,ppid=,comm=,args="
        told = subprocess.run(["ps", "-wweo", columns], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 3) for line in told.splitlines()]
        parents = {int(pid): int(parent) for pid, parent, *_ in rows}

        def below(pid: int) -> bool:
            while pid in parents and pid != self.process.pid:
                pid = parents[pid]
            return pid == self.process.pid

        def is_of(pid: str, called: str, arguments: str) -> bool:
            if "-m forebear.forking" in arguments:
                return called == name and below(int(arguments.rsplit(maxsplit=1)[-1]))  # the last is the raylet's
            return name in arguments and arguments.startswith("ray::") and below(int(pid))

        return [int(row[0]) for row in rows if len(row) == 4 and is_of(row[0], row[2], row[3])]


@contextmanager
def serving(run: Path, replicas: int, folder: Path) -> Iterator[Server]:
    """`forebear serve` with so many generators and attributors, and no limit on how much a token may ask for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    count = {"least": replicas, "most": replicas}
    settings = {
        "run": str(run.absolute()),
        "database": f"sqlite:///{folder / f'{replicas}.sqlite'}",
        "generators": {"fp32": {"replicas": count}},
        "attributor": {"replicas": count},
        "limits": {"requests_per_minute": 10**6, "generations_per_minute": 10**6},
    }
    file = folder / f"{replicas}.yaml"
    file.write_text(json.dumps(settings))  # which is YAML too
    program = "import sys; from forebear.cli.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--config", str(file), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "RAY_ADDRESS": ""},
    )
    try:
        seen = ""
        while "serving" not in seen:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise SystemExit(f"the server did not start: {seen}")
            seen += line
        secret = re.search(r"token, shown this once: (\S+)", seen)
        if secret is None:
            raise SystemExit(f"the server made no token: {seen}")
        yield Server(process, f"http://127.0.0.1:{port}", secret[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(180)


def memory(pids: dict[str, list[int]]) -> dict[str, int]:
    """Megabytes by name, of all its processes: their own, and their shares of what forked processes have in common."""
    found = {}
    for name, those in pids.items():
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8") for pid in those]
        lines = [next(line for line in text.splitlines() if line.startswith("Pss:")) for text in texts]
        found[name] = sum(int(line.split()[1]) for line in lines) // 1024
    return found


async def load(server: Server, clients: int, seconds: float, body: dict[str, Any]) -> dict[str, Any]:
    """Clients that ask without a pause, each request for a picture of its own."""
    statuses: Counter[str] = Counter()
    unexplained: list[str] = []
    answered: list[float] = []
    until = time.monotonic() + seconds

    async def ask(number: int) -> None:
        headers = {"Authorization": f"Bearer {server.secret}"}
        async with httpx2.AsyncClient(base_url=server.address, headers=headers, timeout=150) as client:
            turn = 0
            while time.monotonic() < until:
                turn, started = turn + 1, time.monotonic()
                seed = int(time.time()) * 10**6 + number * 10**4 + turn
                answer = await client.post("/v1/generate", json={**body, "seed": seed})
                statuses[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    answered.append(time.monotonic() - started)
                elif answer.status_code == 429 and answer.headers.get("Retry-After", "").isdecimal():
                    await asyncio.sleep(PAUSE)
                else:
                    unexplained.append(answer.text[:200])

    started = time.monotonic()
    asking = [asyncio.create_task(ask(number)) for number in range(clients)]
    await asyncio.sleep(seconds / 2)
    pids = {name: server.replicas(name) for name in ENGINES}
    middle = memory(pids)
    await asyncio.gather(*asking)
    took = time.monotonic() - started
    return {
        "statuses": dict(statuses),
        "unexplained": unexplained,
        "rate": len(answered) / took,
        "seconds": sorted(answered),
        "memory_middle": middle,
        "memory_end": memory(pids),
    }


def page(found: dict[str, Any], machine: dict[str, Any]) -> str:
    about = (
        f"{machine['processor']} ({machine['identity']}), {machine['usable_cores']} cores for servers and clients "
        f"alike. {found['clients']} clients for {found['seconds']:g} s ask `POST /v1/generate` with "
        f"{json.dumps(found['body'])} and new seeds, and after a 429 again in {PAUSE:g} s. Memory is that of all "
        "processes of a name, each with its share of what forked ones have in common, in the middle and at the end."
    )
    lines = [
        "# Many clients at once",
        "",
        f"    {publishing.command()}",
        "",
        about,
        "",
        "| replicas | answers | a second | to the first | median s | 429 | 5xx | " + " | ".join(ENGINES) + " |",
        "| --- | --- | --- | --- | --- | --- | --- |" + " --- |" * len(ENGINES),
    ]
    first = None
    for replicas, one in found["loads"].items():
        first = first or one["rate"]
        statuses = one["statuses"]
        failures = sum(count for status, count in statuses.items() if status.startswith("5"))
        sizes = [f"{one['memory_middle'][name]} -> {one['memory_end'][name]} MB" for name in ENGINES]
        lines.append(
            f"| {replicas} | {statuses.get('200', 0)} | {one['rate']:.2f} | {one['rate'] / first:.2f} | "
            f"{one['seconds'][len(one['seconds']) // 2]:.1f} | {statuses.get('429', 0)} | {failures} | "
            + " | ".join(sizes)
            + " |"
        )
    return "\n".join([*lines, "", "Every 429 carried `Retry-After`.", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--body", type=json.loads, default={"prompt": "red heart", "steps": 10, "attribute": {}})
    parser.add_argument("--output", type=Path, help="Stem of the JSON and the page to write")
    given = parser.parse_args()
    loads = {}
    with tempfile.TemporaryDirectory() as folder:
        for replicas in given.replicas:
            with serving(given.run, replicas, Path(folder)) as server:
                asyncio.run(load(server, 2, 3.0, given.body))  # everything is loaded after this
                loads[str(replicas)] = asyncio.run(load(server, given.clients, given.seconds, given.body))
    found = {"clients": given.clients, "seconds": given.seconds, "body": given.body, "loads": loads}
    machine = publishing.machine(PACKAGES)
    text = page(found, machine)
    print(text)
    if given.output is not None:
        publishing.write({"command": publishing.command(), "machine": machine, **found}, given.output, text)
    unexplained = [words for one in loads.values() for words in one["unexplained"]]
    print("\n".join(unexplained), file=sys.stderr)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
