"""Attention maps: equal to transformers' own attention, over the right patches and words, sinks taken out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.backbones import attention_maps as maps
from encoder.backbones.dinov2 import RadDino, VisionTransformer
from encoder.errors import ConfigError, LlavaRadError
from encoder.preprocessing import recipe_named
from encoder.reader.sandbox import Reader
from llava_rad.generation import attention_maps as evidence
from llava_rad.generation.decoding import generate
from llava_rad.generation.engine import Engine
from llava_rad.generation.llama import Llama
from llava_rad.generation.sources import example
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.prompt import encode_text
from llava_rad.outputs.report import sentences
from tests.encoder.dinov2_models import dinov2
from tests.llava_rad.generation.test_llama import llama_for_causal_lm

SAID = ("The heart is enlarged.", "No pneumothorax is seen.", "The lungs are clear.")
SIDE = 4  # patches of the tiny model's image


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.from_pretrained(tiny)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (56, 56), dtype=np.uint8)


@pytest.mark.parametrize("heads", [4, 2], ids=["a key for each head", "keys shared by heads"])
def test_the_language_models_attention_equals_transformers_own(heads: int, tmp_path: Path) -> None:
    reference = llama_for_causal_lm(num_key_value_heads=heads, attn_implementation="eager")
    reference.save_pretrained(tmp_path)
    llama = Llama.load(tmp_path)
    ids = torch.randint(3, 97, (1, 12), generator=torch.Generator().manual_seed(1))
    found = torch.stack(list(llama.attention(torch.nn.functional.embedding(ids, llama.embedding), slice(7, 12))))
    with torch.inference_mode():
        expected = torch.cat(reference(ids, output_attentions=True).attentions)
    assert found.shape == (3, 4, 5, 12)
    torch.testing.assert_close(found, expected[:, :, 7:], rtol=1e-4, atol=1e-6)


def test_the_encoders_attention_equals_that_of_its_reference(tmp_path: Path) -> None:
    reference = RadDino(dinov2(layers=3))
    reference.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    found = VisionTransformer.load(tmp_path, size=56).cls_attention(pixels)
    torch.testing.assert_close(found, maps.cls_attention(reference, pixels), rtol=1e-4, atol=1e-6)


def shares(folder: Path, engine: Engine, image: np.ndarray) -> list[np.ndarray]:
    """Each sentence's attention to the patches in the last layer, by transformers, added up to 1."""
    model = LlavaRad.from_pretrained(folder)
    model.language_model.set_attn_implementation("eager")
    before, after = model.config.conversation.encode(model.tokens.tokenizer, model.tokens.ids.bos)
    spoken = [encode_text(engine.tokens.tokenizer, sentence) for sentence in SAID]
    asked = before, [*after, *(token for ids in spoken for token in ids)]
    with torch.inference_mode():
        words, _ = model.embed(model.config.preprocessing.normalise(image[None]), [asked])
        attention = model.language_model(inputs_embeds=words, output_attentions=True).attentions[-1][0].numpy()
    found, row = [], words.shape[1] - sum(map(len, spoken))
    for ids in spoken:
        rows = attention[:, row - 1 : row - 1 + len(ids), len(before) : len(before) + SIDE**2]
        mean = rows.mean(axis=(0, 1))
        found.append(mean / mean.sum())
        row += len(ids)
    return found


def test_a_sentences_map_is_what_its_words_attend_to_more_than_the_others(
    tiny: Path, engine: Engine, image: np.ndarray
) -> None:
    expected = np.stack(shares(tiny, engine, image))
    expected = np.maximum(expected - expected.mean(0), 0)
    top = np.quantile(expected, 0.98, axis=1, keepdims=True)
    found = evidence.attention_by_sentence(engine, image, SAID)
    assert (found.shape, found.dtype) == ((3, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(found.reshape(3, -1), np.minimum(expected / top, 1), atol=1e-4)
    assert (found.min(axis=0) == 0).all()  # no patch is evidence for everything


def test_the_only_sentence_keeps_all_of_its_attention(tiny: Path, engine: Engine, image: np.ndarray) -> None:
    expected = shares(tiny, engine, image)[0]
    found = evidence.attention_by_sentence(engine, image, SAID[:1]).ravel()
    np.testing.assert_allclose(found, np.minimum(expected / np.quantile(expected, 0.98), 1), atol=1e-4)


def test_another_prompt_moves_the_words_not_the_image(engine: Engine, image: np.ndarray) -> None:
    asked = evidence.attention_by_sentence(engine, image, SAID, prompt="Say what is seen in this radiograph, please.")
    assert asked.shape == (3, SIDE, SIDE)
    assert not np.allclose(asked, evidence.attention_by_sentence(engine, image, SAID))


@pytest.mark.parametrize("said", [[], ["  "], ["The lungs are clear."] * 100], ids=["none", "blank", "too long"])
def test_there_is_no_map_without_text_or_for_more_than_the_model_can_read(
    engine: Engine, image: np.ndarray, said: list[str]
) -> None:
    with pytest.raises(LlavaRadError):
        evidence.attention_by_sentence(engine, image, said)


def test_the_encoders_map_is_the_mean_of_its_heads_with_the_sinks_cut(engine: Engine, image: np.ndarray) -> None:
    assert isinstance(engine.vision, VisionTransformer)
    mean = engine.vision.cls_attention(engine.recipe.normalise(image[None]))[0].mean(0).numpy()
    found = evidence.encoder_attention(engine, image)
    np.testing.assert_allclose(found, np.minimum(mean / np.quantile(mean, 0.98), 1), atol=1e-5)
    assert found.shape == (SIDE, SIDE)


def test_an_encoder_of_another_family_has_no_map(
    engine: Engine, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "vision", object())
    with pytest.raises(ConfigError, match="no attention map"):
        evidence.encoder_attention(engine, image)


def test_on_the_example_the_words_are_those_that_were_generated_and_no_corner_stands_alone() -> None:
    engine = Engine.from_pretrained()
    with Reader() as reader:
        pixels = reader.prepare(example(), engine.recipe).pixels
    draft = generate(engine, [pixels])[0]
    said = sentences(draft.text)
    spoken = [token for sentence in said for token in encode_text(engine.tokens.tokenizer, sentence)]
    assert tuple(spoken) == draft.ids
    found = evidence.attention_by_sentence(engine, pixels, said)
    assert found.shape == (len(said), 16, 16)
    flat = found.reshape(len(said), -1)
    assert np.corrcoef(flat).max(where=~np.eye(len(said), dtype=bool), initial=-1) < 0.5  # maps of their own
    inside = np.s_[
        2:-2, 2:-2
    ]  # attention sinks of this encoder lie in the black corners, and would leave the rest black
    raw = engine.vision.cls_attention(engine.recipe.normalise(pixels[None]))[0].mean(0).numpy()
    assert np.median(evidence.encoder_attention(engine, pixels)[inside]) > 2 * np.median(raw[inside] / raw.max())


@pytest.mark.parametrize(
    ("name", "changes", "height", "width", "expected"),
    [
        ("rad-dino-224", {}, 400, 200, (0, 0.25, 1, 0.5)),
        ("rad-dino-224", {}, 200, 500, (0.3, 0, 0.4, 1)),
        ("rad-dino-224", {"resize_to": 256}, 300, 300, (0.0625, 0.0625, 0.875, 0.875)),
        ("chexzero", {}, 100, 200, (0, -0.5, 1, 2)),
    ],
    ids=["upright", "wide", "resized to more than the square", "bars added"],
)  # fmt: skip
def test_the_square_lies_where_the_recipe_cuts_it(
    name: str, changes: dict[str, int], height: int, width: int, expected: tuple[float, ...]
) -> None:
    assert evidence.box(replace(recipe_named(name), **changes), height, width) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["rad-dino-224", "chexzero"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_a_spot_is_in_the_square_where_the_box_says(name: str, shape: tuple[int, int]) -> None:
    pixels = np.zeros(shape, np.uint16)
    pixels[120:130, 90:100] = 4000
    height, width = shape
    square = recipe_named(name).apply(pixels) > 128
    y, x = ((np.indices(square.shape) + 0.5) * square).sum(axis=(1, 2)) / square.sum() / len(square)
    left, top, wide, high = evidence.box(recipe_named(name), height, width)
    assert (left + x * wide) * width == pytest.approx(95, abs=1.5)
    assert (top + y * high) * height == pytest.approx(125, abs=1.5)
