"""Preprocessing recipes: how a radiograph becomes the square 8-bit image that an encoder was trained on.

The preprocessing is part of the model, so a recipe is data: named, versioned, frozen, saved with every checkpoint.
Importing this module costs nothing; NumPy and Pillow are needed by ``apply``, torch only by ``normalise``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from encoder.errors import LlavaRadError, ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

Scaling = Literal["resize-then-minmax", "minmax-equalize-then-resize"]


@dataclass(frozen=True)
class Recipe:
    """One fixed way from pixels to encoder input.

    Attributes:
        name: what people call it; two recipes with one name and version are equal.
        version: raised whenever the numbers that come out change.
        size: side of the square output in pixels; the shortest side is resized to it (Pillow bicubic), then
            the centre is cropped.
        scaling: ``"resize-then-minmax"`` is RAD-DINO's own preparation (resize, then minimum..maximum to 0..255);
            ``"minmax-equalize-then-resize"`` is MIMIC-CXR-JPG's (minimum..maximum to 0..255, histogram
            equalisation as in OpenCV's ``equalizeHist``, then resize).
        mean: subtracted after division by 255.
        std: divided by after that.
        source: where the numbers come from.
    """

    name: str
    version: int
    size: int
    scaling: Scaling
    mean: float
    std: float
    source: str

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
            valid: [H, W], False where the detector recorded nothing (pixel padding); such pixels count as the darkest.
            from_dicom: False for an 8-bit picture file, which MIMIC-CXR-JPG's recipe takes as already equalised.

        Returns:
            [size, size] uint8.
        """
        return centre_crop(self.resize(pixels, valid, from_dicom=from_dicom), self.size)

    def resize(
        self,
        pixels: npt.NDArray[np.uint16] | npt.NDArray[np.uint8],
        valid: npt.NDArray[np.bool_] | None = None,
        *,
        from_dicom: bool = True,
    ) -> npt.NDArray[np.uint8]:
        """All of the recipe but the centre crop, for what cuts crops of its own. Arguments as for ``apply``.

        Returns:
            [h, w] uint8, the shorter side ``size``, the aspect ratio kept.
        """
        import numpy as np

        if valid is not None and not valid.all():
            pixels = pixels.copy()
            pixels[~valid] = pixels[valid].min() if valid.any() else 0
        if self.scaling == "resize-then-minmax":
            return _to_8_bit(_resize(pixels.astype(np.float32), self.size))
        if from_dicom or pixels.max() > 255:
            pixels = _equalize(_to_8_bit(pixels))
        return _resize(pixels.astype(np.uint8), self.size)

    def normalise(self, images: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """Turn ``apply``'s images into encoder input.

        Args:
            images: [B, size, size] uint8, an array or a tensor on any device.

        Returns:
            [B, 3, size, size] float32 on that device: ``(x / 255 - mean) / std``, the same in the three channels.
        """
        import numpy as np
        import torch

        codes = torch.from_numpy(images.astype(np.int32)) if isinstance(images, np.ndarray) else images.int()
        values = (torch.arange(256, dtype=torch.float32) / 255 - self.mean) / self.std
        return values.to(codes.device)[codes][:, None].expand(-1, 3, -1, -1)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Rebuild a recipe from a checkpoint's config.

        Raises:
            ModelError: keys are missing or unknown, or the data contradicts the known recipe of that name and version.
        """
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            odd = sorted(set(data) ^ known)
            raise ModelError(f"the checkpoint's preprocessing recipe has missing or unknown keys: {', '.join(odd)}")
        recipe = cls(**data)
        ours = RECIPES.get(recipe.name)
        if ours is not None and ours.version == recipe.version and ours != recipe:
            raise ModelError(
                f"the checkpoint's recipe {recipe.name!r} version {recipe.version} differs from the known one",
                hint="give an altered recipe a name of its own",
            )
        return recipe


def _resize(image: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Bring the shortest side of [H, W] to ``size`` by Pillow's bicubic filter, as Hugging Face's processors do."""
    import numpy as np
    from PIL import Image

    height, width = image.shape
    short, long = min(height, width), max(height, width)
    other = int(size * long / short)
    target = (size, other) if width <= height else (other, size)
    if (width, height) == target:
        return image
    return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC))


def centre_crop(image: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    import numpy as np

    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _to_8_bit(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale minimum..maximum to 0..255, rounded half up; a constant image becomes black."""
    import numpy as np

    low, high = float(image.min()), float(image.max())
    if high <= low:
        return np.zeros(image.shape, np.uint8)
    if image.dtype == np.float32:
        return ((image - low) * (255.0 / (high - low)) + 0.5).astype(np.uint8)
    levels = np.arange(int(high) + 1, dtype=np.float64)
    table: npt.NDArray[np.uint8] = np.maximum((levels - low) * (255.0 / (high - low)) + 0.5, 0).astype(np.uint8)
    return table.take(image)


def _equalize(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Histogram equalisation with the arithmetic of OpenCV's ``equalizeHist``: the darkest occupied level maps to 0."""
    import numpy as np

    histogram = np.bincount(image.ravel(), minlength=256)
    first = int(histogram.nonzero()[0][0])
    rest = image.size - int(histogram[first])
    if rest == 0:
        return image
    cumulated = np.cumsum(histogram) - histogram[first]
    scale = np.float32(255.0) / np.float32(rest)
    table: npt.NDArray[np.uint8] = np.rint(np.maximum(cumulated, 0).astype(np.float32) * scale).astype(np.uint8)
    return table.take(image)


_RAD_DINO = "microsoft/rad-dino: model card (short side 518, minimum..maximum to 0..255) and preprocessor_config.json"


def rad_dino(size: int = 518) -> Recipe:
    """RAD-DINO's own preparation at another resolution: ``rad-dino`` at 518 pixels, ``rad-dino-224`` at 224."""
    name, source = ("rad-dino", _RAD_DINO) if size == 518 else (f"rad-dino-{size}", f"{_RAD_DINO}, at {size} pixels")
    return Recipe(name, 1, size, "resize-then-minmax", 0.5307, 0.2583, source)


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
    )
}


def recipe_named(name: str) -> Recipe:
    """A recipe by its name; ``rad-dino-448`` and the like are RAD-DINO's at other sizes.

    Raises:
        LlavaRadError: there is no such recipe.
    """
    size = name.removeprefix("rad-dino-")
    if name not in RECIPES and size != name and size.isdecimal() and 14 <= int(size) <= 4096:
        return rad_dino(int(size))
    if name not in RECIPES:
        raise LlavaRadError(
            f"there is no recipe {name!r}", hint=f"choose one of {', '.join(RECIPES)}, or rad-dino-SIZE"
        )
    return RECIPES[name]
