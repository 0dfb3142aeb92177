"""A segmentation head: its configuration, its inputs, its files, and the masks that it predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.errors import ConfigError, LlavaRadError, ModelError
from encoder.files import write
from encoder.json_files import read_json
from encoder.preprocessing import Recipe
from encoder.probing.heads import HEADS, Head, build_head, to_size, trainable
from encoder.probing.segmentation.augmentation import SegmentationAugmentation
from encoder.probing.segmentation.data import tensor
from encoder.probing.vectors import activations, as_maps, identity, model_key

_JSON, _WEIGHTS = "segmenter.json", "head.safetensors"
_FORMAT = 2
_WEIGHTS_ALONE = "weights "  # heads of format 1 know the encoder's weights, not its configuration
CHUNK = 16
"""Images per pass of the encoder."""

Numbers = Sequence[int] | npt.NDArray[np.intp]


@dataclass(frozen=True)
class SegmentationConfig:
    """Configuration of a segmentation probe; the defaults are the paper's (E.3.2).

    The image size is that of the preprocessing recipe: 518 pixels in the paper.

    Attributes:
        head: ``linear``, ``vitdet``, ``upernet``, or ``unet``, which is trained end to end without an encoder.
        channels: of the head's layers; None for the paper's number of parameters.
        epochs: over the training images.
        batch_size: images per step.
        learning_rate: of Adam at the start; it decays to 0 by a cosine, step by step.
        augmentation: None leaves images unchanged, so that a frozen encoder's features are computed once.
        dice_weight: of the soft Dice loss, relative to 1 for binary cross-entropy. The paper names no loss.
        least_steps: smallest number of steps of an epoch; few images are repeated. 1 in the paper, as far as it says;
            the few-shot curve needs more.
        seed: of initial weights, order and augmentation.
        cache_gib: features of unchanged images are kept in memory (as float16) up to this size; larger ones are
            computed in every epoch.
        precision: of the head's products; losses and weights stay float32. UPerNet takes 0.4 of the time in bf16 on a
            CPU with AMX. The encoder keeps its own type: ``encoder.to(torch.bfloat16)``.
        image_net: SHA-256 of the file of ImageNet weights that the U-Net's encoder starts from; "" for random ones.

    Raises:
        ConfigError: if a value is out of range.
    """

    head: str = "linear"
    channels: int | None = None
    epochs: int = 100
    batch_size: int = 80
    learning_rate: float = 5e-4
    augmentation: SegmentationAugmentation | None = field(default_factory=SegmentationAugmentation)
    dice_weight: float = 1.0
    least_steps: int = 1
    seed: int = 0
    cache_gib: float = 8.0
    precision: Literal["float32", "bf16"] = "float32"
    image_net: str = ""

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ConfigError(f"there is no segmentation head {self.head!r}", hint=f"choose one of {', '.join(HEADS)}")
        for name in ("epochs", "batch_size", "least_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"segmentation: {name} is at least 1")
        if not self.learning_rate > 0:
            raise ConfigError("segmentation: learning_rate is above 0")
        if self.dice_weight < 0 or self.cache_gib < 0 or self.seed < 0:
            raise ConfigError("segmentation: dice_weight, cache_gib and seed are not negative")
        if self.precision not in ("float32", "bf16"):
            raise ConfigError("segmentation: precision is float32 or bf16")
        if self.channels is not None and self.channels < 1:
            raise ConfigError("segmentation: channels is at least 1")
        if self.image_net and self.head != "unet":
            raise ConfigError("segmentation: image_net is of the U-Net alone")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; ``image_net`` is left out where there is none, as in earlier versions."""
        return {name: value for name, value in asdict(self).items() if name != "image_net" or value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SegmentationConfig:
        """Rebuild from ``to_dict``, also after JSON.

        Raises:
            ConfigError: if a key is unknown, or a value out of range.
        """
        values = dict(data)
        odd = sorted(set(values) - {one.name for one in fields(cls)})
        if odd:
            raise ConfigError(f"segmentation: the key {odd[0]!r} is unknown")
        change = values.get("augmentation")
        if isinstance(change, Mapping):
            pairs: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in change.items()
            }
            odd = sorted(set(pairs) - {one.name for one in fields(SegmentationAugmentation)})
            if odd:
                raise ConfigError(f"segmentation: the key augmentation.{odd[0]} is unknown")
            values["augmentation"] = SegmentationAugmentation(**pairs)
        return cls(**values)


class Inputs:
    """The inputs of a head for N images.

    Args:
        encoder: frozen, on its device; None for a head that takes pixels.
        recipe: of the images.
        layers: number of activations that the head takes; 0 for pixels.
        device: of the inputs.
    """

    def __init__(self, encoder: FrozenEncoder | None, recipe: Recipe, layers: int, device: torch.device | str) -> None:
        self._encoder, self._recipe, self._layers, self._device = encoder, recipe, layers, device
        self._kept: list[torch.Tensor] | None = None

    def of(self, images: torch.Tensor | npt.NDArray[np.uint8]) -> list[torch.Tensor]:
        """Compute maps [B, D, s, s] of images [B, S, S] uint8, or normalised pixels [[B, 3, S, S]]."""
        if not self._layers:
            return [self._recipe.normalise(images).to(self._device)]
        return [as_maps(patches) for patches in self._encoded(images)]

    def keep(self, images: npt.NDArray[np.uint8], gib: float) -> bool:
        """Compute the activations of all images once, if they fit into ``gib`` as float16.

        Args:
            images: [N, S, S]; ``kept`` counts them from 0.
            gib: limit in GiB.

        Returns:
            True if they are kept.
        """
        if not self._layers or not len(images):
            return False
        first = self._encoded(images[:1])
        if len(images) * sum(one.numel() for one in first) * 2 > gib * (1 << 30):
            return False
        stores = [torch.empty((len(images), *one.shape[1:]), dtype=torch.float16) for one in first]
        for start in range(0, len(images), CHUNK):
            for store, found in zip(stores, self._encoded(images[start : start + CHUNK]), strict=True):
                store[start : start + CHUNK] = found
        self._kept = stores
        return True

    def subset(self, numbers: Numbers) -> Inputs:
        """Select some of the kept images, counted anew."""
        part = Inputs(self._encoder, self._recipe, self._layers, self._device)
        if self._kept is not None:
            indices = torch.as_tensor(np.asarray(numbers))
            part._kept = [store[indices] for store in self._kept]
        return part

    def kept(self, numbers: Numbers) -> list[torch.Tensor] | None:
        """Return the maps of the images with these numbers; None if they are not kept."""
        if self._kept is None:
            return None
        indices = torch.as_tensor(np.asarray(numbers))
        return [as_maps(store[indices].to(self._device).float()) for store in self._kept]

    @torch.no_grad()
    def _encoded(self, images: torch.Tensor | npt.NDArray[np.uint8]) -> list[torch.Tensor]:
        assert self._encoder is not None
        parts = []
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            pixels = self._recipe.normalise(chunk if isinstance(chunk, torch.Tensor) else tensor(chunk))
            parts.append([one.float() for one in activations(self._encoder, pixels.to(self._device), self._layers)])
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def keep_inputs(
    sets: Sequence[npt.NDArray[np.uint8]],
    encoder: FrozenEncoder | None,
    recipe: Recipe,
    layers: int,
    device: torch.device | str,
    *,
    gib: float,
) -> list[Inputs] | None:
    """Compute the activations of several sets of images once, for many runs on them.

    Args:
        sets: [N, S, S] uint8 each.
        encoder: frozen, on the device.
        recipe: of the images.
        layers: 4 serve every head (the linear one takes the last), 1 the linear one alone.
        device: of the inputs.
        gib: limit of all sets together, in GiB as float16.

    Returns:
        One per set; None if they do not fit, or for a head that takes pixels.
    """
    total = max(1, sum(len(images) for images in sets))
    found = []
    for images in sets:
        inputs = Inputs(encoder, recipe, layers, device)
        if not inputs.keep(images, gib * len(images) / total):
            return None
        found.append(inputs)
    return found


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A trained head, of the epoch with the lowest validation loss.

    Attributes:
        head: in evaluation mode.
        config: of its training.
        recipe: of the images.
        structures: names of the K masks.
        width: D, of the encoder's features; 0 for a head without encoder.
        encoder: ``model_key`` of the encoder (weights, type, configuration); "" for a head without encoder.
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
        """Write ``segmenter.json`` and ``head.safetensors``; the folder is created.

        Raises:
            LlavaRadError: if the files cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save

        data = {
            "format": 1 if self.encoder.startswith(_WEIGHTS_ALONE) else _FORMAT,
            "config": self.config.to_dict(),
            "recipe": self.recipe.to_dict(),
            "structures": list(self.structures),
            "width": self.width,
            "encoder": self.encoder.removeprefix(_WEIGHTS_ALONE),
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
        """Load the files of :meth:`save`.

        Raises:
            ModelError: if a file is missing or damaged, or they do not fit together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            data = read_json(folder / _JSON)
            tensors = load_file(folder / _WEIGHTS)
            if data["format"] not in (1, _FORMAT):
                raise ModelError("the segmentation head is of a format that this version does not read")
            config = SegmentationConfig.from_dict(data["config"])
            structures, width = tuple(data["structures"]), int(data["width"])
            with torch.device("meta"):
                head = build_head(config.head, width, len(structures), config.channels)
            head.load_state_dict(tensors, assign=True)
            key = str(data["encoder"])
            return cls(
                head.eval(),
                config,
                Recipe.from_dict(data["recipe"]),
                structures,
                width,
                _WEIGHTS_ALONE + key if key and data["format"] == 1 else key,
                int(data["epoch"]),
                float(data["val_loss"]),
            )
        except FileNotFoundError:
            raise ModelError("the folder holds no segmentation head") from None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ConfigError) as error:
            raise ModelError(f"the segmentation head cannot be read ({type(error).__name__})") from error


def predict(
    segmenter: Segmenter,
    encoder: FrozenEncoder | None,
    images: npt.NDArray[np.uint8],
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    inputs: Inputs | None = None,
    check: bool = True,
) -> npt.NDArray[np.bool_]:
    """Predict masks: pixels with a probability of at least one half.

    Args:
        segmenter: trained head.
        encoder: the one of its training; None for a head without encoder.
        images: [N, S, S] uint8, prepared by the segmenter's recipe.
        batch_size: images per batch.
        device: of the head; default: the encoder's, else the CPU.
        inputs: kept activations of these images.
        check: compare the encoder with that of the training, which takes a second for a large one.

    Returns:
        [N, K, S, S].

    Raises:
        LlavaRadError: if the encoder is another one, or the images have another size.
    """
    if check:
        check_encoder(segmenter, encoder)
    if images.ndim != 3 or images.shape[1:] != (segmenter.recipe.size, segmenter.recipe.size):
        raise LlavaRadError(
            f"images of shape {images.shape[1:]} are no {segmenter.recipe.size} pixel squares",
            hint=f"prepare them with the segmenter's recipe {segmenter.recipe.name!r}",
        )
    device = device_of(encoder, device)
    source = inputs or Inputs(encoder, segmenter.recipe, segmenter.head.layers, device)
    head = segmenter.head.to(device)
    masks = np.zeros((len(images), len(segmenter.structures), *images.shape[1:]), np.bool_)
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            numbers = range(start, min(start + batch_size, len(images)))
            maps = source.kept(numbers) or source.of(images[start : start + batch_size])
            logits = to_size(run_head(head, maps, segmenter.config, device), images.shape[1:])
            masks[start : start + batch_size] = (torch.sigmoid(logits) >= 0.5).cpu().numpy()
    return masks


def run_head(
    head: Head, maps: Sequence[torch.Tensor], config: SegmentationConfig, device: torch.device
) -> torch.Tensor:
    """Compute the head's logits in the configured precision and return them as float32."""
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        logits: torch.Tensor = head(maps)
    return logits.float()


def device_of(encoder: FrozenEncoder | None, device: torch.device | str | None) -> torch.device:
    """Choose the device and move the encoder there."""
    if device is not None:
        if encoder is not None:
            encoder.to(device)
        return torch.device(device)
    return torch.device("cpu") if encoder is None else next(encoder.parameters()).device


def encoder_key(encoder: FrozenEncoder | None) -> str:
    """Hash all that an encoder's features depend on; "" without an encoder."""
    return "" if encoder is None else model_key(encoder)


def check_encoder(segmenter: Segmenter, encoder: FrozenEncoder | None) -> None:
    """Check that the encoder is that of the segmenter's training.

    Raises:
        LlavaRadError: if it has other weights, or another configuration or type.
    """
    key = encoder_key(encoder)
    if encoder is not None and segmenter.encoder.startswith(_WEIGHTS_ALONE):
        key = _WEIGHTS_ALONE + identity(encoder)
    if key != segmenter.encoder:
        raise LlavaRadError(
            "the segmentation head was trained on another encoder", hint="weights, configuration and type must be equal"
        )
