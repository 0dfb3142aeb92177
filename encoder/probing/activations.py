"""Activations of a frozen encoder between its input and its last layer, for heads that want more than one depth."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import nn

from encoder.backbones.base import FrozenEncoder
from encoder.errors import ConfigError

# where an encoder's network keeps its blocks, and the LayerNorm that its patches come from (None: they come without)
_TOWERS: tuple[tuple[str, str | None], ...] = (
    ("encoder.layer", "layernorm"),  # Dinov2Model
    ("blocks", "norm"),  # timm's VisionTransformer
    ("vision_model.encoder.layers", None),  # CLIPVisionModel
    ("encoder.layers", None),
)


def activations(encoder: FrozenEncoder, pixel_values: torch.Tensor, count: int = 4) -> list[torch.Tensor]:
    """Patch vectors after ``count`` evenly spaced blocks, the last of them the encoder's own ``patches``.

    Blocks 3, 6, 9 and 12 of ViT-B's twelve. Where an encoder's patches come after its final LayerNorm, all go through
    it, as in DINOv2's ``get_intermediate_layers(norm=True)``; the paper (table 3, "4 x 768 features") does not say.

    Args:
        encoder: frozen.
        pixel_values: [B, 3, S, S] normalised images.
        count: how many; 1 works with every encoder.

    Returns:
        Tensors [B, N, D], shallowest first.

    Raises:
        ConfigError: more than one is wanted of an encoder that has no transformer blocks, or fewer than ``count``.
    """
    if count == 1:
        return [encoder(pixel_values).patches]
    blocks, norm = _tower(encoder)
    if len(blocks) < count:
        raise ConfigError(f"the encoder has {len(blocks)} blocks; {count} activations are wanted")
    wanted = [len(blocks) * (number + 1) // count - 1 for number in range(count)]
    kept: dict[int, torch.Tensor] = {}

    def keep(place: int, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, torch.Tensor)
        kept[place] = hidden

    hooks = [
        blocks[place].register_forward_hook(lambda module, inputs, output, place=place: keep(place, output))
        for place in wanted[:-1]
    ]
    try:
        patches = encoder(pixel_values).patches
    finally:
        for hook in hooks:
            hook.remove()
    number = patches.shape[1]
    with torch.no_grad():
        before = [kept[place] if norm is None else norm(kept[place]) for place in wanted[:-1]]
    return [*(hidden[:, hidden.shape[1] - number :] for hidden in before), patches]


def as_maps(patches: torch.Tensor) -> torch.Tensor:
    """[B, N, D] patch vectors as maps [B, D, s, s] with s = sqrt(N).

    Raises:
        ConfigError: N is no square.
    """
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise ConfigError(f"{patches.shape[1]} patches make no square")
    return patches.transpose(1, 2).reshape(len(patches), -1, side, side)


def _tower(encoder: FrozenEncoder) -> tuple[nn.ModuleList | nn.Sequential, nn.Module | None]:
    for path, norm in _TOWERS:
        try:
            blocks = attrgetter(path)(encoder.model)
        except AttributeError:
            continue
        if isinstance(blocks, nn.ModuleList | nn.Sequential):
            return blocks, None if norm is None else getattr(encoder.model, norm)
    raise ConfigError(
        f"{type(encoder).__name__} has no transformer blocks, so no activations between them",
        hint="its patches can be probed with the linear head",
    )
