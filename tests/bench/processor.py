"""The processor that a benchmark ran on."""

from pathlib import Path

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
"""Instructions that decide how fast a gradient is."""


def description() -> dict[str, str]:
    """What Linux says of the first core; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}


def flags() -> dict[str, bool]:
    own = description().get("flags", "").split()
    return {flag: flag in own for flag in FLAGS}


def multiplies_bfloat16() -> bool:
    """Other processors emulate it: correct, but an hour's benchmark that tells nothing."""
    known = flags()
    return known["avx512_bf16"] or known["amx_bf16"]
