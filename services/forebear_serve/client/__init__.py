"""Clients: over HTTP, waiting or with asyncio, and over Ray; their answers as tables."""

from forebear_serve.client.aio import AsyncClient
from forebear_serve.client.connection import Event, RefusedError, UnreachableError
from forebear_serve.client.frames import frame
from forebear_serve.client.http import Client
from forebear_serve.client.over_ray import RayClient

__all__ = ["AsyncClient", "Client", "Event", "RayClient", "RefusedError", "UnreachableError", "frame"]
