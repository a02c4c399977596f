"""What a model is told about a picture besides the noise: nothing, a class, or a caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forebear.errors import ModelError

_ARGUMENTS = {
    "hidden_states": "encoder_hidden_states",
    "class_labels": "class_labels",
    "pooled": "pooled_projections",
}
"""diffusers' names of the fields of a Condition."""


@dataclass(frozen=True)
class Condition:
    """Arguments of the denoiser for a batch of B pictures; absent parts are None."""

    hidden_states: Tensor | None = None
    """Text states, float[B, tokens, width]."""
    class_labels: Tensor | None = None
    """Class numbers, int64[B]."""
    pooled: Tensor | None = None
    """What the text encoders say of the caption as a whole, float[B, width]."""

    def rows(self, index: Tensor) -> "Condition":
        """The condition of the chosen rows, repeated as the index repeats them; index int64[R]."""
        return Condition(**{name: value[index] for name, value in self._present().items()})

    @staticmethod
    def joined(parts: Sequence["Condition"]) -> "Condition":
        """Concatenate along the batch; all parts have the same fields."""
        present = [part._present() for part in parts]
        return Condition(**{name: torch.cat([values[name] for values in present]) for name in present[0]})

    def arguments(self) -> dict[str, Tensor]:
        """The denoiser's keyword arguments."""
        return {_ARGUMENTS[name]: value for name, value in self._present().items()}

    def _present(self) -> dict[str, Tensor]:
        return {name: value for name in _ARGUMENTS if (value := getattr(self, name)) is not None}


class Conditioner(Protocol):
    """Turns captions and labels into a Condition."""

    kind: str

    def encode(self, captions: Sequence[str], labels: Sequence[int | None]) -> Condition:
        """The condition of B pictures, from B captions and B labels."""

    def unconditional(self, count: int) -> Condition | None:
        """The condition of B empty captions, which guidance leads away from; None when the model has none."""

    def tokenizers(self) -> dict[str, Any]:
        """Tokenizers by the name of their folder."""

    def encoders(self) -> dict[str, nn.Module]:
        """Text encoders by the name of their folder."""


class _Wordless:
    """What conditioners without text share."""

    def tokenizers(self) -> dict[str, Any]:
        return {}

    def encoders(self) -> dict[str, nn.Module]:
        return {}


class Unconditional(_Wordless):
    """The model sees nothing but the noisy picture."""

    kind = "unconditional"

    def encode(self, captions: Sequence[str], labels: Sequence[int | None]) -> Condition:  # noqa: ARG002
        return Condition()

    def unconditional(self, count: int) -> Condition | None:  # noqa: ARG002
        return None


class ByClass(_Wordless):
    """The model is told a class number; `guidance_class` is the one that it learned as "any", if it did."""

    kind = "class"

    def __init__(self, classes: int, guidance_class: int | None = None) -> None:
        self.classes, self.guidance_class = classes, guidance_class

    def encode(self, captions: Sequence[str], labels: Sequence[int | None]) -> Condition:  # noqa: ARG002
        known = [label for label in labels if label is not None and 0 <= label < self.classes]
        if len(known) < len(labels):
            wrong = next(label for label in labels if label not in range(self.classes))
            raise ModelError(
                f"this model is conditioned on a class from 0 to {self.classes - 1}, and a picture came with "
                f"{'none' if wrong is None else wrong}; "
                "give a label, or a label column for the training set"
            )
        return Condition(class_labels=torch.tensor(known))

    def unconditional(self, count: int) -> Condition | None:
        return (
            None if self.guidance_class is None else Condition(class_labels=torch.full((count,), self.guidance_class))
        )


class ByCaption:
    """The model reads a caption through a tokenizer and a CLIP-type text encoder."""

    kind = "text"

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.max_tokens = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)

    def encode(self, captions: Sequence[str], labels: Sequence[int | None] = ()) -> Condition:  # noqa: ARG002
        tokens = _tokens(self.tokenizer, captions, self.max_tokens, self.text_encoder)
        return Condition(hidden_states=self.text_encoder(tokens)[0])

    def unconditional(self, count: int) -> Condition | None:
        return self.encode([""] * count)

    def tokenizers(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer}

    def encoders(self) -> dict[str, nn.Module]:
        return {"text_encoder": self.text_encoder}

    def unknown_words(self, caption: str) -> list[str]:
        """Words of the caption that the tokenizer replaces by its unknown token."""
        unknown = self.tokenizer.unk_token
        if unknown is None:
            return []
        return [word for word in caption.split() if unknown in self.tokenizer.tokenize(word)]


@dataclass(frozen=True)
class TextReader:
    """A tokenizer and the encoder that reads its tokens."""

    tokenizer: Any
    encoder: Any


class ByJointText:
    """The model reads a caption through two CLIP encoders and, where it is there, a T5 encoder (Stable Diffusion 3).

    Its text states are those before the last layer of both CLIP encoders side by side, widened with zeros to `width`,
    followed by T5's states; without T5 those are zeros. Its pooled state is that of both CLIP encoders side by side.
    """

    kind = "text"
    t5_tokens = 256
    """As many as StableDiffusion3Pipeline takes when it is not told otherwise."""

    def __init__(self, clips: tuple[TextReader, TextReader], t5: TextReader | None, width: int) -> None:
        self.clips, self.t5, self.width = clips, t5, width
        first = clips[0]
        self.max_tokens = min(first.tokenizer.model_max_length, first.encoder.config.max_position_embeddings)

    def encode(self, captions: Sequence[str], labels: Sequence[int | None] = ()) -> Condition:  # noqa: ARG002
        states, pooled = zip(*(self._read_clip(clip, captions) for clip in self.clips), strict=True)
        clip = torch.cat(states, dim=-1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        return Condition(
            hidden_states=torch.cat([clip, self._read_t5(captions).to(clip)], dim=1),
            pooled=torch.cat(pooled, dim=-1),
        )

    def unconditional(self, count: int) -> Condition | None:
        return self.encode([""] * count)

    def tokenizers(self) -> dict[str, Any]:
        return {numbered("tokenizer", place): reader.tokenizer for place, reader in enumerate(self._readers())}

    def encoders(self) -> dict[str, nn.Module]:
        return {numbered("text_encoder", place): reader.encoder for place, reader in enumerate(self._readers())}

    def _readers(self) -> list[TextReader]:
        return [*self.clips, *([] if self.t5 is None else [self.t5])]

    def _read_clip(self, clip: TextReader, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States float[B, tokens, w] and pooled float[B, w'] of one encoder."""
        tokens = _tokens(clip.tokenizer, captions, self.max_tokens, clip.encoder)
        output = clip.encoder(tokens, output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds

    def _read_t5(self, captions: Sequence[str]) -> Tensor:
        if self.t5 is None:
            return torch.zeros(len(captions), self.t5_tokens, self.width)
        states: Tensor = self.t5.encoder(_tokens(self.t5.tokenizer, captions, self.t5_tokens, self.t5.encoder))[0]
        return states


def numbered(part: str, place: int) -> str:
    """diffusers' folder name of the part at a 0-based place: `tokenizer`, `tokenizer_2`, `tokenizer_3`."""
    return part if place == 0 else f"{part}_{place + 1}"


def _tokens(tokenizer: Any, captions: Sequence[str], count: int, encoder: Any) -> Tensor:
    """Token numbers int64[B, count] on the encoder's device, cut or padded."""
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, max_length=count, return_tensors="pt")
    return tokens.input_ids.to(next(encoder.parameters()).device)  # type: ignore[no-any-return]
