"""A trained segmentation head: what is kept of it on disk, and what it says of images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.errors import ConfigError, LlavaRadError, ModelError
from encoder.files import write
from encoder.preprocessing import Recipe
from encoder.probing.heads import Head, build_head, trainable
from encoder.probing.heads.blocks import to_size
from encoder.probing.segmentation.config import SegmentationConfig
from encoder.probing.segmentation.inputs import Inputs
from encoder.probing.vectors import identity

_JSON, _WEIGHTS = "segmenter.json", "head.safetensors"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A head of the epoch with the lowest validation loss.

    Attributes:
        head: in evaluation mode.
        config: how it was trained.
        recipe: of the images.
        structures: names of the K masks it draws.
        width: D, of the encoder's features; 0 for a head without encoder.
        encoder: SHA-256 of the encoder's weights; "" for a head without encoder.
        epoch: counted from 1.
        val_loss: of that epoch.
    """

    head: Head
    config: SegmentationConfig
    recipe: Recipe
    structures: tuple[str, ...]
    width: int
    encoder: str
    epoch: int
    val_loss: float

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return trainable(self.head)

    def save(self, folder: Path) -> None:
        """Write ``segmenter.json`` and ``head.safetensors``; the folder is made.

        Raises:
            LlavaRadError: the disk refuses.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save

        data = {
            "format": _FORMAT,
            "config": self.config.to_dict(),
            "recipe": self.recipe.to_dict(),
            "structures": list(self.structures),
            "width": self.width,
            "encoder": self.encoder,
            "epoch": self.epoch,
            "val_loss": self.val_loss,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / _WEIGHTS, save(tensors, metadata={"format": "pt"}))
            write(folder / _JSON, json.dumps(data, indent=1).encode())
        except (OSError, SafetensorError) as error:
            raise LlavaRadError(f"the segmentation head could not be written ({type(error).__name__})") from error

    @classmethod
    def load(cls, folder: Path) -> Segmenter:
        """Read what ``save`` wrote.

        Raises:
            ModelError: a file is missing or damaged, or they do not fit together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            data = json.loads((folder / _JSON).read_text(encoding="utf-8"))
            tensors = load_file(folder / _WEIGHTS)
            if data["format"] != _FORMAT:
                raise ModelError("the segmentation head is of a format that this version does not read")
            config = SegmentationConfig.from_dict(data["config"])
            structures, width = tuple(data["structures"]), int(data["width"])
            with torch.device("meta"):
                head = build_head(config.head, width, len(structures), config.channels)
            head.load_state_dict(tensors, assign=True)
            return cls(
                head.eval(),  # no dropout
                config,
                Recipe.from_dict(data["recipe"]),
                structures,
                width,
                str(data["encoder"]),
                int(data["epoch"]),
                float(data["val_loss"]),
            )
        except FileNotFoundError:
            raise ModelError("the folder holds no segmentation head") from None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ConfigError) as error:
            raise ModelError(f"the segmentation head cannot be read ({type(error).__name__})") from error


def probabilities(
    segmenter: Segmenter,
    encoder: FrozenEncoder | None,
    images: npt.NDArray[np.uint8],
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    inputs: Inputs | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """How sure the head is of each pixel, batch by batch.

    Args:
        segmenter: which head.
        encoder: the one that it was trained on; None for a head without encoder.
        images: [N, S, S] uint8, as the segmenter's recipe leaves them.
        batch_size: images at a time.
        device: where to compute; default: where the encoder is, else the CPU.
        inputs: activations of these images, where they are kept.

    Yields:
        [B, K, S, S], 0 to 1.

    Raises:
        LlavaRadError: another encoder, or images of another size.
    """
    check_encoder(segmenter, encoder)
    yield from _chances(segmenter, encoder, images, batch_size, device, inputs)


def _chances(
    segmenter: Segmenter,
    encoder: FrozenEncoder | None,
    images: npt.NDArray[np.uint8],
    batch_size: int,
    device: torch.device | str | None,
    inputs: Inputs | None,
) -> Iterator[npt.NDArray[np.float32]]:
    if images.ndim != 3 or images.shape[1:] != (segmenter.recipe.size, segmenter.recipe.size):
        raise LlavaRadError(
            f"images of shape {images.shape[1:]} are no {segmenter.recipe.size} pixel squares",
            hint=f"prepare them with the segmenter's recipe {segmenter.recipe.name!r}",
        )
    place = place_of(encoder, device)
    source = inputs or Inputs(encoder, segmenter.recipe, segmenter.head.layers, place)
    head = segmenter.head.to(place)
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            numbers = range(start, min(start + batch_size, len(images)))
            maps = source.kept(numbers) or source.of(images[start : start + batch_size])
            logits = to_size(run_head(head, maps, segmenter.config, place), images.shape[1:])
            yield torch.sigmoid(logits).cpu().numpy()


def predict(
    segmenter: Segmenter,
    encoder: FrozenEncoder | None,
    images: npt.NDArray[np.uint8],
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    inputs: Inputs | None = None,
) -> npt.NDArray[np.bool_]:
    """Masks [N, K, S, S]: pixels that are inside with a probability of at least one half.

    Arguments and errors as for ``probabilities``.
    """
    check_encoder(segmenter, encoder)
    return masks_of(segmenter, encoder, images, batch_size=batch_size, device=device, inputs=inputs)


def masks_of(
    segmenter: Segmenter,
    encoder: FrozenEncoder | None,
    images: npt.NDArray[np.uint8],
    *,
    batch_size: int,
    device: torch.device | str | None,
    inputs: Inputs | None,
) -> npt.NDArray[np.bool_]:
    """``predict`` for an encoder that was checked: that takes a second for a large one."""
    parts = [chances >= 0.5 for chances in _chances(segmenter, encoder, images, batch_size, device, inputs)]
    shape = (0, len(segmenter.structures), segmenter.recipe.size, segmenter.recipe.size)
    return np.concatenate(parts) if parts else np.zeros(shape, np.bool_)


def run_head(head: Head, maps: Sequence[torch.Tensor], config: SegmentationConfig, place: torch.device) -> torch.Tensor:
    """The head's logits in float32, computed in the configured precision."""
    with torch.autocast(place.type, torch.bfloat16, enabled=config.precision == "bf16"):
        logits: torch.Tensor = head(maps)
    return logits.float()


def place_of(encoder: FrozenEncoder | None, device: torch.device | str | None) -> torch.device:
    """Where to compute; an encoder is moved there."""
    if device is not None:
        if encoder is not None:
            encoder.to(device)
        return torch.device(device)
    return torch.device("cpu") if encoder is None else next(encoder.parameters()).device


def check_encoder(segmenter: Segmenter, encoder: FrozenEncoder | None) -> None:
    """Refuse an encoder that a segmenter was not trained on.

    Raises:
        LlavaRadError: it has other weights.
    """
    if ("" if encoder is None else identity(encoder)) != segmenter.encoder:
        raise LlavaRadError("the segmentation head was trained on another encoder")
