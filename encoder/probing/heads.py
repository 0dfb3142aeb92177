"""Decoder heads for segmentation on frozen patch features: linear, ViTDet, UPerNet, and a U-Net as upper bound.

A head takes the encoder's activations as maps [B, D, s, s], one or four of them, and gives logits [B, K, h, w] for K
structures. It does not know the image's size: the caller resizes the logits, bilinearly.

Sources: linear head, DINOv2 (Oquab et al. 2023, 7.4); ViTDet's simple feature pyramid (Li et al. 2022, "Exploring plain
vision transformer backbones"); UPerNet (Xiao et al. 2018, "Unified perceptual parsing").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from encoder.backbones.weight_files import read_tensors
from encoder.errors import ConfigError, ModelError

VITDET_CHANNELS = 540
"""Chosen for the paper's 24.8 M; ViTDet's own 256 give 7.9 M."""
UPERNET_CHANNELS = 512
"""UPerNet's own for vision transformers (BEiT, Swin); gives the paper's 39.3 M."""
POOLED = (1, 2, 3, 6)
"""Sides of the pooled maps (Zhao et al. 2017)."""
STRIDE = 32
"""Stride of EfficientNet's coarsest map."""
LEVELS = 5
WEIGHTS = (
    "model.safetensors of the hub repository smp-hub/efficientnet-b6.imagenet, or efficientnet-b6-c76e70fd.pth of "
    "lukemelas/EfficientNet-PyTorch"
)


class Head(nn.Module):
    """A decoder.

    Attributes:
        layers: number of the encoder's activations that it takes; 0 if it takes the normalised pixels.
        together: images of a training batch that share the statistics of batch normalisation; 0 if there is none.
    """

    layers: ClassVar[int]
    together: ClassVar[int] = 0

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute logits [B, K, h, w] from ``layers`` maps [B, D, s, s] (shallowest first), or from [[B, 3, S, S]]."""
        raise NotImplementedError


def normalisation(channels: int) -> nn.GroupNorm:
    """Build group normalisation of at most 32 groups with at least 16 channels each, if there are that many.

    Published decoders have batch normalisation here, with as many parameters. It cannot be trained on a single image,
    as the few-shot curve requires, and its results depend on the other images of the batch.
    """
    most = max(1, min(32, channels // 16))
    return nn.GroupNorm(max(groups for groups in range(1, most + 1) if channels % groups == 0), channels)


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Build a convolution without bias that keeps the size, followed by normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        normalisation(outputs),
        nn.ReLU(inplace=True),
    )


def doubling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """Build a transposed convolution to twice the size, 2 x 2 with stride 2."""
    return nn.ConvTranspose2d(inputs, outputs, 2, 2)


def to_size(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize maps [B, C, h, w] bilinearly (corners are not aligned)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def merged(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Resize all levels to the first one's size and concatenate their channels."""
    size = levels[0].shape[-2:]
    return torch.cat([to_size(level, size) for level in levels], dim=1)


class LinearHead(Head):
    """One 1 x 1 convolution on the last activations: D + 1 trainable parameters per structure, 769 for ViT-B.

    DINOv2's own head has batch normalisation before it; the paper's number of parameters excludes that. Structures
    share no parameters: trained together, each is trained as if alone, except for the choice of the epoch.
    """

    layers: ClassVar[int] = 1

    def __init__(self, width: int, structures: int, channels: int | None = None) -> None:
        super().__init__()
        if channels is not None:
            raise ConfigError("the linear head has no channels to choose")
        self.classifier = nn.Conv2d(width, structures, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, s, s] from [[B, D, s, s]]."""
        logits: torch.Tensor = self.classifier(maps[-1])
        return logits


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w], as ViTDet has it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ViTDet(Head):
    """Four activations at 4, 2, 1 and 1/2 times the patch grid's size, merged by one 3 x 3 convolution.

    As published: transposed convolutions that halve the width with each doubling (768 -> 384 -> 192), a maximum over
    2 x 2 for the coarsest level, then for each level 1 x 1 and 3 x 3 convolutions with LayerNorm. As the paper's table
    has it ("4 x 768 features"), each level starts from an activation of its own; ViTDet itself has the last one only.

    ViTDet feeds a detector; the paper does not say how four levels become a mask. Here as in UPerNet: concatenated
    levels, one 3 x 3 convolution, a 1 x 1 classifier. With ``VITDET_CHANNELS`` that is 24.8 M parameters for ViT-B
    (exactly 24,801,877 for one structure). The total is the paper's; their distribution is our reading.

    Args:
        width: D.
        structures: K.
        channels: of every level and of the merged map.
    """

    layers: ClassVar[int] = 4

    def __init__(self, width: int, structures: int, channels: int | None = None) -> None:
        super().__init__()
        channels = channels or VITDET_CHANNELS
        half, quarter = width // 2, width // 4
        self.rescaled = nn.ModuleList(
            [
                nn.Sequential(doubling(width, half), ChannelNorm(half), nn.GELU(), doubling(half, quarter)),
                doubling(width, half),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, channels, 1, bias=False),
                ChannelNorm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                ChannelNorm(channels),
            )
            for inputs in (quarter, half, width, width)
        )
        self.merge = convolution(4 * channels, channels, 3)
        self.classifier = nn.Conv2d(channels, structures, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, 4 s, 4 s] from four maps [B, D, s, s], s at least 2."""
        levels = [
            functional.relu(level(rescaled(one)))
            for one, rescaled, level in zip(maps, self.rescaled, self.levels, strict=True)
        ]
        logits: torch.Tensor = self.classifier(self.merge(merged(levels)))
        return logits


class UPerNet(Head):
    """UPerNet on a plain vision transformer, as BEiT (Bao et al. 2021) has it.

    Four activations are resized to 4, 2, 1 and 1/2 times the patch grid's size by transposed convolutions that keep
    the width, the coarsest is pooled at four sizes, a feature pyramid runs from coarse to fine, all levels are merged.
    With ``UPERNET_CHANNELS`` that is 39.3 M trainable parameters for ViT-B (exactly 39,338,241 for one
    structure), as in the paper's table 3: rescaling 7.1 M, pyramid pooling 14.6 M, feature pyramid 8.3 M, merging
    9.4 M.

    Args:
        width: D.
        structures: K.
        channels: of every layer.
    """

    layers: ClassVar[int] = 4

    def __init__(self, width: int, structures: int, channels: int | None = None) -> None:
        super().__init__()
        channels = channels or UPERNET_CHANNELS
        self.rescaled = nn.ModuleList(
            [
                nn.Sequential(doubling(width, width), normalisation(width), nn.GELU(), doubling(width, width)),
                doubling(width, width),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), convolution(width, channels, 1)) for side in POOLED
        )
        self.top = convolution(width + len(POOLED) * channels, channels, 3)
        self.lateral = nn.ModuleList(convolution(width, channels, 1) for _ in range(3))
        self.smooth = nn.ModuleList(convolution(channels, channels, 3) for _ in range(3))
        self.merge = convolution(4 * channels, channels, 3)
        self.classifier = nn.Conv2d(channels, structures, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, 4 s, 4 s] from four maps [B, D, s, s], s at least 2."""
        *fine, coarse = [rescaled(one) for one, rescaled in zip(maps, self.rescaled, strict=True)]
        above = self.top(merged([coarse, *(pool(coarse) for pool in self.pooled)]))
        levels = [above]
        for one, lateral, smooth in zip(fine[::-1], reversed(self.lateral), reversed(self.smooth), strict=True):
            above = lateral(one) + to_size(above, one.shape[-2:])
            levels.insert(0, smooth(above))
        logits: torch.Tensor = self.classifier(self.merge(merged(levels)))
        return logits


class UNet(Head):
    """``segmentation_models_pytorch.Unet`` with an EfficientNet-B6; takes the normalised image, not features.

    The paper's network has 45.9 M parameters and names neither library nor decoder. This library's has 43.8 M (exactly
    43,825,193 for one structure; 1.3 M of them in a layer that segmentation does not use), MONAI's FlexibleUNet 45.5 M:
    neither is within the rounding, and a decoder widened until it fits would only seem equal.

    Weights are random unless a file of ImageNet's is loaded (``load_image_net``): the paper does not say whether its
    own started from ImageNet, and nothing is downloaded here.

    Batch normalisation takes the statistics of 10 images, whatever fits into memory and however many GPUs there are:
    the paper's batch of 80 is on 8 GPUs with 10 each (E.3.2), and each normalises its own unless told otherwise.

    Args:
        width: not used.
        structures: K.
        channels: of the decoder's coarsest level, halved at each finer one; None for the library's 256.

    Raises:
        ConfigError: if segmentation-models-pytorch is not installed, or the channels cannot be halved.
    """

    layers: ClassVar[int] = 0
    together: ClassVar[int] = 10

    def __init__(self, width: int, structures: int, channels: int | None = None) -> None:
        super().__init__()
        channels = channels or 256
        if channels % (1 << (LEVELS - 1)):
            raise ConfigError(f"the U-Net's channels are halved {LEVELS - 1} times: {channels} cannot be")
        try:
            library: Any = import_module("segmentation_models_pytorch")
        except ImportError:
            raise ConfigError(
                "the U-Net needs segmentation-models-pytorch, which is not installed",
                hint="pip install segmentation-models-pytorch",
            ) from None
        self.network = library.Unet(
            "efficientnet-b6",
            encoder_weights=None,
            decoder_channels=tuple(channels >> level for level in range(LEVELS)),
            classes=structures,
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [B, K, S, S] from [[B, 3, S, S]]; an S that is not a multiple of 32 is padded and cropped again."""
        (pixels,) = maps
        height, width = pixels.shape[-2:]
        filled = functional.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE))
        logits: torch.Tensor = self.network(filled)
        return logits[..., :height, :width]

    def load_image_net(self, file: Path) -> None:
        """Load the encoder's weights; a classifier's last layer is dropped.

        Args:
            file: safetensors or a torch state dict of segmentation-models-pytorch or efficientnet-pytorch, whose names
                and padding the network has (torchvision's and timm's differ in both).

        Raises:
            ModelError: if the file is missing, damaged, or of another network.
        """
        if not file.is_file():
            raise ModelError("the file of the U-Net's weights does not exist", hint=WEIGHTS)
        encoder, found = self.network.encoder, read_tensors(file, "the U-Net's encoder")
        found = {name: one for name, one in found.items() if not name.startswith("_fc.")}
        wanted = encoder.state_dict()
        for name in sorted(wanted.keys() | found.keys()):
            if name not in found or name not in wanted or found[name].shape != wanted[name].shape:
                raise ModelError(f"the file is not of EfficientNet-B6: {name!r} does not fit", hint=WEIGHTS)
        if not all(bool(torch.isfinite(one).all()) for one in found.values()):
            raise ModelError("the U-Net's weights are not all finite", hint=WEIGHTS)
        encoder.load_state_dict(found)


HEADS: dict[str, Callable[[int, int, int | None], Head]] = {
    "linear": LinearHead,
    "vitdet": ViTDet,
    "upernet": UPerNet,
    "unet": UNet,
}
"""Name -> (width of the features, number of structures, channels or None for the head's own) -> head."""


def build_head(name: str, width: int, structures: int, channels: int | None = None) -> Head:
    """Build a head with random weights from torch's global generator.

    Args:
        name: one of ``HEADS``.
        width: D, of the encoder's features; not used by ``unet``.
        structures: K.
        channels: of the head's layers; None for the paper's number of parameters.

    Raises:
        ConfigError: if there is no such head, or its channels cannot be chosen.
    """
    if name not in HEADS:
        raise ConfigError(f"there is no segmentation head {name!r}", hint=f"choose one of {', '.join(HEADS)}")
    return HEADS[name](width, structures, channels)


def trainable(module: nn.Module) -> int:
    """Count trainable parameters, as in the paper's table 3."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
