"""What a model is told about a picture besides the noise: nothing, a class, or a caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from forebear.errors import ModelError


@dataclass(frozen=True)
class Condition:
    """Arguments of the denoiser for a batch of B pictures; absent parts are None."""

    hidden_states: Tensor | None = None
    """Text states, float[B, tokens, width]."""
    class_labels: Tensor | None = None
    """Class numbers, int64[B]."""

    def rows(self, index: Tensor) -> "Condition":
        """The condition of the chosen rows, repeated as the index repeats them; index int64[R]."""
        return Condition(
            None if self.hidden_states is None else self.hidden_states[index],
            None if self.class_labels is None else self.class_labels[index],
        )

    @staticmethod
    def joined(parts: Sequence["Condition"]) -> "Condition":
        """Concatenate along the batch."""
        states = [part.hidden_states for part in parts if part.hidden_states is not None]
        labels = [part.class_labels for part in parts if part.class_labels is not None]
        return Condition(torch.cat(states) if states else None, torch.cat(labels) if labels else None)

    def arguments(self) -> dict[str, Tensor]:
        named = {"encoder_hidden_states": self.hidden_states, "class_labels": self.class_labels}
        return {name: value for name, value in named.items() if value is not None}


class Conditioner(Protocol):
    """Turns captions and labels into a Condition."""

    kind: str

    def encode(self, captions: Sequence[str], labels: Sequence[int | None]) -> Condition:
        """The condition of B pictures, from B captions and B labels."""

    def unconditional(self, count: int) -> Condition | None:
        """The condition of B empty captions, which guidance leads away from; None when the model has none."""


class Unconditional:
    """The model sees nothing but the noisy picture."""

    kind = "unconditional"

    def encode(self, captions: Sequence[str], labels: Sequence[int | None]) -> Condition:  # noqa: ARG002
        return Condition()

    def unconditional(self, count: int) -> Condition | None:  # noqa: ARG002
        return None


class ByClass:
    """The model is told a class number."""

    kind = "class"

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def encode(self, captions: Sequence[str], labels: Sequence[int | None]) -> Condition:  # noqa: ARG002
        known = [label for label in labels if label is not None and 0 <= label < self.classes]
        if len(known) < len(labels):
            raise ModelError(
                f"this model is conditioned on a class from 0 to {self.classes - 1}, and a picture came without one; "
                "give a label, or a label column for the training set"
            )
        return Condition(class_labels=torch.tensor(known))

    def unconditional(self, count: int) -> Condition | None:  # noqa: ARG002
        return None


class ByCaption:
    """The model reads a caption through a tokenizer and a CLIP-type text encoder."""

    kind = "text"

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.max_tokens = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)

    def encode(self, captions: Sequence[str], labels: Sequence[int | None] = ()) -> Condition:  # noqa: ARG002
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        device = next(self.text_encoder.parameters()).device
        return Condition(hidden_states=self.text_encoder(tokens.input_ids.to(device))[0])

    def unconditional(self, count: int) -> Condition | None:
        return self.encode([""] * count)

    def unknown_words(self, caption: str) -> list[str]:
        """Words of the caption that the tokenizer replaces by its unknown token."""
        unknown = self.tokenizer.unk_token
        if unknown is None:
            return []
        return [word for word in caption.split() if unknown in self.tokenizer.tokenize(word)]
