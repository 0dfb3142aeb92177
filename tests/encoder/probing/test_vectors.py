"""Vectors of images: the encoder's own, kept by image, never taken for another encoder's, recipe's or file's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.backbones.dinov2 import RadDino
from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.preprocessing import rad_dino
from encoder.probing.vectors import encode, identity, vectors
from encoder.reader.sandbox import Reader

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
    vectors(encoder, rows, rad_dino(42), cache=cache)
    assert sum(encoded) == 10, "another recipe"
    exact = vectors(encoder, rows, RECIPE, cache=cache)
    rounded = vectors(encoder, rows, RECIPE, cache=cache, dtype=torch.bfloat16)
    assert sum(encoded) == 15, "another type"
    assert not np.array_equal(rounded, exact) and rounded == pytest.approx(exact, abs=0.1)
    Image.fromarray(np.zeros((70, 70), np.uint8)).save(rows[0].path)
    assert not np.array_equal(vectors(encoder, rows, RECIPE, cache=cache)[0], first[0]), "another file of that name"
    assert sum(encoded) == 16


def test_another_encoder_has_other_vectors(rows: list[Row], tmp_path: Path) -> None:
    first = vectors(small(0), rows, RECIPE, cache=tmp_path / "v")
    assert not np.allclose(vectors(small(1), rows, RECIPE, cache=tmp_path / "v"), first)
    assert identity(small(0)) == identity(small(0)) != identity(small(1))


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
    (file,) = (tmp_path / "v").iterdir()
    file.write_bytes(b"damaged" * 99)
    with pytest.raises(LlavaRadError, match="cannot be used"):
        vectors(small(0), rows, RECIPE, cache=tmp_path / "v")
