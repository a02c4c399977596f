"""Captions, classes, and words that a model has never seen."""

from collections.abc import Callable

import pytest
import torch

from forebear.diffusion.building import word_tokenizer
from forebear.diffusion.conditioning import ByCaption, Condition
from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError, ModelError

Build = Callable[..., DiffusionModel]


@pytest.mark.parametrize("labels", [[0, None], [0, 3], [-1, 0]])
def test_a_class_model_needs_a_class_for_every_picture(build: Build, labels: list[int | None]) -> None:
    with pytest.raises(ModelError, match=r"a class from 0 to 2.*give a label"):
        build("class").condition(["", ""], labels)


def test_rows_repeat_and_join(build: Build) -> None:
    condition = build("text").condition(["a cat", "red heart"], [None, None])
    states = condition.hidden_states
    assert states is not None
    repeated = condition.rows(torch.tensor([1, 1, 0])).hidden_states
    assert repeated is not None
    assert torch.equal(repeated, states[[1, 1, 0]])
    joined = Condition.joined([condition, condition]).hidden_states
    assert joined is not None
    assert torch.equal(joined, torch.cat([states, states]))
    assert Condition.joined([Condition(), Condition()]).arguments() == {}


def test_a_caption_means_the_same_in_every_batch(build: Build) -> None:
    model = build("text")
    alone = model.condition(["red heart"], [None]).hidden_states
    beside = model.condition(["flag of France", "red heart"], [None, None]).hidden_states
    assert alone is not None
    assert beside is not None
    torch.testing.assert_close(beside[1], alone[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(beside[0], beside[1])


@pytest.mark.parametrize(
    "caption",
    ["A Red HEART!", "keycap: 1", "snake_case words", "woman’s hat", "cafe\u0301", "crème brûlée", "नमस्ते", "A (b) & c"],
)
def test_the_word_tokenizer_knows_every_word_of_its_captions(caption: str) -> None:
    tokenizer = word_tokenizer([caption, "other"], 16)
    tokens = tokenizer.tokenize(caption)
    assert tokens
    assert "<unknown>" not in tokens
    assert tokenizer.tokenize(caption.upper().lower()) == tokens


def test_the_vocabulary_does_not_depend_on_the_order_of_captions() -> None:
    one, two = word_tokenizer(["red heart", "a cat"], 8), word_tokenizer(["a cat", "red heart", "a cat"], 8)
    assert one.get_vocab() == two.get_vocab()


def test_unknown_words_are_named(build: Build, stable_diffusion: object) -> None:
    conditioner = build("text").conditioner
    assert isinstance(conditioner, ByCaption)
    assert conditioner.unknown_words("A red dragon of France") == ["dragon"]
    assert conditioner.unknown_words("") == []
    bytewise = DiffusionModel.load(str(stable_diffusion)).conditioner
    assert isinstance(bytewise, ByCaption)
    assert bytewise.unknown_words("a red dragon") == []


@pytest.mark.parametrize(
    ("conditioning", "message"), [("text", "no captions; name a caption column"), ("class", "no labels; name a label")]
)
def test_conditioning_needs_its_column(conditioning: str, message: str) -> None:
    from forebear.diffusion.building import ModelConfig, build_model

    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(conditioning=conditioning), ["", ""], 0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"unet": {"block_out_channel": [8, 16]}},
        {"unet": {"down_block_types": ["NoSuchBlock"]}},
        {"scheduler": {"beta_schedule": "nonsense"}},
        {"space_to_depth": 3},
    ],
)
def test_arguments_that_diffusers_refuses_are_config_errors(build: Build, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"diffusers refuses these arguments|not a multiple"):
        build(**options)
