"""Long work: in this process, or on Ray actors."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forebear.jobs.embed_config import EmbedConfig
    from forebear.jobs.embedding import embed
    from forebear.jobs.indexing import build_indexes
    from forebear.jobs.starting import start_run
else:
    _MODULES = {
        "EmbedConfig": "embed_config",
        "build_indexes": "indexing",
        "embed": "embedding",
        "start_run": "starting",
    }

    def __getattr__(name):
        """Import what is asked for: doing the work needs torch, watching it (`events`) does not."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__} has no attribute {name}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = ["EmbedConfig", "build_indexes", "embed", "start_run"]
