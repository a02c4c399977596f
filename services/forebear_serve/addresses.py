"""Where the services are, and which addresses are this machine's own; imports nothing heavy, for the command line."""

import ipaddress

DEFAULT_ADDRESS = "http://127.0.0.1:8000"
ADDRESS, TOKEN = "FOREBEAR_ADDRESS", "FOREBEAR_TOKEN"
"""Environment variables that stand for arguments which are not given."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
