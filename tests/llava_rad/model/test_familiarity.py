"""Distance to the training images, and the warning of drafts about unfamiliar ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.errors import ModelError
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.model.checkpoint import FAMILIARITY
from llava_rad.model.familiarity import Familiarity
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.outputs.compose import UNFAMILIAR
from tests.llava_rad import small_files, tiny_model
from tests.llava_rad.conftest import Run

WIDTH = 24


def features(rows: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(2 * WIDTH, 2 * WIDTH, generator=torch.Generator().manual_seed(9))
    return scale * torch.randn(rows, 2 * WIDTH, generator=generator) @ mixed + 3


def test_features_are_mean_and_deviation_of_the_patches() -> None:
    patches = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[0.0, -2.0], [0.0, 2.0]]])
    assert Familiarity.describe(patches).tolist() == [[2.0, 5.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.0]]


def test_distance_is_that_of_scikit_learn() -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    known = Familiarity.fit(features(200, 0), features(100, 1))
    fitted, asked = features(200, 0).double().numpy(), features(50, 2, scale=2.0).double().numpy()
    scale = pytest.importorskip("sklearn.preprocessing").StandardScaler().fit(fitted)
    shrunk = covariance.LedoitWolf().fit(scale.transform(fitted))
    expected = np.sqrt(shrunk.mahalanobis(scale.transform(asked)))
    np.testing.assert_allclose(known.distance(torch.from_numpy(asked)).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
def test_the_limit_lets_that_share_of_held_out_images_pass_it(share: float) -> None:
    held_out = features(1000, 1)
    known = Familiarity.fit(features(300, 0), held_out, share)
    assert (known.distance(held_out) > known.limit).float().mean().item() == pytest.approx(share, abs=0.002)
    far = features(100, 2, scale=4.0)
    assert (known.distance(far) > known.limit).all()


def test_a_kind_that_is_near_is_found_by_its_direction() -> None:
    """Shifted by five deviations in one of the whitened features: the distance hardly grows, the projection does."""
    fitted, held_out = features(500, 0), features(500, 1)
    plain = Familiarity.fit(fitted, held_out)
    shift = 5 * torch.linalg.inv(plain.whitening)[0]
    kind, others = features(100, 2) + shift, features(500, 3)
    known = Familiarity.fit(fitted, held_out, unlike=[kind[:50]])

    def found(one: Familiarity, of: torch.Tensor) -> float:
        return float((one.scores(of) > torch.cat([torch.tensor([one.limit]), one.limits])).any(1).float().mean())

    assert found(plain, kind[50:]) < 0.8 and found(known, kind[50:]) > 0.95
    assert found(known, held_out) == found(plain, held_out) == pytest.approx(0.02)
    assert found(known, others) < 0.04


def test_it_is_kept_in_a_file_and_belongs_to_one_width(tmp_path: Path) -> None:
    known = Familiarity.fit(features(200, 0), features(100, 1))
    known.save(tmp_path / FAMILIARITY)
    again = Familiarity.load(tmp_path / FAMILIARITY, WIDTH)
    assert again is not None and again.limit == pytest.approx(known.limit)
    assert torch.equal(again.distance(features(5, 3)), known.distance(features(5, 3)))
    with pytest.raises(ModelError, match="another encoder"):
        Familiarity.load(tmp_path / FAMILIARITY, WIDTH + 1)
    assert Familiarity.load(tmp_path / "none.safetensors", WIDTH) is None
    kinds = Familiarity.fit(features(200, 0), features(100, 1), unlike=[features(9, 2), features(9, 4)])
    kinds.save(tmp_path / FAMILIARITY)
    more = Familiarity.load(tmp_path / FAMILIARITY, WIDTH)
    assert more is not None and torch.equal(more.scores(features(5, 3)), kinds.scores(features(5, 3)))
    assert torch.equal(more.limits, kinds.limits) and len(kinds.limits) == 2
    kinds.limits = kinds.limits[:1]
    kinds.save(tmp_path / FAMILIARITY)
    with pytest.raises(ModelError, match="a limit for each direction"):
        Familiarity.load(tmp_path / FAMILIARITY, WIDTH)
    (tmp_path / FAMILIARITY).write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be read"):
        Familiarity.load(tmp_path / FAMILIARITY, WIDTH)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model that does not know its images, finds all of them strange, or none."""
    folder = tmp_path_factory.mktemp("familiarity")
    found = {"unknown": tiny_model.make(folder / "unknown")}
    for name, limit in (("strange", 0.0), ("familiar", 1e9)):
        model = LlavaRad.from_pretrained(found["unknown"], offline=True)
        assert model.familiarity is None
        model.familiarity = Familiarity(torch.zeros(2 * WIDTH), torch.eye(2 * WIDTH), limit)
        model.save_pretrained(folder / name)
        found[name] = folder / name
    return found


@pytest.mark.parametrize(("name", "warned"), [("unknown", False), ("strange", True), ("familiar", False)])
def test_drafts_about_strange_images_say_so_in_every_form(
    run: Run, checkpoints: dict[str, Path], tmp_path: Path, name: str, warned: bool
) -> None:
    image = small_files.picture(tmp_path / "image.png")
    model = ("--model", str(checkpoints[name]), "--offline")
    batch = run("generate", str(image), *model, "--format", "json")
    assert (UNFAMILIAR in json.loads(batch.out)["warnings"]) is warned
    assert (UNFAMILIAR in run("generate", str(image), *model, "--stream").out) is warned
    assert LlavaRad.from_pretrained(checkpoints[name], offline=True).familiarity is not None or name == "unknown"


def test_a_text_that_was_not_written_to_its_end_is_warned_of_as_well(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from encoder.reader.sandbox import Reader

    for name, warned in (("strange", True), ("familiar", False)):
        with ReportWriter(GenerationOptions(model=checkpoints[name], offline=True)) as writer, Reader() as reader:
            image = reader.prepare(small_files.picture(tmp_path / "image.png"), writer.engine().recipe)
            assert (UNFAMILIAR in writer.report(image, "The heart is").warnings) is warned
