"""Long work: in this process, or on Ray actors."""

from forebear.jobs.embed_config import EmbedConfig
from forebear.jobs.embedding import embed
from forebear.jobs.starting import start_run

__all__ = ["EmbedConfig", "embed", "start_run"]
