"""Counter-based random numbers: every draw is a function of its key alone, never of batch, order or worker.

Keys are hashed to 128 bits and drive NumPy's Philox4x64 bit stream, which NumPy guarantees not to change. The
transforms to uniforms and normals are written here, because NumPy reserves the right to change its own.
"""

import hashlib
import operator
from math import prod

import numpy as np
from numpy.typing import NDArray

Key = int | str


def _bits(count: int, key: tuple[Key, ...]) -> NDArray[np.uint64]:
    # NumPy's integers and strings print differently from Python's; a key must not depend on which of them it came as.
    plain = tuple(str(part) if isinstance(part, str) else operator.index(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=16).digest()
    philox = np.random.Philox(key=np.frombuffer(digest, dtype="<u8"))
    return np.asarray(philox.random_raw(count), dtype=np.uint64)


def keyed_words(count: int, *key: Key) -> NDArray[np.uint64]:
    """Uniform 64-bit words, uint64[count]: the bit stream itself."""
    return _bits(count, key)


def keyed_uniform(shape: tuple[int, ...], *key: Key) -> NDArray[np.float64]:
    """Uniform numbers in the open interval (0, 1), float64, 53 bits each."""
    return ((_bits(prod(shape), key) >> np.uint64(11)).astype(np.float64) + 0.5).reshape(shape) * 2.0**-53


def keyed_normal(shape: tuple[int, ...], *key: Key) -> NDArray[np.float32]:
    """Standard normal numbers, float32, by the Box-Muller transform in float64."""
    count = prod(shape)
    half = (count + 1) // 2
    radius_source, angle_source = keyed_uniform((2, half), *key)
    radius = np.sqrt(-2.0 * np.log(radius_source))
    angle = 2.0 * np.pi * angle_source
    pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return pairs[:count].astype(np.float32).reshape(shape)


def keyed_signs(count: int, *key: Key) -> NDArray[np.int8]:
    """Independent fair signs, -1 or +1, int8[count]."""
    words = _bits((count + 63) // 64, key)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=count, bitorder="little")
    return (bits.astype(np.int8) << 1) - np.int8(1)


def keyed_integers(high: int, shape: tuple[int, ...], *key: Key) -> NDArray[np.int64]:
    """Integers uniform in [0, high), int64; the bias is below high / 2**53."""
    return np.minimum((keyed_uniform(shape, *key) * high).astype(np.int64), high - 1)


def keyed_permutation(count: int, *key: Key) -> NDArray[np.int64]:
    """A uniform random order of 0 .. count - 1, int64[count]."""
    return np.argsort(_bits(count, key), kind="stable").astype(np.int64)
