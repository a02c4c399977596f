"""The projection of gradients into k numbers: signed hashes of channels, then one signed hash of everything.

1. A large weight W [O, I, taps] becomes A' W B, with the kernel's taps kept. A [O, a] and B [I, b] hold one sign in
   each row, in columns that are filled evenly: channels that share a column are added with random signs. The same is
   applied to a layer's output gradients and inputs, so that W's own gradient need never be formed. Small weights, and
   sides with few channels, stay as they are.
2. Element i of what is left gets the sign s(seed, name, i) and goes to the bucket (i + offset(seed, name)) mod k; all
   that share a bucket are added.

All signs are independent, so over seeds the expected inner product of two projections is the inner product of the
gradients, for every shape. Every number is a sign or an integer: the same on every device and in every version.
Elements k apart share a bucket, so the fold is a strided sum and needs no scatter: the same bits on every run, and no
dependence on the batch or on the other parameters.

Source: the count sketch (Charikar, Chen and Farach-Colton 2002, section 3) with evenly filled buckets, and its use on
both factors of a layer's gradient (Choe et al., "What is Your Data Worth to GPT?", arXiv 2405.13954, with dense
matrices).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass
from torch import Tensor

from forebear.errors import ForebearError
from forebear.files import fingerprint
from forebear.gradients.steps import timed
from forebear.randomness import keyed_integers, keyed_permutation, keyed_signs

PROJECTION_VERSION = 4
"""Raised whenever the same settings would give other numbers, in embeddings too."""

Mode = Literal["fast", "default", "exact"]


@dataclass(frozen=True)
class KeptChannels:
    """(output, input) channels that are kept of a large weight."""

    spatial: tuple[int, int]
    """Of a kernel with several taps, all of which are kept."""
    pointwise: tuple[int, int]
    """Of a linear layer or a 1x1 convolution: as many numbers as nine taps leave, and so no slower to contract. Where
    they join a skip connection, such layers can hold most of a gradient."""

    def of(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Of a weight of two channel axes and then its taps."""
        return self.pointwise if prod(shape[2:]) == 1 else self.spatial


CHANNELS: dict[Mode, KeptChannels | None] = {
    "fast": KeptChannels(spatial=(8, 8), pointwise=(32, 16)),
    "default": KeptChannels(spatial=(32, 16), pointwise=(128, 32)),
    "exact": None,
}

SMALL_WEIGHT = 4096
"""Weights of at most so many numbers are not projected by channels."""


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ProjectionConfig:
    """How a gradient becomes a vector of fixed length."""

    dim: Annotated[int, Field(ge=1)] | None = 4096
    """Numbers in a vector; cosines err by about 1 / sqrt(dim). `null` keeps the whole gradient: for small models."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses the random signs. Vectors made with different seeds cannot be compared."""
    mode: Mode = "default"
    """`default` and `fast` project the channels of large layers first, which is quick; norms are then estimates too.
    `exact` forms each sample's whole gradient, layer by layer, before it is folded; norms are exact."""


@dataclass(frozen=True)
class ChannelProjection:
    """The matrices of one weight: B [I, b] for inputs and A [O, a] for output gradients; None keeps all channels."""

    inputs: Tensor | None
    outputs: Tensor | None


WHOLE = ChannelProjection(None, None)


@dataclass(frozen=True)
class _Hash:
    signs: Tensor  # float32[n]: mixed with int8, products would be slow
    offset: int


def project_channels(x: Tensor, matrix: Tensor | None, axis: int) -> Tensor:
    """x [rows, ..., C, ...] to [rows, ..., c, ...] by a matrix [C, c] on one axis; None changes nothing."""
    if matrix is None:
        return x
    with timed("project"):
        return torch.movedim(torch.movedim(x, axis, -1) @ matrix, -1, axis)


class Projection:
    """Adds gradients of named parameters into vectors of `dim` numbers.

    `axes` names the weights whose channels may be projected, with their output and input axes. With `config.dim` None
    the gradients are not mixed but laid side by side in the order of `shapes`.
    """

    def __init__(
        self,
        config: ProjectionConfig,
        shapes: Mapping[str, tuple[int, ...]],
        axes: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.config = config
        self.full_shapes = dict(shapes)
        self.size = sum(prod(shape) for shape in shapes.values())
        self.dim = config.dim or self.size
        kept = None if config.dim is None else CHANNELS[config.mode]
        self._axes = {name: sides for name, sides in (axes or {}).items() if kept and prod(shapes[name]) > SMALL_WEIGHT}
        self._kept = {name: kept.of(shapes[name]) for name in self._axes} if kept else {}
        self._channels = {name: self._channel_projection(name) for name in self._axes}
        self.shapes = {name: self._folded_shape(name) for name in shapes}
        """Of what is folded: the parameters' own shapes, fewer channels where those are projected."""
        self.sizes = {name: prod(shape) for name, shape in self.shapes.items()}
        ends = np.cumsum([prod(shape) for shape in shapes.values()]).tolist()
        self.starts = dict(zip(shapes, [0, *ends[:-1]], strict=True))
        self._hashes = {} if config.dim is None else {name: self._hash(name) for name in shapes}

    def channels(self, name: str, like: Tensor) -> ChannelProjection:
        """The channel projection of a parameter, on the device and in the type of `like`."""
        found = self._channels.get(name, WHOLE)
        return ChannelProjection(*(None if m is None else m.to(like) for m in (found.inputs, found.outputs)))

    def _channel_projection(self, name: str) -> ChannelProjection:
        keep_out, keep_in = self._kept[name]
        out_axis, in_axis = self._axes[name]
        shape = self.full_shapes[name]
        return ChannelProjection(
            self._matrix(name, "inputs", shape[in_axis], keep_in),
            self._matrix(name, "outputs", shape[out_axis], keep_out),
        )

    def _matrix(self, name: str, side: str, count: int, keep: int) -> Tensor | None:
        if count <= keep:
            return None
        columns, signs = self._channel_hash(name, side, count, keep)
        matrix = torch.zeros(count, keep)
        matrix[torch.arange(count), torch.from_numpy(columns)] = torch.from_numpy(signs).float()
        return matrix

    def _channel_hash(self, name: str, side: str, count: int, keep: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """For each of `count` channels its column and its sign."""
        columns = keyed_permutation(count, "channel-column", self.config.seed, name, side) % keep
        return columns, keyed_signs(count, "channel-sign", self.config.seed, name, side)

    def _folded_shape(self, name: str) -> tuple[int, ...]:
        shape = list(self.full_shapes[name])
        for axis, keep in zip(self._axes.get(name, ()), self._kept.get(name, ()), strict=True):
            shape[axis] = min(shape[axis], keep)
        return tuple(shape)

    def _hash(self, name: str) -> _Hash:
        signs = keyed_signs(self.sizes[name], "gradient-sign", self.config.seed, name)
        offset = keyed_integers(self.dim, (1,), "gradient-offset", self.config.seed, name)
        return _Hash(torch.from_numpy(signs).float(), int(offset[0]))

    def _hash_on(self, name: str, device: torch.device) -> _Hash:
        found = self._hashes[name]
        if found.signs.device != device:
            found = self._hashes[name] = _Hash(found.signs.to(device), found.offset)
        return found

    def add(self, vectors: Tensor, name: str, gradients: Tensor) -> None:
        """Fold `gradients`, float32[B, n] of the shape `shapes[name]`, and add them to `vectors`, float32[B, dim]."""
        if self.config.dim is None:
            start = self.starts[name]
            vectors[:, start : start + self.sizes[name]] += gradients
            return
        keyed = self._hash_on(name, gradients.device)
        signs, offset, dim, size = keyed.signs, keyed.offset, self.dim, self.sizes[name]
        # Elements up to the last bucket, then whole rounds over all buckets, then what is left.
        head = min(size, dim - offset)
        rounds = (size - head) // dim
        tail = head + rounds * dim
        vectors[:, offset : offset + head].addcmul_(gradients[:, :head], signs[:head])
        if rounds:
            signed = gradients[:, head:tail] * signs[head:tail]  # [B, rounds * dim]
            vectors += signed.reshape(-1, rounds, dim).sum(1)
        if tail < size:
            vectors[:, : size - tail].addcmul_(gradients[:, tail:], signs[tail:])

    def reduce(self, name: str, gradients: Tensor) -> Tensor:
        """Project the channels of a parameter's whole gradients: [B, *its shape] to float32[B, n]."""
        found = self.channels(name, gradients)
        for axis, matrix in zip(self._axes.get(name, ()), (found.outputs, found.inputs), strict=False):
            gradients = project_channels(gradients, matrix, axis + 1)
        return gradients.flatten(1)

    def sketch(self, flat: Tensor) -> Tensor:
        """Project whole gradients, float32[B, size] with the parameters in order, to float32[B, dim]."""
        if flat.dim() != 2 or flat.shape[1] != self.size:
            raise ForebearError(f"expected gradients of shape [batch, {self.size}], got {list(flat.shape)}")
        vectors = flat.new_zeros((len(flat), self.dim), dtype=torch.float32)
        for name, start in self.starts.items():
            shape = self.full_shapes[name]
            gradients = flat[:, start : start + prod(shape)].float().view(-1, *shape)
            self.add(vectors, name, self.reduce(name, gradients))
        return vectors

    def reference(self, name: str, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """The projection of one parameter's gradient, [*its shape] to [dim]: float64 NumPy, by the formulas."""
        sides = ("outputs", "inputs") if name in self._axes else ()
        for axis, keep, side in zip(self._axes.get(name, ()), self._kept.get(name, ()), sides, strict=True):
            count = gradient.shape[axis]
            if count > keep:
                columns, signs = self._channel_hash(name, side, count, keep)
                first = np.moveaxis(gradient, axis, 0)
                fewer = np.zeros((keep, *first.shape[1:]))
                np.add.at(fewer, columns, signs.reshape(-1, *[1] * (first.ndim - 1)) * first)
                gradient = np.moveaxis(fewer, 0, axis)
        size = self.sizes[name]
        signs = keyed_signs(size, "gradient-sign", self.config.seed, name)
        offset = keyed_integers(self.dim, (1,), "gradient-offset", self.config.seed, name)
        vector = np.zeros(self.dim)
        np.add.at(vector, (np.arange(size) + offset) % self.dim, signs * gradient.ravel())
        return vector

    def self_test(self, device: torch.device) -> None:
        """Project a known gradient of every parameter on `device` and compare it with `reference`.

        Raises ForebearError on a difference, so that a device that computes zeros or rubbish is found before use.
        With `dim` None nothing is computed and there is nothing to test.
        """
        for name in self._hashes:
            shape = self.full_shapes[name]
            known = ((np.arange(prod(shape)) * 7919 % 1009 - 503) / 503).astype(np.float32).reshape(shape)
            expected = self.reference(name, known.astype(np.float64))
            found = torch.zeros(1, self.dim, device=device)
            self.add(found, name, self.reduce(name, torch.from_numpy(known).to(device)[None]))
            error = float(np.linalg.norm(found[0].cpu().numpy() - expected))
            if not error <= 1e-5 * float(np.linalg.norm(known)):
                raise ForebearError(
                    f"the projection of {name} on the device {device} differs from the reference by {error:.3g}; "
                    "use another device or another PyTorch build, and report it"
                )

    def fingerprint_data(self) -> dict[str, int | str | None]:
        """What decides the numbers, as JSON: two stores may be compared only when it is equal."""
        exact = self.config.dim is None
        return {
            "kind": "exact" if exact else "signed-fold",
            "version": PROJECTION_VERSION,
            "dim": self.config.dim,
            "seed": None if exact else self.config.seed,
            "mode": "exact" if exact else self.config.mode,
            "parameters": fingerprint([[name, list(shape)] for name, shape in self.full_shapes.items()]),
        }
