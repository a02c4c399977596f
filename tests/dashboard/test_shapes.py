"""Masks and the canvas: what the dashboard shows beforehand is what the generators take."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

pytest.importorskip("streamlit", reason="the dashboard extra is not installed")

from forebear.errors import ConfigError, DataError
from forebear.images import to_png
from forebear.run import Run
from forebear_dashboard.answers import Part
from forebear_dashboard.canvas import laid, laid_by_request, step_of
from forebear_dashboard.shapes import box_mask, ellipse_mask, opened, outlined, subject_mask, uploaded_mask
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.evaluation.cases import kept_part
from forebear_generators.cow.placement import place
from forebear_generators.cow.settings import preset
from forebear_generators.generator import Generator
from forebear_serve.client.calls import generate_request


def drawing(size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A ring on white, whose hole is white too but not background."""
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).ellipse((8, 8, 31, 31), fill="white", outline="navy", width=4)
    return picture


def white(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask) > 127


def test_subject_is_what_the_evaluation_keeps() -> None:
    pixels = np.asarray(drawing(), np.float32).transpose(2, 0, 1) / 127.5 - 1.0
    assert np.array_equal(white(subject_mask(drawing())), kept_part(pixels, "subject") > 0)


def test_subject_is_what_is_not_transparent() -> None:
    alpha = Image.new("L", (6, 4))
    alpha.paste(255, (1, 1, 3, 4))
    assert np.array_equal(white(subject_mask(Image.new("RGB", (6, 4)), alpha)), white(alpha))
    assert white(subject_mask(Image.new("RGB", (6, 4), "white"))).all()  # nothing but background is meant as a whole


@given(st.integers(1, 40), st.integers(1, 40))
def test_ellipse_fills_its_box(width: int, height: int) -> None:
    mask = ellipse_mask((50, 50), (3, 5, 3 + width, 5 + height))
    assert white(mask).sum() == pytest.approx(np.pi * width * height / 4, abs=width + height + 2)
    outside = white(mask) & ~white(box_mask((50, 50), (3, 5, 3 + width, 5 + height)))
    assert not outside.any()


def test_uploaded_mask_takes_the_pictures_size() -> None:
    half = Image.new("L", (8, 8))
    half.paste(255, (0, 0, 4, 8))
    assert np.array_equal(white(uploaded_mask(to_png(half), (32, 32))), white(box_mask((32, 32), (0, 0, 16, 32))))
    for picture, size, words in ((half, (32, 16), "shape"), (Image.new("L", (8, 8)), (8, 8), "black everywhere")):
        with pytest.raises(ConfigError, match=words):
            uploaded_mask(to_png(picture), size)
    with pytest.raises(DataError, match="mask"):
        uploaded_mask(b"no picture", (8, 8))


def test_upload_keeps_its_transparency_and_is_reduced() -> None:
    picture = Image.new("RGBA", (64, 32), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 32, 32))
    colours, alpha = opened(to_png(picture), 16)
    assert colours.size == (16, 8)
    assert alpha is not None
    assert np.array_equal(white(alpha), white(box_mask((16, 8), (0, 0, 8, 8))))
    assert colours.getpixel((15, 4)) == (255, 255, 255)
    assert opened(to_png(drawing()), 16)[1] is None


def test_part_is_outlined_inside_its_edge() -> None:
    part = Part("", box=(2, 2, 6, 6))
    grey = Image.new("RGB", (200, 200), "grey")
    drawn = np.asarray(outlined(grey, part.drawn((8, 8))))
    changed = (drawn != np.asarray(grey)).any(2)
    assert changed[50:150, 50:150].any()
    assert not changed[60:140, 60:140].any()
    changed[50:150, 50:150] = False
    assert not changed.any()
    assert {tuple(one) for one in drawn.reshape(-1, 3)} == {(0, 0, 0), (255, 255, 255), (128, 128, 128)}


@pytest.mark.parametrize("edges", [(4, 2, 3), (8, 0, 0), (5, 3, 0)])
def test_canvas_is_the_generators_own(served_run: Run, edges: tuple[int, int, int]) -> None:
    size, left, top = edges
    image, mask = drawing(), ellipse_mask((40, 40), (4, 4, 36, 30))
    model = Generator.load(served_run.model_folder).model
    settings = {"placement": {"size": size, "x": left, "y": top}, "inversion": "canvas"}
    own = place(model, [CowCondition(image, mask)], preset("scene", settings))
    shown = laid(image, mask, edges, 8)
    assert np.array_equal(white(shown.kept), own.kept[0].numpy() > 0)
    levels = np.asarray(shown.canvas.convert("L"), np.float32)
    assert np.abs(levels - (own.canvas[0].numpy() + 1) * 127.5).max() <= 1.0
    assert shown.part == pytest.approx(float(own.kept.mean()))


def test_request_of_a_picture_tells_what_it_was_made_around() -> None:
    image, mask = drawing(), box_mask((40, 40), (0, 0, 20, 40))

    def encoded(picture: Image.Image) -> bytes:
        return base64.b64encode(to_png(picture))

    cow = {"image": encoded(image), "mask": encoded(mask), "mode": "inpaint", "settings": {}}
    request = generate_request("", None, {"cow": cow}).model_dump(mode="json")
    found = laid_by_request(request, 32)
    assert found is not None
    wanted = laid(image, mask, (32, 0, 0), 32)
    assert np.array_equal(np.asarray(found.canvas), np.asarray(wanted.canvas))
    scene = laid_by_request(generate_request("", None, {"cow": {"image": encoded(image)}}).model_dump(mode="json"), 32)
    assert scene is not None
    assert np.array_equal(white(scene.kept), white(box_mask((32, 32), (8, 0, 24, 16))))  # half, centred, at the top
    assert laid_by_request({"cow": None}, 32) is None
    assert laid_by_request(None, 32) is None


@pytest.mark.parametrize(("canvas", "step"), [(8, 1), (32, 4), (512, 64)])
def test_places_are_eighths_of_the_canvas(canvas: int, step: int) -> None:
    assert step_of(canvas) == step


def test_png_of_a_part_is_a_grey_picture() -> None:
    part = Part("", mask=to_png(box_mask((8, 8), (0, 0, 2, 2))))
    (mask,) = part.region().values()
    assert Image.open(io.BytesIO(base64.b64decode(mask))).mode == "L"
