"""Requests: strict, the same after a way through JSON, limited, and the same pictures as Python's own."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError, DataError
from forebear.images import to_png
from forebear_generators.cow import request as limits
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.request import CowRequest, item_of, parse_request
from forebear_generators.cow.sampler import cow
from forebear_generators.cow.settings import MODES, CowConfig, PlacementConfig, preset
from forebear_generators.generator import Generator

Condition = Callable[..., CowCondition]


def body(condition: CowCondition, **more: Any) -> str:
    return json.dumps({"conditions": [item_of(condition)], **more})


def test_a_request_makes_the_same_picture(build: Callable[..., DiffusionModel], condition: Condition) -> None:
    generator = Generator(build("text", scheduler={"prediction_type": "sample"}))
    settings = {"steps": 5, "cycles": 1, "placement": {"size": 4, "y": 2}}
    asked = parse_request(body(condition(4, side=4), settings=settings))
    assert asked.settings == CowConfig(steps=5, cycles=1, placement=PlacementConfig(size=4, y=2))
    found = cow(generator, asked.conditions_read(), asked.settings).pixels
    assert torch.equal(found, cow(generator, [condition(4, side=4)], asked.settings).pixels)


@pytest.mark.parametrize("mode", list(MODES))
def test_requests_come_back_from_json(condition: Condition, mode: str) -> None:
    asked = parse_request(body(condition(label=3), mode=mode, settings={"cycles": 3}))
    assert asked.settings == preset(mode, {"cycles": 3})
    again = parse_request(asked.model_dump_json())
    assert again == asked
    assert again.conditions[0].image == asked.conditions[0].image
    assert json.loads(again.model_dump_json()) == json.loads(asked.model_dump_json())


def test_the_schema_names_every_field_and_limit() -> None:
    schema = CowRequest.model_json_schema()
    assert schema["properties"]["conditions"]["maxItems"] == limits.MAX_CONDITIONS
    assert set(schema["$defs"]["CowItem"]["properties"]) == {"image", "mask", "prompt", "label", "seed"}
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["CowConfig"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"colour": 1}, "colour: Extra inputs"),
        ({"conditions": []}, "conditions: Tuple should have at least 1"),
        ({"mode": "magic"}, "mode: Input should be 'scene'"),
        ({"mode": ["scene"]}, "mode: "),
        ({"settings": {"strength": 3}}, "settings.strength"),
        ({"settings": {"cycels": 3}}, "settings.cycels: Unexpected"),
        ({"settings": 3}, "settings: "),
    ],
)
def test_other_fields_and_values_are_refused(condition: Condition, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_request(json.dumps(json.loads(body(condition())) | change))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image": "%%%"}, r"conditions.0.image: is not base64"),
        ({"image": ""}, r"conditions.0.image: has 0 bytes"),
        ({"prompt": "a" * 1001}, r"conditions.0.prompt: String should have at most 1000"),
        ({"seed": "x"}, r"conditions.0.seed"),
        ({"strength": 1}, r"conditions.0.strength: Extra"),
    ],
)
def test_conditions_are_checked(condition: Condition, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_request(json.dumps({"conditions": [item_of(condition()) | change]}))


def test_text_that_is_no_request_is_refused() -> None:
    for text in ("", "[]", "3", "{"):
        with pytest.raises(ConfigError, match="the request cannot be used"):
            parse_request(text)


def test_pictures_are_limited(condition: Condition, monkeypatch: pytest.MonkeyPatch) -> None:
    large = base64.b64encode(b"0" * (limits.MAX_IMAGE_BYTES + 1)).decode()
    with pytest.raises(ConfigError, match=r"conditions.0.image: has 8000001 bytes; send 1 to 8000000"):
        parse_request(json.dumps({"conditions": [{"image": large}]}))
    wide = base64.b64encode(to_png(Image.new("L", (4001, 4000)))).decode()
    with pytest.raises(DataError, match="more than 16,000,000"):
        parse_request(json.dumps({"conditions": [{"image": wide}]})).conditions_read()
    words = base64.b64encode(b"words").decode()
    with pytest.raises(DataError, match="mask cannot be used"):
        parse_request(json.dumps({"conditions": [item_of(condition()) | {"mask": words}]})).conditions_read()
    with pytest.raises(ConfigError, match="masks as pictures"):
        item_of(condition(mask=np.ones((8, 8))))
