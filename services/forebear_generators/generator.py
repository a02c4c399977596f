"""A trained model that makes pictures: the same seed gives the same picture, alone or in any batch."""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.sampling import generate
from forebear.images import to_picture


class Generator:
    """Full-precision (float32) generation by DDIM with classifier-free guidance."""

    variant = "fp32"

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model

    @classmethod
    def load(cls, folder: Path | str) -> "Generator":
        """Open a diffusers directory; raises ModelError with the remedy when it cannot be used."""
        return cls(DiffusionModel.load(folder))

    def pictures(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        labels: Sequence[int | None] | None = None,
        steps: int = 50,
        guidance: float = 1.0,
        on_step: Callable[[int], None] | None = None,
    ) -> list[Image.Image]:
        """One RGB picture for each prompt and seed; `on_step` is called after each of the `steps` steps."""
        chosen = [None] * len(prompts) if labels is None else labels
        pixels = generate(self.model, prompts, chosen, seeds, steps=steps, guidance=guidance, on_step=on_step)
        return [to_picture(array) for array in pixels.numpy()]
