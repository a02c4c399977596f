"""A query at some noise levels only: coarse shapes are decided at high timesteps, details at low ones."""

from dataclasses import replace

from forebear.attribution.query import QueryConfig
from forebear.errors import ConfigError
from forebear.store import StorePlan

Band = tuple[int, int]
"""First and last timestep, both included."""


def within(query: QueryConfig, band: Band, plan: StorePlan, total: int) -> QueryConfig:
    """The query restricted to those of its timesteps that lie in the band; `total` is the number the model has.

    Raises ConfigError when the band is empty or holds none of them, or when they are placed by importance.
    """
    first, last = band
    if not 0 <= first <= last < total:
        raise ConfigError(
            f"the band {first}-{last} is none; its ends must be timesteps from 0 to {total - 1}, the lower one first"
        )
    if query.sampling == "importance":
        raise ConfigError(
            "sampling by importance places timesteps at all noise levels, with weights for their mean; leave out the "
            "band, or sample stratified"
        )
    every = query.chosen_timesteps(plan, total)
    kept = tuple(timestep for timestep in every if first <= timestep <= last)
    if not kept:
        raise ConfigError(
            f"no timestep of the query lies between {first} and {last}; choose a band that holds some of "
            f"{', '.join(map(str, sorted(every)))}"
        )
    return replace(query, timesteps=kept, draws=query.chosen_draws(plan), paper=False, count=None)
