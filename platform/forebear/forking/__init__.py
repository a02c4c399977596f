"""Objects in processes of their own, forked from one that has imported their libraries already."""

from forebear.forking.forked import EndedError, Forked, can_fork, own_server, server_of
from forebear.forking.server import inherited, server_here

__all__ = ["EndedError", "Forked", "can_fork", "inherited", "own_server", "server_here", "server_of"]
