"""Making pictures around an image, and asking about parts by masks: the pages against the real services."""

from collections.abc import Callable

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from forebear.images import to_png

Open = Callable[..., AppTest]
Words = Callable[[AppTest], str]
Press = Callable[[AppTest, str], AppTest]


def half(size: tuple[int, int] = (8, 8)) -> bytes:
    """A mask of a left half."""
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return to_png(mask)


@pytest.fixture
def panel(open_page: Open, press: Press) -> AppTest:
    """The panel with a training image in it."""
    page = open_page("generate", seed="4", steps="10", shown="3", start="an image")
    press(page, "Generate and trace")
    assert "Choose an image" in page.warning[0].value
    page.get_by_key("around:source").set_value("training image").run()
    next(one for one in page.button if one.label.startswith("Take ")).click().run()
    assert "100 % of the canvas" not in " ".join(one.value for one in page.caption)
    assert any("25 % of the canvas is kept" in one.value for one in page.caption)  # half its side
    return page


def shares(page: AppTest) -> list[str]:
    return [one.proto.body for one in page.get("html") if "Where the picture comes from" in one.proto.body]


def test_picture_around_a_training_image(panel: AppTest, open_page: Open, press: Press, words: Words) -> None:
    panel.selectbox(key="around:mode").set_value("inpaint").run()
    panel.selectbox(key="around:mask").set_value("mask picture").run()
    press(panel, "Generate and trace")
    assert "Choose an image, and what is kept of it" in panel.warning[-1].value
    panel.file_uploader(key="around:mask-file").set_value(("mask.png", half(), "image/png")).run()
    assert any("50 % of the canvas is kept" in one.value for one in panel.caption)
    press(panel, "Generate and trace")
    assert "Proponents" in words(panel)
    (share,) = shares(panel)
    assert "training images" in share
    assert "100.0 dB" in share  # inpainting changes not a pixel of what is kept

    press(panel, "Trace both")
    headings = [one.value for one in panel.markdown if one.value.startswith("#### ")]
    assert headings == ["#### The kept area", "#### The rest"]
    facts = [one.proto.body for one in panel.get("html") if "score" in one.proto.body]
    whole, inside, outside = (facts[first : first + 6] for first in (0, 6, 12))
    assert whole != inside != outside != whole

    picture = panel.query_params["picture"]
    picture = picture if isinstance(picture, str) else picture[0]
    assert shares(open_page("generate", picture=picture, shown="3")) == [share]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("mask", "ellipse"), "% of the canvas is kept"),
        (("mask", "box"), "25 % of the canvas is kept"),
        (("mask", "subject"), "% of the canvas is kept"),
        (("mode", "edit"), "100 % of the canvas is kept"),
    ],
)
def test_preview_follows_what_is_chosen(panel: AppTest, change: tuple[str, str], told: str) -> None:
    name, value = change
    panel.selectbox(key=f"around:{name}").set_value(value).run()
    assert any(told in one.value for one in panel.caption)
    assert not panel.exception


def test_box_and_place_of_an_image(panel: AppTest) -> None:
    panel.selectbox(key="around:mask").set_value("box").run()
    panel.slider(key="around:box:across").set_value((0, 4)).run()
    panel.slider(key="around:size").set_value(8).run()
    assert any("50 % of the canvas is kept" in one.value for one in panel.caption)
    panel.checkbox(key="around:else").check().run()
    panel.slider(key="around:box:across").set_value((0, 8)).run()
    assert "Nothing of the image would be kept" in panel.warning[-1].value


def test_uploaded_image_and_the_picture_before(open_page: Open, press: Press, words: Words) -> None:
    page = open_page("generate", seed="5", steps="10", shown="3")
    press(page, "Generate and trace")
    page.get_by_key("start").set_value("an image").run()
    page.get_by_key("around:source").set_value("last picture").run()
    press(page, "Take the picture below")
    assert any("8 x 8 pixels" in one.value for one in page.caption)
    page.get_by_key("around:source").set_value("upload").run()
    picture = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (8, 0, 16, 16))
    page.file_uploader(key="around:file").set_value(("red.png", to_png(picture), "image/png")).run()
    assert any("red\\.png, 16 x 16 pixels" in one.value for one in page.caption)
    page.selectbox(key="around:mask").set_value("subject").run()
    assert any("12 % of the canvas is kept" in one.value for one in page.caption)
    page.file_uploader(key="around:file").set_value(("no.png", b"no picture", "image/png")).run()
    assert "cannot be used as image" in words(page).replace("\\", "")


def test_part_is_an_ellipse_or_a_mask(open_page: Open, press: Press, words: Words) -> None:
    page = open_page("generate", seed="3", steps="4", shown="3")
    press(page, "Generate and trace")
    page.get_by_key("generate:shape").set_value("ellipse").run()
    press(page, "Trace this part")
    assert "About the ellipse in the box from (0, 0) to (8, 8)" in page.info[0].value
    page.get_by_key("generate:shape").set_value("mask picture").run()
    uploader = next(one for one in page.file_uploader if one.label.startswith("Mask"))
    uploader.set_value(("wide.png", half((8, 4)), "image/png")).run()
    assert "shape" in page.warning[0].value
    uploader = next(one for one in page.file_uploader if one.label.startswith("Mask"))
    uploader.set_value(("left.png", half(), "image/png")).run()
    press(page, "Trace this part")
    assert "About the mask left" in page.info[0].value
    by_mask = [one.proto.body for one in page.get("html") if "score" in one.proto.body]
    press(page, "Whole picture")
    page.get_by_key("generate:shape").set_value("box").run()
    next(one for one in page.slider if one.label.startswith("Left and right")).set_value((0, 4)).run()
    press(page, "Trace this part")
    assert by_mask == [one.proto.body for one in page.get("html") if "score" in one.proto.body]  # the same area
