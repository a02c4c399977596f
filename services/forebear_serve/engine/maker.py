"""Makes pictures by one generator, and says on the way how far they are and what they look like by now."""

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from forebear.config import plain
from forebear.diffusion.model import weights_fingerprint
from forebear.diffusion.sampling import starting_noise
from forebear.errors import ConfigError, ModelError
from forebear.files import sha256_of_file
from forebear.images import to_picture, to_png
from forebear.run import Run
from forebear_generators.cow.request import CowItem, CowRequest
from forebear_generators.cow.sampler import cow, planned_calls
from forebear_generators.cow.share import condition_shares
from forebear_generators.generator import Generator, Request, Sight
from forebear_generators.quantisation.files import DESCRIPTION, is_generator
from forebear_generators.samplers import OWN, SAMPLERS, moves
from forebear_serve.engine.events import Finished, MakerEvent, Sighted
from forebear_serve.engine.pictures import FOLDER, PictureStore, content_id
from forebear_serve.schemas import CowOptions, GenerateRequest, GeneratorInfo, Picture, PictureInfo, Progressed
from forebear_serve.settings import GeneratorSettings, Limits

PREVIEW_EVERY = 5
"""Steps between previews."""
SHARE_DRAWS = 1
"""Noises at each timestep at which a condition's share is measured: 16 evaluations, few beside those of the cycles."""
RECENTLY = 60.0
"""Seconds for which a picture made, or a call of the denoiser, proves that it works."""


Pixels = NDArray[np.float32]
Hear = Callable[[MakerEvent], None]


@dataclass(frozen=True)
class _Work:
    """A picture that can be made."""

    decides: tuple[Any, ...]
    """JSON-like values that decide it, beside the generator."""
    make: Callable[[Hear], tuple[Pixels, dict[str, Any]]]
    """float32[C, H, W] in [-1, 1], and facts for its description."""


class Maker:
    """One generator, one picture at a time."""

    def __init__(self, name: str, settings: GeneratorSettings, run: Path, limits: Limits) -> None:
        """Raises ModelError when the folder cannot be used, or a quantised one was made from another model."""
        self.name = name
        folder = settings.model or Run(run).model_folder
        self._generator = Generator.load(folder, backend=settings.backend)
        self._quantised = is_generator(folder)
        self._identity = [self._generator.facts.get("backend"), self._weights(folder)]
        self._pictures = PictureStore(run / FOLDER, limits.kept_pictures)
        self._limits = limits
        self._lock = threading.Lock()
        self._worked = 0.0

    def _weights(self, folder: Path) -> str:
        if self._quantised:
            return sha256_of_file(folder / DESCRIPTION)
        return weights_fingerprint(self._generator.model.trained_parts())

    def info(self) -> GeneratorInfo:
        made, model = self._generator, self._generator.model
        free = (OWN,) if model.prediction_type == "flow" else SAMPLERS
        return GeneratorInfo(
            name=self.name,
            variant=made.variant,
            sampler=made.sampler,
            steps=made.steps,
            conditioning=model.conditioner.kind,
            image_size=model.image_size,
            samplers=(made.sampler,) if self._quantised else free,
            facts={name: value for name, value in made.facts.items() if name != "weights"},
        )

    def check(self) -> None:
        """Call the denoiser; raises when it does not work any more. One that works, or just has, is not disturbed."""
        if time.monotonic() - self._worked < RECENTLY or not self._lock.acquire(blocking=False):
            return
        try:
            model, made = self._generator.model, self._generator
            first = moves(model, made.sampler, made.steps)[0].time
            noise = starting_noise(model, [0])
            with torch.no_grad():
                output = model.denoise(noise, first.repeat(1), model.condition([""], [0]))
            if not bool(output.isfinite().all()):
                raise ModelError(f"generator {self.name} computes numbers that are not finite; load it anew")
            self._worked = time.monotonic()
        finally:
            self._lock.release()

    def make(self, request: GenerateRequest, early_step: float | None, hear: Hear) -> None:
        """Tell `hear` of progress, of the sight at `early_step` of the way where that is asked for, and of the picture.

        A picture that was made before is not made again. An exception that `hear` raises ends the work. Raises Problem
        for what the limits refuse, ConfigError or ModelError for what the model does.
        """
        started = time.perf_counter()
        work = self._around(request.cow, request) if request.cow is not None else self._from_noise(request, early_step)
        picture_id = content_id(*work.decides, self._identity)
        if picture_id in self._pictures:
            hear(self._known(picture_id, started))
            return
        with self._lock:
            pixels, facts = work.make(hear)
            self._worked = time.monotonic()
        given = to_picture(pixels)
        png = to_png(given)
        info = PictureInfo(
            id=picture_id,
            origin="generated",
            width=pixels.shape[2],
            height=pixels.shape[1],
            prompt=request.prompt,
            label=request.label,
            generator=self.name,
            request=request.model_dump(mode="json", exclude={"attribute"}),
            facts={"variant": self._generator.variant, "backend": self._generator.facts.get("backend")} | facts,
            created=datetime.now(UTC),
        )
        self._pictures.add(info, png)
        picture = Picture(**info.model_dump(), png=_encoded(png))
        hear(Finished(picture, self._as_given(given), time.perf_counter() - started))

    def _from_noise(self, request: GenerateRequest, early_step: float | None) -> "_Work":
        asked = self._request(request)
        early = None if early_step is None else max(1, round(early_step * asked.steps))

        def make(hear: Hear) -> tuple[Pixels, dict[str, Any]]:
            def listen(sight: Sight) -> None:
                shown = sight.made % PREVIEW_EVERY == 0 and sight.made < asked.steps
                pixels = sight.pixels()[0].numpy() if shown or sight.made == early else None
                preview = _encoded(to_png(to_picture(pixels))) if shown and pixels is not None else None
                hear(Progressed(done=sight.made, total=asked.steps, preview=preview))
                if sight.made == early and pixels is not None:
                    hear(Sighted(pixels))

            return self._generator.run(asked, on_step=listen).pixels[0].numpy(), {}

        return _Work(("generated", vars(asked)), make)

    def _around(self, options: CowOptions, request: GenerateRequest) -> "_Work":
        """By Cyclic One-Way Diffusion; raises what `cow` raises before anything is made."""
        given = {**options.model_dump(include={"image", "mask"}), "prompt": request.prompt, "label": request.label}
        item = CowItem.model_validate({**given, "seed": request.seed})
        settings = options.settings
        if (settings.steps or 0) > self._limits.steps:
            raise ConfigError(f"cow.settings.steps is {settings.steps}; this server makes at most {self._limits.steps}")
        total = planned_calls(self._generator, 1, settings)
        conditions = CowRequest(conditions=(item,), settings=settings).conditions_read()

        def make(hear: Hear) -> tuple[Pixels, dict[str, Any]]:
            made = cow(
                self._generator, conditions, settings, on_call=lambda calls: hear(Progressed(done=calls, total=total))
            )
            (part,) = condition_shares(self._generator.model, made, conditions, draws=SHARE_DRAWS)
            facts: dict[str, Any] = {"calls": made.calls, "evaluations": made.evaluations, "cycles": made.cycles[0]}
            facts |= {"condition": asdict(part.similarity), "explained": part.explained, "share": part.share}
            return made.pixels[0].numpy(), facts

        return _Work(("cow", item.model_dump(mode="json"), plain(settings)), make)

    def _request(self, request: GenerateRequest) -> Request:
        steps = request.steps or self._generator.steps
        if steps > self._limits.steps:
            raise ConfigError(f"steps is {steps}; this server makes at most {self._limits.steps}")
        if request.prompt and self._generator.model.conditioner.kind != "text":
            raise ConfigError(
                f"generator {self.name} takes no prompt; its pictures are asked for by label, or by seed alone"
            )
        sampler = request.sampler or self._generator.sampler
        return Request((request.prompt,), (request.label,), (request.seed,), sampler, steps, request.guidance)

    def _known(self, picture_id: str, started: float) -> Finished:
        pixels = self._as_given(self._pictures.picture(picture_id))
        png = self._pictures.png(picture_id)
        described = Picture(**self._pictures.info(picture_id).model_dump(), png=_encoded(png), cached=True)
        return Finished(described, pixels, time.perf_counter() - started)

    def _as_given(self, picture: Image.Image) -> Pixels:
        """The pixels of a picture that is given out; its eight bits, so that asked again it has the same ancestors."""
        model = self._generator.model
        pixels = np.asarray(picture.convert("L" if model.image_channels == 1 else "RGB"), np.float32) / 127.5 - 1.0
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _encoded(png: bytes) -> str:
    return base64.b64encode(png).decode()
