"""Multi-crop: each change against torchvision or PIL, and how often it happens in each view."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from encoder.pretraining import augmentation
from encoder.pretraining.augmentation import Grey, MultiCrop, blur, brightened, contrasted, solarized
from encoder.pretraining.config import AugmentationConfig, CropsConfig
from encoder.pretraining.crops import Box

OFF = {"flip": 0.0, "jitter": 0.0, "blur": (0.0, 0.0, 0.0), "solarize": 0.0}
GREYS = np.arange(256, dtype=np.float64)


def textured(height: int = 64, width: int = 64) -> Grey:
    """Every grey value, at every scale."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 256, (8, 8)), np.ones((height // 8, width // 8)))
    noise = rng.integers(0, 256, (height, width))
    return ((3 * coarse + noise) / 4).astype(np.uint8)


def whole_image(size: int, local_crops: int = 3) -> CropsConfig:
    """Crops that are the image itself, so that only the changes are seen."""
    return CropsConfig(
        global_size=size,
        local_size=size,
        global_scale=(1.0, 1.0),
        local_scale=(1.0, 1.0),
        local_crops=local_crops,
    )


def views(image: Grey, crops: CropsConfig, *, count: int = 1, seed: int = 0, **changes: object) -> tuple[Grey, Grey]:
    """[count, 2, S, S] and [count, V, s, s]."""
    cut = MultiCrop(crops, AugmentationConfig.model_validate(OFF | changes))
    rng = np.random.default_rng(seed)
    global_crops = np.zeros((count, 2, crops.global_size, crops.global_size), np.uint8)
    local_crops = np.zeros((count, crops.local_crops, crops.local_size, crops.local_size), np.uint8)
    for i in range(count):
        cut(image, rng, global_crops[i], local_crops[i])
    return global_crops, local_crops


def tensor(image: Grey) -> torch.Tensor:
    return torch.from_numpy(image.copy())[None]


def furthest(ours: npt.NDArray[np.generic], theirs: npt.NDArray[np.generic]) -> float:
    return float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())


# Each change against an independent one


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("shape", [(64, 64), (64, 48), (5, 9)])
def test_blur_is_torchvisions(sigma: float, shape: tuple[int, int]) -> None:
    """9 x 9; torchvision rounds a half to even, ours up: at most one grey level, in few pixels, and no drift."""
    image = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    ours = blur(image, sigma)
    theirs = functional.gaussian_blur(tensor(image), [9, 9], [sigma, sigma])[0].numpy()
    assert ours.dtype == np.uint8 and furthest(ours, theirs) <= 1
    assert (ours != theirs).mean() < 0.02
    exact = functional.gaussian_blur(tensor(image).double(), [9, 9], [sigma, sigma])[0].numpy()
    assert furthest(ours, exact) <= 0.5 + 1e-4


def test_blur_leaves_a_flat_image_and_takes_read_only_ones() -> None:
    for grey in (0, 1, 128, 255):
        image = np.full((14, 14), grey, np.uint8)
        image.flags.writeable = False
        assert np.array_equal(blur(image, 1.3), image)


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.93, 1.0, 1.4])
def test_brightness_is_torchvisions(factor: float) -> None:
    """torchvision cuts off fractions, PIL too: less than one grey level apart, before any rounding."""
    ours = brightened(GREYS, factor)
    image = GREYS.astype(np.uint8)[None]
    theirs = functional.adjust_brightness(tensor(image), factor)[0, 0].numpy()
    pil = np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))[0]
    assert furthest(np.floor(ours + 1e-4), theirs) == 0
    assert furthest(ours, pil) < 1
    exact = functional.adjust_brightness(torch.from_numpy(GREYS / 255)[None, None], factor)[0, 0].numpy() * 255
    assert furthest(ours, exact) < 1e-9


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.93, 1.0, 1.4])
def test_contrast_is_torchvisions(factor: float) -> None:
    image = textured()
    ours = contrasted(GREYS, factor, float(image.mean()))[image]
    theirs = functional.adjust_contrast(tensor(image), factor)[0].numpy()
    assert furthest(np.floor(ours + 1e-4), theirs) == 0
    pil = np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))
    assert furthest(ours, pil) < 1 + abs(1 - factor) / 2  # PIL rounds the mean
    exact = functional.adjust_contrast(torch.from_numpy(image / 255)[None], factor)[0].numpy() * 255
    assert furthest(ours, exact) < 1e-9


def test_solarisation_is_torchvisions() -> None:
    ours = solarized(GREYS)
    image = GREYS.astype(np.uint8)[None]
    assert np.array_equal(ours, functional.solarize(tensor(image), 128)[0, 0].numpy())
    assert np.array_equal(ours, np.asarray(ImageOps.solarize(Image.fromarray(image), 128))[0])


@pytest.mark.parametrize("crop_by", ["side", "area"])
@pytest.mark.parametrize("shape", [(64, 64), (96, 64), (30, 70)])
def test_crops_are_resized_as_torchvision_does(
    crop_by: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's ``resized_crop`` on PIL images to the bit, on tensors (antialias) to one grey level."""
    boxes: list[Box] = []
    draw = getattr(augmentation, f"by_{crop_by}")

    def noted(*args: object, **options: object) -> Box:
        boxes.append(draw(*args, **options))
        return boxes[-1]

    monkeypatch.setattr(augmentation, f"by_{crop_by}", noted)
    # no overshoot beyond 0 and 255, which PIL cuts off after either pass and torchvision in the end
    image = np.random.default_rng(2).integers(90, 160, shape).astype(np.uint8)
    image.flags.writeable = False
    crops = CropsConfig(crop_by=crop_by, global_size=42, local_size=14, local_crops=6)  # type: ignore[arg-type]
    cut = [*views(image, crops)[0][0], *views(image, crops)[1][0]]
    assert len(boxes) == 16 and boxes[:8] == boxes[8:]
    for ours, (top, left, height, width) in zip(cut, boxes[:8], strict=True):
        place = (top, left, height, width, list(ours.shape), InterpolationMode.BICUBIC)
        pil = functional.resized_crop(Image.fromarray(image), *place)
        assert np.array_equal(ours, np.asarray(pil))
        theirs = functional.resized_crop(tensor(image), *place, antialias=True)[0].numpy()
        assert furthest(ours, theirs) <= 1


def test_a_flip_mirrors_left_and_right() -> None:
    image = textured()
    for crop in views(image, whole_image(64), flip=1.0)[0][0]:
        assert np.array_equal(crop, functional.hflip(tensor(image))[0].numpy())


def test_jitter_is_torchvisions_in_distribution() -> None:
    """Mean and spread of jittered images as ColorJitter(0.4, 0.4) makes them: factors, and the order at random."""
    image, draws = textured(16, 16), 1500
    ours = views(image, whole_image(16, 0), count=draws // 2, jitter=1.0)[0].reshape(draws, -1).astype(np.float64)
    torch.manual_seed(0)
    change = v2.ColorJitter(brightness=0.4, contrast=0.4)
    exact = tv_tensors.Image(torch.from_numpy(image / 255)[None])
    theirs = np.stack([change(exact).numpy().ravel() * 255 for _ in range(draws)])
    for measure in (np.mean, np.std, np.min, np.max):
        assert stats.ks_2samp(measure(ours, axis=1), measure(theirs, axis=1), method="asymp").pvalue > 1e-4


class Noted:
    """A generator that remembers its numbers."""

    def __init__(self, seed: int) -> None:
        self.rng, self.numbers = np.random.default_rng(seed), list[float]()

    def random(self) -> float:
        return self.rng.random()

    def integers(self, *args: int, **options: bool) -> int:
        return int(self.rng.integers(*args, **options))

    def uniform(self, low: float, high: float) -> float:
        self.numbers.append(self.rng.uniform(low, high))
        return self.numbers[-1]


def test_jitter_is_rounded_once() -> None:
    """The exact result of brightness and contrast, in either order, to half a grey level."""
    image, orders = textured(), set()
    exact = torch.from_numpy(image / 255)[None]
    cut = MultiCrop(whole_image(64, 0), AugmentationConfig.model_validate(OFF | {"jitter": 1.0}))
    for seed in range(40):
        rng, crops = Noted(seed), np.zeros((2, 64, 64), np.uint8)
        cut(image, rng, crops, np.zeros((0, 64, 64), np.uint8))  # type: ignore[arg-type]
        for crop, (bright, strong) in zip(crops, (rng.numbers[:2], rng.numbers[2:]), strict=True):
            first = functional.adjust_contrast(functional.adjust_brightness(exact, bright), strong)
            second = functional.adjust_brightness(functional.adjust_contrast(exact, strong), bright)
            distances = [furthest(crop, result[0].numpy() * 255) for result in (first, second)]
            assert min(distances) <= 0.5 + 1e-9
            orders |= {int(np.argmin(distances))} if max(distances) > 1 else set()
    assert orders == {0, 1}


# Probability of each change, and its view


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"blur": (0.0, 0.9, 0.5)}, (0.0, 0.9, 0.5)),  # DINOv2 as run, the default
        ({"blur": (1.0, 0.1, 0.0)}, (1.0, 0.1, 0.0)),
        ({"solarize": 0.2}, (0.0, 0.2, 0.0)),
        ({"flip": 0.5}, (0.5, 0.5, 0.5)),
        ({"jitter": 0.8}, (0.8, 0.8, 0.8)),
    ],
)
def test_each_change_happens_as_often_as_configured(
    change: dict[str, object], expected: tuple[float, float, float]
) -> None:
    """Sigmas from 0.5 on, as less leaves 8-bit pixels as they were; jitter that changes nothing is too rare to see."""
    image, count = textured(16, 16), 500
    sigmas = {"global_blur_sigma": (0.5, 1.0), "local_blur_sigma": (0.5, 2.0)}
    global_crops, local_crops = views(image, whole_image(16), count=count, **change, **sigmas)
    rates = [(crops != image).any((-1, -2)).mean() for crops in (global_crops[:, 0], global_crops[:, 1], local_crops)]
    for rate, probability in zip(rates, expected, strict=True):
        assert abs(rate - probability) <= 4 * math.sqrt(probability * (1 - probability) / count)


def test_the_default_is_dinov2_as_run() -> None:
    change = AugmentationConfig()
    assert change.blur == (0.0, 0.9, 0.5) and (change.flip, change.jitter, change.solarize) == (0.5, 0.8, 0.2)
    assert (change.brightness, change.contrast) == (0.4, 0.4)


def test_sigmas_are_uniform_in_their_range_for_each_kind_of_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, float]] = []

    def noted(image: Grey, sigma: float) -> Grey:
        used.append((len(image), sigma))
        return image

    monkeypatch.setattr(augmentation, "blur", noted)
    crops = CropsConfig(global_size=16, local_size=8, local_crops=2)
    options = {"global_blur_sigma": (0.1, 1.0), "local_blur_sigma": (0.1, 2.0)}
    views(textured(16, 16), crops, count=500, blur=(1.0, 1.0, 1.0), **options)
    for size, high in ((16, 1.0), (8, 2.0)):
        sigmas = [sigma for side, sigma in used if side == size]
        assert len(sigmas) == 1000
        assert stats.kstest(sigmas, stats.uniform(0.1, high - 0.1).cdf).pvalue > 1e-4


def test_changes_come_in_dinov2s_order() -> None:
    """Solarisation after blur: of a black and white image, what blur made grey is below 128 everywhere."""
    image = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8))).astype(np.uint8) * 255
    crop = views(image, whole_image(64), blur=(0.0, 1.0, 0.0), solarize=1.0, global_blur_sigma=(1.0, 1.0))[0][0, 1]
    expected = functional.gaussian_blur(tensor(image), [9, 9], [1.0, 1.0])
    assert furthest(crop, functional.solarize(expected, 128)[0].numpy()) <= 1
    assert crop.max() < 128


def test_one_generator_decides_everything() -> None:
    image, crops = textured(64, 64), CropsConfig(global_size=28, local_size=14, local_crops=4)
    everything = AugmentationConfig().model_dump()
    one, same, other = (views(image, crops, seed=seed, **everything) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[0][0, 0], one[0][0, 1])
