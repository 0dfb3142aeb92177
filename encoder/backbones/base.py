"""Frozen image encoders: their features, the interface of all of them, and the interface of a family of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import nn

from encoder.backbones.registry import AFTER_NORM, FeatureKind, PublishedEncoder
from encoder.errors import ModelError

RECIPE_KEY = "preprocessing_recipe"
"""Key of a stored encoder's ``config.json``: name of its preprocessing recipe."""


class Features(NamedTuple):
    """Features of a batch of images.

    Attributes:
        cls: [B, D], one vector for each image: the CLS token, or the pooling that the encoder's authors use.
        patches: [B, N, D], row by row: vector k belongs to grid cell (k // side, k % side) with side = sqrt(N),
            37 at 518 pixels.
    """

    cls: torch.Tensor
    patches: torch.Tensor


class Vision(Protocol):
    """The interface that a language model needs of an image encoder."""

    @property
    def width(self) -> int:
        """Length D of a feature vector."""

    @property
    def patch_size(self) -> int:
        """Side in pixels of the square that one patch vector covers."""

    def __call__(self, pixel_values: torch.Tensor) -> Features:
        """Return the features of [B, 3, S, S] normalised images; S is a multiple of the patch size."""


def image_tokens(encoder: Vision, size: int) -> int:
    """Number of patch vectors N of an image of ``size`` pixels.

    Raises:
        ModelError: if the size is not a multiple of the encoder's patches.
    """
    return tokens_of_patches(size, encoder.patch_size)


def tokens_of_patches(size: int, patch_size: int) -> int:
    """Number of squares of ``patch_size`` pixels in a square image of ``size`` pixels.

    Raises:
        ModelError: if the size is not a multiple of the patch.
    """
    side, rest = divmod(size, patch_size)
    if rest or not side:
        raise ModelError(f"images of {size} pixels cannot be cut into patches of {patch_size} pixels")
    return side * side


class Taps(NamedTuple):
    """Modules of a vision transformer whose outputs are the encoder's intermediate activations.

    Attributes:
        blocks: transformer blocks in order; each returns [B, T, D] with the patches last, or a tuple that starts so.
        norm: LayerNorm that the encoder applies to its last patches; None if it applies none.
    """

    blocks: nn.ModuleList | nn.Sequential
    norm: nn.Module | None


class FrozenEncoder(nn.Module):
    """An image encoder that is never trained.

    Args:
        model: the network.
        recipe: name of its preprocessing recipe (``encoder.preprocessing``); "" if its files state none.

    Attributes:
        features: the output of the network that ``patches`` holds; stored in checkpoints.
    """

    features: FeatureKind = AFTER_NORM

    def __init__(self, model: nn.Module, recipe: str) -> None:
        super().__init__()
        self.model: Any = model
        self.recipe = recipe
        self.requires_grad_(False)
        self.eval()

    @property
    def width(self) -> int:
        """Length D of a feature vector; by default that of a network of transformers."""
        return int(self.model.config.hidden_size)

    @property
    def patch_size(self) -> int:
        """Side in pixels of the square that one patch vector covers; by default that of a network of transformers."""
        return int(self.model.config.patch_size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the computation."""
        return next(self.parameters()).dtype

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Return the features of [B, 3, S, S] normalised images; S is a multiple of the patch size."""
        raise NotImplementedError

    def taps(self) -> Taps | None:
        """Return the transformer blocks and the final LayerNorm of the patches; None if the network has no blocks."""
        return None

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` as checkpoints store them."""
        raise NotImplementedError


class Sizes(NamedTuple):
    """Sizes of an encoder, known before its weights are read.

    Attributes:
        recipe: name of its preprocessing recipe; "" if its files state none.
        patch_size: side in pixels of the square that one patch vector covers.
        config: ``hidden_size`` and ``num_hidden_layers``, and ``parameters`` or the further keys of ``Dinov2Config``.
    """

    recipe: str
    patch_size: int
    config: Mapping[str, Any]


def sizes_of(encoder: FrozenEncoder) -> Sizes:
    """Return the sizes of an encoder, with weights or on the meta device."""
    taps = encoder.taps()
    config = {
        "hidden_size": encoder.width,
        "num_hidden_layers": len(taps.blocks) if taps is not None else 0,
        "parameters": sum(parameter.numel() for parameter in encoder.model.parameters()),
    }
    return Sizes(encoder.recipe, encoder.patch_size, config)


Fetch = Callable[..., Path]
"""Called with file patterns; makes sure that these files of a repository are present and returns the local folder."""


class EncoderFamily(ABC):
    """Recognition and loading of the encoders of one architecture; the module of a family has one as ``FAMILY``.

    The three tables map what identifies an encoder to its name in ``encoder.backbones.registry.ENCODERS``.

    Attributes:
        model_types: ``model_type`` of a folder's ``config.json`` -> name.
        marker_files: name of a file that only this encoder's repository has -> name.
        tensor_names: name of a tensor that only this encoder's weights file has -> name.
        stored_type: ``model_type`` that checkpoints have and publications do not.
    """

    model_types: Mapping[str, str] = {}
    marker_files: Mapping[str, str] = {}
    tensor_names: Mapping[str, str] = {}
    stored_type: str | None = None

    def config(self, entry: PublishedEncoder) -> Mapping[str, Any] | None:
        """Return the published configuration as checkpoints store it; None if it has to be read from the repository."""
        return None

    @abstractmethod
    def stored(self, folder: Path, what: str) -> FrozenEncoder:
        """Load the ``encoder`` folder of a checkpoint.

        Raises:
            ModelError: if a file is missing or damaged, or a tensor is missing, unexpected or misshapen.
        """

    def on_meta(self, config: Mapping[str, Any], recipe: str = "") -> FrozenEncoder:
        """Build an encoder without weights: names and shapes. ``recipe`` is empty if the configuration states it.

        Raises:
            ModelError: if the configuration cannot be read.
        """
        raise NotImplementedError

    def sizes(self, folder: Path, config: Mapping[str, Any], recipe: str) -> Sizes:
        """Return the sizes of a stored or published configuration; arguments and errors as for :meth:`on_meta`."""
        return sizes_of(self.on_meta(config, recipe))

    @abstractmethod
    def published(self, entry: PublishedEncoder, fetch: Fetch, what: str) -> FrozenEncoder:
        """Load an encoder from the folder or repository that its authors publish.

        Raises:
            ModelError: as for :meth:`stored`.
        """

    def from_file(self, name: str, path: Path, tensors: Mapping[str, torch.Tensor], what: str) -> FrozenEncoder:
        """Load the encoder ``name`` from the tensors of a single file.

        Raises:
            ModelError: if it is not published as a file, or as for :meth:`stored`.
        """
        raise ModelError(
            f"{what} is a file, but {name} comes as a folder", hint="--encoder-kind says which encoder a file is"
        )


def refuse_incomplete(report: dict[str, object], what: str) -> None:
    """Raise ModelError if a loading report of transformers names missing, unexpected or misshapen tensors."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = list(report.get(kind) or ())  # type: ignore[call-overload]
        if found:
            raise ModelError(f"{what}: {len(found)} {kind.replace('_', ' ')}, first {found[0]!s}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty.

    Torch's advice to unpickle a refused file without ``weights_only`` is not repeated: that would run code in it.
    """
    if "weights_only" in str(error) or "Weights only load failed" in str(error):
        return "the file is damaged, or holds more than tensors"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
