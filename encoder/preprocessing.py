"""Preprocessing recipes: conversion of a radiograph to the square 8-bit image of an encoder.

A recipe is part of the model: it is named, versioned, immutable, and stored in every checkpoint. NumPy and Pillow are
imported by ``apply``, torch by ``normalise``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from encoder.errors import LlavaRadError, ModelError
from encoder.resampling import (
    Margin,
    Resampling,
    centre_crop,
    equalize,
    interpolate,
    pad_to_square,
    remap_to_8_bit,
    resize,
    to_8_bit,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

Scaling = Literal["resize-then-minmax", "minmax-equalize-then-resize", "minmax-then-resize", "remap-then-resize"]
Level = float | tuple[float, float, float]
"""One number for all three channels, or one for each."""


@dataclass(frozen=True)
class Recipe:
    """Conversion of pixels to encoder input.

    Attributes:
        name: identifier; recipes of one name and version are equal.
        version: increased whenever the output changes.
        size: side of the square output in pixels; the shortest side is resized to it by Pillow, then the centre is
            cropped.
        scaling: ``"resize-then-minmax"`` is RAD-DINO's own preparation (resize, then minimum..maximum to 0..255);
            ``"minmax-equalize-then-resize"`` is MIMIC-CXR-JPG's (minimum..maximum to 0..255, histogram
            equalisation as in OpenCV's ``equalizeHist``, then resize); ``"minmax-then-resize"`` leaves 8-bit pictures
            unchanged, like the published pipelines, and scales DICOM and deeper images by minimum..maximum;
            ``"remap-then-resize"`` scales every image by minimum..maximum, rounding down, as BioViL-T's reader does.
        mean: subtracted after division by 255.
        std: divisor after that.
        source: origin of the values.
        resize_to: length of the resized shortest side in pixels if it is not ``size``.
        resampling: filter of Pillow.
        margin: rounding of margins that are not whole pixels, see ``encoder.resampling.centre_crop``.
        pad_to: resizes the longest side instead of the shortest to this number of pixels (Lanczos of Pillow), pads to a
            square with black bars, and resizes to ``size`` (bicubic without antialiasing), as CheXzero does.
        whole: keeps the whole image, whose shortest side is ``size``: nothing is cropped. It is for models whose own
            processor takes pictures of any shape.
    """

    name: str
    version: int
    size: int
    scaling: Scaling
    mean: Level
    std: Level
    source: str
    resize_to: int | None = None
    resampling: Resampling = "bicubic"
    margin: Margin = "floor"
    pad_to: int | None = None
    whole: bool = False

    @property
    def side(self) -> int:
        """Shorter side of the result of ``resize`` in pixels."""
        return self.resize_to or self.size

    def apply(
        self,
        pixels: npt.NDArray[np.uint16] | npt.NDArray[np.uint8],
        valid: npt.NDArray[np.bool_] | None = None,
        *,
        from_dicom: bool = True,
    ) -> npt.NDArray[np.uint8]:
        """Turn a radiograph into the recipe's square 8-bit image.

        Args:
            pixels: [H, W], brighter means denser, upright.
            valid: [H, W], False on padding, which is set to the darkest valid value.
            from_dicom: False for an 8-bit picture file, which MIMIC-CXR-JPG's recipe treats as equalised already.

        Returns:
            [size, size] uint8; [h, w] if the recipe keeps the whole image.
        """
        return self.crop(self.resize(pixels, valid, from_dicom=from_dicom))

    def crop(self, resized: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Crop the centre of the result of ``resize``, the last step of the recipe.

        Returns:
            [size, size] uint8; [h, w] if the recipe keeps the whole image.
        """
        return resized if self.whole else centre_crop(resized, self.size, self.margin)

    def resize(
        self,
        pixels: npt.NDArray[np.uint16] | npt.NDArray[np.uint8],
        valid: npt.NDArray[np.bool_] | None = None,
        *,
        from_dicom: bool = True,
    ) -> npt.NDArray[np.uint8]:
        """Apply the recipe without its centre crop, for callers with their own crops; arguments as for ``apply``.

        Returns:
            [h, w] uint8 with the aspect ratio of the image, the shorter side ``side``; a square if ``pad_to`` is set.
        """
        import numpy as np

        if valid is not None and not valid.all():
            pixels = pixels.copy()
            pixels[~valid] = pixels[valid].min() if valid.any() else 0
        if self.scaling == "resize-then-minmax":
            return to_8_bit(resize(pixels.astype(np.float32), self.side, self.resampling))
        if self.scaling == "remap-then-resize":
            pixels = remap_to_8_bit(pixels)
        elif from_dicom or pixels.max() > 255:
            pixels = to_8_bit(pixels)
            if self.scaling == "minmax-equalize-then-resize":
                pixels = equalize(pixels)
        grey = pixels.astype(np.uint8)
        if self.pad_to is not None:
            return interpolate(pad_to_square(grey, self.pad_to), self.size)
        return resize(grey, self.side, self.resampling)

    def normalise(self, images: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """Convert results of ``apply`` to encoder input.

        Args:
            images: [B, size, size] uint8, an array or a tensor on any device.

        Returns:
            [B, 3, size, size] float32 on that device: ``(x / 255 - mean) / std``. The three channels share memory if
            mean and std are single numbers.
        """
        import numpy as np
        import torch

        codes = torch.from_numpy(images.astype(np.int32)) if isinstance(images, np.ndarray) else images.int()
        levels = torch.arange(256, dtype=torch.float32) / 255
        if isinstance(self.mean, float | int) and isinstance(self.std, float | int):
            values = (levels - self.mean) / self.std
            return values.to(codes.device)[codes][:, None].expand(-1, 3, -1, -1)
        mean, std = (torch.tensor(level).expand(3)[:, None] for level in (self.mean, self.std))
        return ((levels - mean) / std).to(codes.device)[:, codes].transpose(0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-compatible dictionary; optional attributes with default values are omitted."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        added = {
            field.name for field in fields(self) if field.default is not MISSING and data[field.name] == field.default
        }
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in data.items() if key not in added
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Create a recipe from the configuration of a checkpoint.

        Raises:
            ModelError: if keys are missing or unknown, a value has the wrong type or range, or the data contradicts the
                known recipe of that name and version.
        """
        optional = {field.name for field in fields(cls) if field.default is not MISSING}
        needed = {field.name for field in fields(cls)} - optional
        odd = sorted((needed - set(data)) | (set(data) - needed - optional))
        if odd:
            raise ModelError(f"the checkpoint's preprocessing recipe has missing or unknown keys: {', '.join(odd)}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        recipe = cls(**values)
        for key, fits in _CHECKS.items():
            if not fits(getattr(recipe, key)):
                raise ModelError(f"the checkpoint's preprocessing recipe has the {key} {getattr(recipe, key)!r}")
        ours = RECIPES.get(recipe.name)
        if ours is not None and ours.version == recipe.version and ours != recipe:
            raise ModelError(
                f"the checkpoint's recipe {recipe.name!r} version {recipe.version} differs from the known one",
                hint="rename an altered recipe",
            )
        return recipe


def _level(value: object) -> bool:
    levels = value if isinstance(value, tuple) and len(value) == 3 else (value,)
    return all(isinstance(level, float | int) and not isinstance(level, bool) for level in levels)


def _pixels(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 65535


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "version": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "size": _pixels,
    "scaling": lambda value: value in get_args(Scaling),
    "mean": _level,
    "std": _level,
    "resize_to": lambda value: value is None or _pixels(value),
    "resampling": lambda value: value in get_args(Resampling),
    "margin": lambda value: value in get_args(Margin),
    "pad_to": lambda value: value is None or _pixels(value),
    "whole": lambda value: isinstance(value, bool),
}


_RAD_DINO = "microsoft/rad-dino: model card (short side 518, minimum..maximum to 0..255) and preprocessor_config.json"
_OPENAI: tuple[Level, Level] = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET: tuple[Level, Level] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue."""


def rad_dino(size: int = 518) -> Recipe:
    """Return RAD-DINO's recipe at a resolution: ``rad-dino`` at 518 pixels, ``rad-dino-224`` at 224."""
    name, source = ("rad-dino", _RAD_DINO) if size == 518 else (f"rad-dino-{size}", f"{_RAD_DINO}, at {size} pixels")
    return Recipe(name, 1, size, "resize-then-minmax", 0.5307, 0.2583, source)


def maira_2(size: int) -> Recipe:
    """Return MAIRA-2's: scaling to 8 bits by minimum..maximum, rounded down, then RAD-DINO's processor (518 pixels)."""
    source = (
        "microsoft/maira-2, mirrored in johannes2moll/maira_rrg: processing_maira2.py (_normalize_image); "
        "preprocessor_config.json"
    )
    name = "maira-2" if size == 518 else f"maira-2-{size}"
    return Recipe(name, 1, size, "remap-then-resize", 0.5307, 0.2583, source)


def llava_rad(size: int) -> Recipe:
    """Return LLaVA-Rad's: DICOM is equalised like MIMIC-CXR-JPG, then open_clip's transform (518 pixels)."""
    source = (
        "microsoft/LLaVA-Rad: open_clip_encoder/utils.py (create_model_from_pretrained), scripts/finetune_lora.sh "
        "(mimic-cxr-jpg); open_clip 3.3.0: image_transform"
    )
    return Recipe(f"llava-rad-{size}", 1, size, "minmax-equalize-then-resize", *_OPENAI, source, margin="half-even")


def clip(size: int) -> Recipe:
    """Return OpenAI CLIP's: shortest side to ``size`` (bicubic), centre crop."""
    source = "openai/clip-vit-large-patch14 and -336: preprocessor_config.json"
    return Recipe(f"clip-{size}", 1, size, "minmax-then-resize", *_OPENAI, source)


def dinov2(size: int) -> Recipe:
    """Return DINOv2's evaluation transform with the shortest side at ``size``; the paper uses 518 (E.3.1)."""
    source = "facebook/dinov2-base: preprocessor_config.json, but for the two sizes"
    return Recipe(f"dinov2-{size}", 1, size, "minmax-then-resize", *IMAGENET, source)


def mrm(size: int) -> Recipe:
    """Return MRM's evaluation transform; the paper uses 448 (table 4)."""
    source = "RL4M/MRM-pytorch: NIH_ChestX-ray/utils/data_utils.py (transform_test)"
    return Recipe(
        f"mrm-{size}",
        1,
        size,
        "minmax-then-resize",
        0.4978,
        0.2449,
        source,
        resampling="bilinear",
        margin="half-even",
    )


_BIOVIL_T = Recipe(
    "biovil-t",
    1,
    448,
    "remap-then-resize",
    0.0,
    1.0,
    "hi-ml-multimodal 0.2.2: load_image, create_chest_xray_transform_for_inference(resize=512, center_crop_size=448)",
    resize_to=512,
    resampling="bilinear",
    margin="half-even",
)
_BIOMEDCLIP = Recipe(
    "biomedclip",
    1,
    224,
    "minmax-then-resize",
    *_OPENAI,
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224: open_clip_config.json; open_clip 3.3.0: image_transform",
    margin="half-even",
)
_CHEXZERO = Recipe(
    "chexzero",
    1,
    224,
    "minmax-then-resize",
    101.48761 / 255,
    83.43944 / 255,
    "rajpurkarlab/CheXzero: data_process.py (preprocess), zero_shot.py (make)",
    pad_to=320,
)
_OF_ANY_SIZE: dict[str, Callable[[int], Recipe]] = {
    "rad-dino": rad_dino, "clip": clip, "dinov2": dinov2, "mrm": mrm, "maira-2": maira_2, "llava-rad": llava_rad,
}  # fmt: skip

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        rad_dino(518),
        rad_dino(224),
        Recipe(
            "mimic-cxr-jpg",
            1,
            518,
            "minmax-equalize-then-resize",
            0.5307,
            0.2583,
            "MIMIC-CXR-JPG (Johnson et al. 2019), without its JPEG round trip; then RAD-DINO's processor",
        ),
        clip(224),
        clip(336),
        dinov2(518),
        _BIOVIL_T,
        _BIOMEDCLIP,
        _CHEXZERO,
        mrm(448),
        maira_2(518),
        llava_rad(518),
    )
}


def recipe_named(name: str) -> Recipe:
    """Return a recipe by its name; names such as ``rad-dino-448`` and ``clip-448`` select other sizes.

    Args:
        name: of the recipe; "" is that of an encoder whose files state none.

    Raises:
        ModelError: if the name is empty.
        LlavaRadError: if there is no such recipe.
    """
    if not name:
        raise ModelError(
            "the encoder's files do not state its preprocessing recipe: neither config.json nor "
            "preprocessor_config.json gives an image size, mean and deviation that are known",
            hint="name it, e.g. --recipe rad-dino-224 (model.recipe=rad-dino-224 for 'llava-rad train')",
        )
    if name in RECIPES:
        return RECIPES[name]
    family, _, size = name.rpartition("-")
    if family in _OF_ANY_SIZE and size.isdecimal() and 14 <= int(size) <= 4096:
        return _OF_ANY_SIZE[family](int(size))
    sizes = ", ".join(f"{family}-SIZE" for family in _OF_ANY_SIZE)
    raise LlavaRadError(f"there is no recipe {name!r}", hint=f"choose one of {', '.join(RECIPES)}, or {sizes}")
