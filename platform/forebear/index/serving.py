"""A sharded index whose parts are held by Ray actors, on one machine or many that see the same folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forebear.errors import ForebearError, SearchIndexError
from forebear.index.interface import Device
from forebear.index.searching import rebuild, whole_folder
from forebear.index.sharded import ShardedIndex, read_shards

TRIES = 3
"""Times that a dead actor is replaced, and its question asked again: search changes nothing."""


def serve_sharded_index(
    folder: Path,
    plan_hash: str | None = None,
    *,
    allow_low_recall: bool = False,
    device: Device = "auto",
    cpus_per_part: float = 1,
    gpus_per_part: float = 0,
    memory_per_part: int | None = None,
) -> ShardedIndex:
    """Open a sharded index with one actor for each part; `close` ends them. Ray must be initialised.

    `memory_per_part` in bytes is what Ray reserves; a part's vectors are mapped and want as much of the machine's page
    cache. Raises what ShardedIndex.open raises, and SearchIndexError when actors die again and again.
    """
    found = whole_folder(folder)
    places = [(found / record.name).resolve() for record in read_shards(found, rebuild(folder)).parts]
    options: dict[str, Any] = {"num_cpus": cpus_per_part, "num_gpus": gpus_per_part}
    if memory_per_part is not None:
        options["memory"] = memory_per_part
    caller = RayParts(places, device, options)
    try:
        return ShardedIndex.open(folder, plan_hash, allow_low_recall=allow_low_recall, caller=caller)
    except ForebearError:
        caller.close()
        raise


class RayParts:
    """Parts with actors, asked all at once."""

    def __init__(self, places: Sequence[Path], device: Device, options: Mapping[str, Any]) -> None:
        import ray

        self._ray = ray
        actor_class = ray.remote(max_restarts=TRIES, max_task_retries=TRIES, **options)(_actor_class())
        self._actors = [actor_class.remote(str(place), device) for place in places]

    def ask(self, calls: Mapping[int, tuple[str, Mapping[str, Any]]]) -> dict[int, Any]:
        """As PartCaller says; raises what the parts raise."""
        shared: dict[int, Any] = {}  # the same queries go to every part: sent once
        references = []
        for part, (method, given) in calls.items():
            sent = {name: self._sent(value, shared) if name == "queries" else value for name, value in given.items()}
            references.append(self._actors[part].ask.remote(method, sent.pop("queries", None), sent))
        try:
            return dict(zip(calls, self._ray.get(references), strict=True))
        except self._ray.exceptions.RayTaskError as failed:
            if isinstance(failed.cause, ForebearError):
                raise failed.cause from None
            raise
        except self._ray.exceptions.RayActorError as death:
            raise SearchIndexError(
                f"an actor that holds a part of the index died {TRIES + 1} times; give actors more memory "
                f"(memory_per_part) ({' '.join(str(death).split())[:200]})"
            ) from None

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []

    def _sent(self, value: Any, shared: dict[int, Any]) -> Any:
        if id(value) not in shared:
            shared[id(value)] = self._ray.put(value)
        return shared[id(value)]


def _actor_class() -> type[Any]:
    """The body of an actor. A local class, which Ray sends by value."""

    class Part:
        def __init__(self, place: str, device: Device) -> None:
            self.place, self.device = place, device
            self.index: Any = None

        def ask(self, method: str, queries: Any, given: dict[str, Any]) -> Any:
            from forebear.index.searching import VectorIndex

            if self.index is None:  # not when it starts: what is wrong then could not be told apart from a death
                self.index = VectorIndex.open(Path(self.place), allow_low_recall=True, device=self.device)
            if queries is not None:
                given = {**given, "queries": queries}
            return getattr(self.index, method)(**given)

    return Part
