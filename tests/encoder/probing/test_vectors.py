"""Image vectors, kept by encoder, recipe and file; activations after several blocks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.backbones.clip import Clip
from encoder.backbones.dinov2 import RadDino
from encoder.backbones.loading import load_encoder
from encoder.backbones.timm_vit import TimmVit
from encoder.datasets.manifest import Row
from encoder.errors import ConfigError, LlavaRadError, ModelError
from encoder.files import Digests
from encoder.preprocessing import rad_dino
from encoder.probing.vectors import activations, as_maps, encode, identity, model_key, vectors
from encoder.reader.sandbox import Reader
from tests.encoder.dinov2_models import dinov2, random_, timm_vit
from tests.encoder.probing.toy import Patches

RECIPE = rad_dino(28)


def small(seed: int) -> RadDino:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    return RadDino(Dinov2Model(config))


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    found = []
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 100)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        found.append(Row(tmp_path / f"{number}.png", "d", f"p{number}", number=number + 1))
    return found


def test_they_are_the_encoders(rows: list[Row]) -> None:
    encoder = small(0)
    found = vectors(encoder, rows, RECIPE, batch_size=2)
    with Reader() as reader:
        images = np.stack([reader.prepare(row.path, RECIPE, force=True).pixels for row in rows])
    assert found == pytest.approx(encoder(RECIPE.normalise(images)).cls.numpy(), abs=1e-5)


def test_inverted_images_have_vectors_of_their_own(rows: list[Row], tmp_path: Path) -> None:
    """Expected: the vectors of files that hold the complement."""
    encoder, cache = small(0), tmp_path / "vectors"
    plain = vectors(encoder, rows, RECIPE, cache=cache)
    negative = []
    for row in rows:
        path = row.path.with_suffix(".negative.png")
        Image.fromarray(255 - np.asarray(Image.open(row.path))).save(path)
        negative.append(Row(path, number=row.number))
    expected = vectors(encoder, negative, RECIPE)
    inverted = [replace(row, inverted=True) for row in rows]
    for _ in range(2):  # computed, then kept
        assert vectors(encoder, inverted, RECIPE, cache=cache) == pytest.approx(expected, abs=1e-4)
        assert np.array_equal(vectors(encoder, rows, RECIPE, cache=cache), plain)
    assert np.abs(plain - expected).max() > 0.1


def test_each_image_is_encoded_once_whatever_stands_beside_it(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def counted(encoder, images, *rest):  # type: ignore[no-untyped-def]
        encoded.append(len(images))
        return encode(encoder, images, *rest)

    monkeypatch.setattr("encoder.probing.vectors.encode", counted)
    encoder, cache = small(0), tmp_path / "vectors"
    first = vectors(encoder, rows[:3], RECIPE, cache=cache)
    assert sum(encoded) == 3
    told: list[int] = []
    again = vectors(encoder, rows[::-1], RECIPE, cache=cache, progress=told.append)
    assert sum(encoded) == 5 and sum(told) == 5
    assert np.array_equal(again[::-1][:3], first)
    vectors(encoder, rows[:2], rad_dino(42), cache=cache)
    assert sum(encoded) == 7, "another recipe"
    exact = vectors(encoder, rows[:2], RECIPE, cache=cache)
    rounded = vectors(encoder, rows[:2], RECIPE, cache=cache, dtype=torch.bfloat16)
    assert sum(encoded) == 9, "another type"
    assert not np.array_equal(rounded, exact) and rounded == pytest.approx(exact, abs=0.1)
    Image.fromarray(np.zeros((70, 70), np.uint8)).save(rows[0].path)
    assert not np.array_equal(vectors(encoder, rows, RECIPE, cache=cache)[0], first[0]), "another file of that name"
    assert sum(encoded) == 10
    moved = replace(rows[1], path=rows[1].path.rename(tmp_path / "moved.png"))
    assert np.array_equal(vectors(encoder, [moved], RECIPE, cache=cache)[0], first[1]) and sum(encoded) == 10


def test_exchanged_names_exchange_the_vectors(rows: list[Row], tmp_path: Path) -> None:
    first = vectors(small(0), rows[:2], RECIPE, cache=tmp_path / "v")
    for source, target in (("0", "x"), ("1", "0"), ("x", "1")):
        (tmp_path / f"{source}.png").rename(tmp_path / f"{target}.png")
    assert np.array_equal(vectors(small(0), rows[:2], RECIPE, cache=tmp_path / "v"), first[::-1])


def test_a_file_that_changes_during_the_run_is_said(rows: list[Row], tmp_path: Path) -> None:
    class Late(Digests):
        def of(self, *arguments: Any) -> list[str]:
            found = super().of(*arguments)
            Image.fromarray(np.zeros((70, 70), np.uint8)).save(rows[1].path)
            return found

    with pytest.raises(LlavaRadError, match="row 2 of the manifest: the image file changed during the run"):
        vectors(small(0), rows, RECIPE, cache=tmp_path / "v", digests=Late())


def test_another_encoder_has_other_vectors(rows: list[Row], tmp_path: Path) -> None:
    first = vectors(small(0), rows, RECIPE, cache=tmp_path / "v")
    assert not np.allclose(vectors(small(1), rows, RECIPE, cache=tmp_path / "v"), first)
    assert identity(small(0)) == identity(small(0)) != identity(small(1))


def test_equal_weights_with_other_settings_are_another_encoder(rows: list[Row], tmp_path: Path) -> None:
    """From a folder's ``config.json``: what no weight shows."""
    small(0).model.save_pretrained(tmp_path / "a")
    found = {"as it is": vectors(load_encoder(tmp_path / "a"), rows, RECIPE, cache=tmp_path / "v")}
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    assert model_key(load_encoder(tmp_path / "moved")) == model_key(load_encoder(tmp_path / "a"))
    assert model_key(load_encoder(tmp_path / "a").half()) != model_key(load_encoder(tmp_path / "a"))
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    for key, value in {"num_attention_heads": 4, "layer_norm_eps": 0.1}.items():
        (tmp_path / "a" / "config.json").write_text(json.dumps({**config, key: value}))
        found[key] = vectors(load_encoder(tmp_path / "a"), rows, RECIPE, cache=tmp_path / "v")
        assert identity(load_encoder(tmp_path / "a")) == identity(small(0))
    assert len({one.tobytes() for one in found.values()}) == 3


def test_vectors_that_are_not_finite_are_refused(rows: list[Row], tmp_path: Path) -> None:
    """NaN means an image that cannot be read, which would be left out of the scores without a word."""
    broken = small(0)
    with torch.no_grad():
        next(iter(broken.model.parameters())).fill_(torch.inf)
    with pytest.raises(ModelError, match="not finite"):
        vectors(broken, rows, rad_dino(28), cache=tmp_path / "cache")


def test_an_image_that_cannot_be_read_is_named_by_its_row(rows: list[Row], tmp_path: Path) -> None:
    rows[3].path.write_bytes(b"SMITH")
    with pytest.raises(LlavaRadError, match="row 4 of the manifest") as error:
        vectors(small(0), rows, RECIPE)
    assert "3.png" not in str(error.value)
    rows[2].path.unlink()
    with pytest.raises(LlavaRadError, match="row 3 of the manifest"):
        vectors(small(0), rows, RECIPE, cache=tmp_path / "v")


def test_a_damaged_file_of_vectors_is_said(rows: list[Row], tmp_path: Path) -> None:
    vectors(small(0), rows, RECIPE, cache=tmp_path / "v")
    (file,) = (tmp_path / "v").glob("*.sqlite")
    file.write_bytes(b"damaged" * 99)
    with pytest.raises(LlavaRadError, match="cannot be used"):
        vectors(small(0), rows, RECIPE, cache=tmp_path / "v")


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def test_dinov2_after_blocks_2_4_6_and_8_of_8_and_the_final_norm(pixels: torch.Tensor) -> None:
    encoder = RadDino(dinov2(layers=8))
    with torch.no_grad():
        hidden = encoder.model(pixels, output_hidden_states=True).hidden_states  # the embedding comes first
        expected = [encoder.model.layernorm(hidden[block])[:, 1:] for block in (2, 4, 6, 8)]
    hooks = len(encoder.model.encoder.layer[1]._forward_hooks)  # transformers has one of its own
    found = activations(encoder, pixels)
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(found[-1], encoder(pixels).patches)
    assert len(encoder.model.encoder.layer[1]._forward_hooks) == hooks


def test_one_activation_is_the_encoders_own(pixels: torch.Tensor) -> None:
    encoder = RadDino(dinov2(layers=2))
    (only,) = activations(encoder, pixels, 1)
    assert torch.equal(only, encoder(pixels).patches)


def test_a_timm_transformer(pixels: torch.Tensor) -> None:
    network = random_(timm_vit(layers=4))
    encoder = TimmVit(network, "mrm-448", {"global_pool": "token"})
    with torch.no_grad():
        expected = network.forward_intermediates(
            pixels, indices=4, norm=True, output_fmt="NLC", intermediates_only=True
        )
    for one, other in zip(activations(encoder, pixels), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_clip_without_its_final_norm_which_its_patches_do_not_have_either(pixels: torch.Tensor) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14
    )
    encoder = Clip(random_(CLIPVisionModel(config)), "clip-224")
    with torch.no_grad():
        hidden = encoder.model(pixels, output_hidden_states=True).hidden_states
    for one, other in zip(activations(encoder, pixels, 2), (hidden[2], hidden[4]), strict=True):
        torch.testing.assert_close(one, other[:, 1:])


def test_an_encoder_without_blocks_has_its_patches_only() -> None:
    pixels = torch.randn(2, 3, 64, 64)
    assert activations(Patches(), pixels, 1)[0].shape == (2, 256, 16)
    with pytest.raises(ConfigError, match="no transformer blocks"):
        activations(Patches(), pixels)


def test_too_few_blocks(pixels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="3 blocks"):
        activations(RadDino(dinov2(layers=3)), pixels)


def test_patches_lie_row_by_row() -> None:
    patches = torch.arange(18.0).view(1, 9, 2)
    maps = as_maps(patches)
    assert maps.shape == (1, 2, 3, 3) and maps[0, :, 1, 2].tolist() == [10, 11]  # row 1, column 2 is token 5
    with pytest.raises(ConfigError, match="square"):
        as_maps(patches[:, :8])
