"""The projection of flat gradients into k numbers: random signs, and buckets taken in turn.

Element i of a parameter gets the sign s(seed, name, i) and goes to the bucket (i + offset(seed, name)) mod k; all that
share a bucket are added. The signs are independent, so over seeds the expected inner product of two projections is the
inner product of the gradients, for every shape. Elements k apart share a bucket, so the projection is a strided sum and
needs no scatter: the same bits on every run, and no dependence on the batch or on the other parameters.

Source: the count sketch (Charikar, Chen and Farach-Colton 2002, section 3) with buckets in turn, not hashed.
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass
from torch import Tensor

from forebear.errors import ForebearError
from forebear.files import fingerprint
from forebear.randomness import keyed_integers, keyed_signs

PROJECTION_VERSION = 1
"""Raised whenever the same settings would give other numbers."""


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ProjectionConfig:
    """How a gradient becomes a vector of fixed length."""

    dim: Annotated[int, Field(ge=1)] | None = 4096
    """Numbers in a vector; cosines err by about 1 / sqrt(dim). `null` keeps the whole gradient: for small models."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses the random signs. Vectors made with different seeds cannot be compared."""


@dataclass(frozen=True)
class _Hash:
    signs: Tensor  # int8[n]
    offset: int


class Projection:
    """Adds flat gradients of named parameters into vectors of `dim` numbers.

    With `config.dim` None the gradients are not mixed but laid side by side in the order of `shapes`.
    """

    def __init__(self, config: ProjectionConfig, shapes: dict[str, tuple[int, ...]]) -> None:
        self.config = config
        self.shapes = dict(shapes)
        self.sizes = {name: prod(shape) for name, shape in shapes.items()}
        self.size = sum(self.sizes.values())
        self.dim = config.dim or self.size
        ends = np.cumsum(list(self.sizes.values())).tolist()
        self.starts = dict(zip(self.sizes, [0, *ends[:-1]], strict=True))
        self._hashes = {} if config.dim is None else {name: self._hash(name) for name in shapes}

    def _hash(self, name: str) -> _Hash:
        signs = keyed_signs(self.sizes[name], "gradient-sign", self.config.seed, name)
        offset = keyed_integers(self.dim, (1,), "gradient-offset", self.config.seed, name)
        return _Hash(torch.from_numpy(signs), int(offset[0]))

    def _hash_on(self, name: str, device: torch.device) -> _Hash:
        found = self._hashes[name]
        if found.signs.device != device:
            found = self._hashes[name] = _Hash(found.signs.to(device), found.offset)
        return found

    def add(self, vectors: Tensor, name: str, gradients: Tensor) -> None:
        """Add the projection of `gradients`, float32[B, n] of the parameter `name`, to `vectors`, float32[B, dim]."""
        if self.config.dim is None:
            start = self.starts[name]
            vectors[:, start : start + self.sizes[name]] += gradients
            return
        keyed = self._hash_on(name, gradients.device)
        dim, size = self.dim, self.sizes[name]
        whole = size // dim * dim
        signed = gradients * keyed.signs  # [B, n]
        if whole:
            buckets = signed[:, :whole].reshape(len(signed), -1, dim).sum(1)  # [B, dim]
            if whole < size:
                buckets[:, : size - whole] += signed[:, whole:]
        else:
            buckets = signed
        straight = min(buckets.shape[1], dim - keyed.offset)
        vectors[:, keyed.offset : keyed.offset + straight] += buckets[:, :straight]
        if straight < buckets.shape[1]:
            vectors[:, : buckets.shape[1] - straight] += buckets[:, straight:]

    def sketch(self, flat: Tensor) -> Tensor:
        """Project whole gradients, float32[B, size] with the parameters in order, to float32[B, dim]."""
        if flat.dim() != 2 or flat.shape[1] != self.size:
            raise ForebearError(f"expected gradients of shape [batch, {self.size}], got {list(flat.shape)}")
        vectors = flat.new_zeros((len(flat), self.dim), dtype=torch.float32)
        for name, start in self.starts.items():
            self.add(vectors, name, flat[:, start : start + self.sizes[name]].float())
        return vectors

    def reference(self, name: str, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """The projection of one parameter's gradient, [n] to [dim], by the formula: float64 NumPy, a plain scatter."""
        size = self.sizes[name]
        signs = keyed_signs(size, "gradient-sign", self.config.seed, name)
        offset = keyed_integers(self.dim, (1,), "gradient-offset", self.config.seed, name)
        vector = np.zeros(self.dim)
        np.add.at(vector, (np.arange(size) + offset) % self.dim, signs * gradient)
        return vector

    def self_test(self, device: torch.device) -> None:
        """Project a known gradient of every parameter on `device` and compare it with `reference`.

        Raises ForebearError on a difference, so that a device that computes zeros or rubbish is found before use.
        With `dim` None nothing is computed and there is nothing to test.
        """
        for name in self._hashes:
            known = ((np.arange(self.sizes[name]) * 7919 % 1009 - 503) / 503).astype(np.float32)
            expected = self.reference(name, known.astype(np.float64))
            found = torch.zeros(1, self.dim, device=device)
            self.add(found, name, torch.from_numpy(known).to(device)[None])
            error = float(np.linalg.norm(found[0].cpu().numpy() - expected))
            if not error <= 1e-5 * float(np.linalg.norm(known)):
                raise ForebearError(
                    f"the projection of {name} on the device {device} differs from the reference by {error:.3g}; "
                    "use another device or another PyTorch build, and report it"
                )

    def fingerprint_data(self) -> dict[str, int | str | None]:
        """What decides the numbers, as JSON: two stores may be compared only when it is equal."""
        return {
            "kind": "exact" if self.config.dim is None else "signed-fold",
            "version": PROJECTION_VERSION,
            "dim": self.config.dim,
            "seed": None if self.config.dim is None else self.config.seed,
            "parameters": fingerprint([[name, list(shape)] for name, shape in self.shapes.items()]),
        }
