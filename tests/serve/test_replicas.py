"""What a replica starts with, since all of it is part of how long a dead one is missed; and when it is well."""

import asyncio
import subprocess
import sys

import pytest

from forebear.errors import StoreError
from forebear_serve import replicas
from forebear_serve.replicas import EngineReplica

HEAVY = ("torch", "diffusers", "transformers", "faiss", "scipy")


@pytest.mark.parametrize(
    ("modules", "left_out"),
    [
        (("forebear", "forebear_serve.gateway.api", "forebear_serve.client"), (*HEAVY, "pyarrow", "ray")),
        (
            ("deployments", "engine.catalogue", "engine.reviewing", "engine.jobs"),
            HEAVY,  # Ray Serve itself imports pyarrow
        ),
    ],
)
def test_only_engines_that_compute_import_torch(modules: tuple[str, ...], left_out: tuple[str, ...]) -> None:
    names = [name if name.startswith("forebear") else f"forebear_serve.{name}" for name in modules]
    program = f"import sys, {', '.join(names)}; sys.exit(', '.join({{*{left_out!r}}} & set(sys.modules)) or 0)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_engine_that_is_well_is_left_alone_and_one_that_is_not_is_asked_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Engine:
        asked, broken = 0, False

        def check(self) -> None:
            self.asked += 1
            if self.broken:
                raise StoreError("the disk is gone")

    engine, now = Engine(), 100.0
    monkeypatch.setattr(replicas.time, "monotonic", lambda: now)

    async def live() -> None:
        nonlocal now
        replica = EngineReplica(lambda: engine)
        for _ in range(10):
            await replica.check_health()
            now += 1.0
        assert engine.asked == 1
        engine.broken = True
        for turn in range(3):  # Ray Serve replaces a replica after three in a row
            with pytest.raises(StoreError, match="disk is gone"):
                await replica.check_health()
            now += 1.0
            assert engine.asked == 2 + turn
        engine.broken = False
        await replica.check_health()
        await replica.check_health()
        assert engine.asked == 5

    asyncio.run(live())
