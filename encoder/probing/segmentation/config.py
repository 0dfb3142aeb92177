"""How a segmentation probe is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from encoder.errors import ConfigError
from encoder.probing.augmentation import SegmentationAugmentation
from encoder.probing.heads import HEADS


@dataclass(frozen=True)
class SegmentationConfig:
    """How a segmentation head is trained on a frozen encoder; the defaults are the paper's (E.3.2).

    The image's size is the preprocessing recipe's: 518 pixels in the paper.

    Attributes:
        head: ``linear``, ``vitdet``, ``upernet``, or ``unet``, which is trained end to end without an encoder.
        channels: of the head's layers; None for the paper's number of parameters.
        epochs: over the training images.
        batch_size: images of a step.
        learning_rate: of Adam at the start; a cosine takes it to 0, step by step.
        augmentation: None leaves images as they are: a frozen encoder's features are computed once then.
        dice_weight: of the soft Dice loss, beside 1 for binary cross-entropy. The paper names no loss.
        least_steps: an epoch has at least so many steps: few images are gone through repeatedly. 1 in the paper, as
            far as it says; the few-shot curve wants more.
        seed: of initial weights, order and augmentation.
        cache_gib: features of images that stay as they are are kept in memory (as float16) up to this size; beyond it
            they are computed in every epoch.
        precision: of the head's products; losses and weights stay float32. UPerNet takes 0.4 of the time in bf16 on a
            CPU with AMX. The encoder computes in its own type: ``encoder.to(torch.bfloat16)``.

    Raises:
        ConfigError: a value is out of range.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SegmentationConfig:
        """Rebuild from ``to_dict``, also after JSON.

        Raises:
            ConfigError: a key is unknown, or a value out of range.
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
