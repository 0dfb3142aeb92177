"""BioViL-T's image encoder (Bannur et al. 2023) for a single image: ResNet-50 and the vector for a missing prior image.

With a prior image a small transformer (``vit_pooler``) compares the two grids. Without one, a learned vector
(``missing_previous_emb``) replaces the comparison at every grid cell, so the transformer is not loaded. Names and
composition follow hi-ml-multimodal 0.2.2 (``MultiImageEncoder``, MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from encoder.backbones import weight_files as files
from encoder.backbones.base import EncoderFamily, Features, Fetch, FrozenEncoder
from encoder.backbones.registry import GRID, PublishedEncoder
from encoder.errors import ModelError

FILE = "biovil_t_image_model_proj_size_128.pt"
STRIDE = 32
"""Stride of the last grid of a ResNet: 14 x 14 at 448 pixels."""

RESNET, JOIN, MISSING = "encoder.encoder.", "encoder.backbone_to_vit.", "encoder.missing_previous_emb"
# torchvision's classifier, the comparison with a prior image, the joint space with text
LEFT_OUT = ("encoder.encoder.fc.", "encoder.vit_pooler.", "projector.")


class _Network(nn.Module):
    """ResNet grid [B, 2048, h, w]; projected to ``width`` and concatenated with the vector for no prior."""

    def __init__(self, layers: list[int], width: int | None) -> None:
        super().__init__()
        from torchvision.models.resnet import Bottleneck, ResNet

        self.resnet = ResNet(Bottleneck, layers)
        channels = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        self.width = channels if width is None else 2 * width
        self.join = None if width is None else nn.Conv2d(channels, width, 1, bias=False)
        self.missing = None if width is None else nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        net = self.resnet
        grid: torch.Tensor = net.maxpool(net.relu(net.bn1(net.conv1(pixel_values))))
        grid = net.layer4(net.layer3(net.layer2(net.layer1(grid))))
        if self.join is None or self.missing is None:
            return grid
        grid = self.join(grid)
        return torch.cat([grid, self.missing.expand_as(grid)], dim=1)


class BioVilT(FrozenEncoder):
    """BioViL-T for single images (paper E.2). The global vector is the mean of the grid, hi-ml's ``img_embedding``.

    Args:
        model: the network.
        recipe: name of its preprocessing recipe.
        config: ``layers`` holds the numbers of blocks in the four stages of the ResNet; ``joined`` is the width that
            its grid is projected to, or null for the 2048 channels of the ResNet (paper, table 3).
    """

    features = GRID

    def __init__(self, model: _Network, recipe: str, config: Mapping[str, Any]) -> None:
        super().__init__(model, recipe)
        self.config = dict(config)

    @property
    def width(self) -> int:
        """Length D of a feature vector: 512, or 2048 without projection."""
        return int(self.model.width)

    @property
    def patch_size(self) -> int:
        """Side in pixels of a grid cell."""
        return STRIDE

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Return the features of [B, 3, S, S] images with values 0 to 1; S is a multiple of 32."""
        with torch.no_grad():
            grid = self.model(pixel_values.to(self.dtype))
        return Features(grid.mean((2, 3)), grid.flatten(2).transpose(1, 2))

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (``model_type`` ``biovil_t``) and the used tensors under their published names."""
        state = {_published(name): tensor for name, tensor in self.model.state_dict().items()}
        files.write(folder, self.config | {files.RECIPE: self.recipe}, state)


def describe(layers: list[int], joined: int | None) -> dict[str, Any]:
    """Return the ``config.json`` of a stored encoder."""
    return {"model_type": "biovil_t", "layers": layers, "joined": joined}


def published(tensors: Mapping[str, torch.Tensor], what: str, *, joined: bool = True) -> BioVilT:
    """Build the encoder from ``biovil_t_image_model_proj_size_128.pt``.

    Args:
        tensors: all tensors of the file.
        what: name of the file in errors.
        joined: False for the ResNet's grid of 2048 channels.

    Raises:
        ModelError: if a tensor is missing, unexpected or misshapen.
    """
    left_out = LEFT_OUT if joined else (*LEFT_OUT, JOIN, MISSING)
    kept = files.select(tensors, (RESNET, JOIN, MISSING), left_out, what)
    layers = [
        len({name.split(".")[3] for name in kept if name.startswith(f"{RESNET}layer{stage}.")}) for stage in range(1, 5)
    ]
    narrow = kept.get(f"{JOIN}weight")
    if not all(layers) or (joined and narrow is None):
        raise ModelError(f"{what} is not BioViL-T's image encoder: a stage of the ResNet or {JOIN}weight is missing")
    return build(describe(layers, len(narrow) if joined and narrow is not None else None), kept, what)


def architecture(config: Mapping[str, Any], what: str = "the encoder") -> _Network:
    """Build the network of a configuration on the meta device.

    Raises:
        ModelError: if it is not a configuration of :func:`describe`.
    """
    layers, joined = config.get("layers"), config.get("joined")
    whole = isinstance(layers, list) and len(layers) == 4 and all(isinstance(n, int) and 0 < n < 100 for n in layers)
    if not whole or not (joined is None or (isinstance(joined, int) and 0 < joined < 65536)):
        raise ModelError(f"config.json of {what} says layers {layers!r}, joined {joined!r}: not a BioViL-T encoder")
    with torch.device("meta"):
        return _Network([int(n) for n in layers or ()], joined)


def build(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], what: str) -> BioVilT:
    """Build the encoder of a configuration from tensors under the published names.

    Raises:
        ModelError: if the configuration is not supported, or a tensor is missing, unexpected or misshapen.
    """
    network = architecture(config, what)
    named = {_published(name): name for name in network.state_dict()}
    files.fill(network, {named.get(name, name): tensor for name, tensor in tensors.items()}, what)
    recipe = str(config.get(files.RECIPE, "biovil-t"))
    return BioVilT(network, recipe, {key: config[key] for key in ("model_type", "layers", "joined")})


def _published(name: str) -> str:
    part, _, rest = name.partition(".")
    return {"resnet": RESNET + rest, "join": JOIN + rest, "missing": MISSING}[part]


class _BioVilTFamily(EncoderFamily):
    """BioViL-T, or only the grid of its ResNet."""

    stored_type = "biovil_t"
    model_types = {"biovil_t": "biovil-t"}  # noqa: RUF012 (read only)
    marker_files = {FILE: "biovil-t"}  # noqa: RUF012
    tensor_names = {MISSING: "biovil-t"}  # noqa: RUF012

    def config(self, entry: PublishedEncoder) -> Mapping[str, Any] | None:
        """Return ResNet-50, with the grid projected to 256 channels unless it is ``biovil-t-resnet``."""
        return describe([3, 4, 6, 3], 256 if entry.name == "biovil-t" else None)

    def stored(self, folder: Path, what: str) -> FrozenEncoder:
        """Load a folder written by :meth:`BioVilT.save_pretrained`."""
        config = files.read_json(folder / files.CONFIG, what)
        return build(config, files.read_safetensors(folder / files.WEIGHTS, what), what)

    def on_meta(self, config: Mapping[str, Any], recipe: str = "") -> FrozenEncoder:
        """Build the network of a stored configuration."""
        return BioVilT(architecture(config), recipe or str(config.get(files.RECIPE) or "biovil-t"), config)

    def published(self, entry: PublishedEncoder, fetch: Fetch, what: str) -> FrozenEncoder:
        """Load the file of hi-ml."""
        path = fetch(FILE) / FILE
        return self.from_file(entry.name, path, files.read_pickle(path, what), what)

    def from_file(self, name: str, path: Path, tensors: Mapping[str, torch.Tensor], what: str) -> FrozenEncoder:
        """Load the tensors of hi-ml's file."""
        return published(tensors, what, joined=name == "biovil-t")


FAMILY = _BioVilTFamily()
