"""The vision transformer that is trained: DINOv2's architecture and parameter names, made for multi-crop batches.

Crops of different sizes travel through the blocks as one packed sequence of tokens, so that every matrix product is
done once for all of them; attention looks at each crop alone. Dropped paths cost nothing (the rows are left out), and
the last block's MLP and the final LayerNorm are computed only for the tokens that a loss looks at. The results are
those of Hugging Face's ``Dinov2Model`` on the same weights, which the tests hold this to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from encoder.backbones.linear import linear
from encoder.pretraining.config import ModelConfig
from encoder.pretraining.fused_layers import Shapes, attention, gelu_linear, norm_linear

MEAN, STD = 0.5307, 0.2583
"""Of MIMIC-CXR's pixels in 0..1, the normalisation of microsoft/rad-dino (preprocessor_config.json)."""


class Crops(NamedTuple):
    """Crops of one size.

    Attributes:
        pixels: [n, S, S] uint8 (normalised here), or [n, 3, S, S] float, already normalised.
        masks: [n, N] bool, True where the mask token replaces the patch; None where no patch is masked.
    """

    pixels: torch.Tensor
    masks: torch.Tensor | None = None


class Kept(NamedTuple):
    """Crops that go through a residual branch, and the positions of their tokens in the packed sequence.

    Attributes:
        tokens: [k] int64, ascending.
        shapes: of the packed sequence of kept tokens.
        scale: [k, 1], crops / kept crops of the token's group, which keeps the expectation.
    """

    tokens: torch.Tensor
    shapes: Shapes
    scale: torch.Tensor


class Wanted(NamedTuple):
    """The tokens whose features are wanted.

    Attributes:
        tokens: [M] int64, places in the packed sequence.
        scale: [M, 1], of their last MLP branch, 0 where it is dropped; None for 1. All are computed, so that their
            number does not change from step to step.
    """

    tokens: torch.Tensor
    scale: torch.Tensor | None = None


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, norm: nn.LayerNorm, shapes: Shapes) -> torch.Tensor:
        """[T, D] -> [T, D], from before the norm to before the output projection."""
        return attention(norm_linear(tokens, norm, self.qkv.weight, self.qkv.bias), shapes, self.heads)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor, norm: nn.LayerNorm, gamma: torch.Tensor) -> torch.Tensor:
        """gamma times the MLP of the normed [T, D]."""
        inner = norm_linear(tokens, norm, self.fc1.weight, self.fc1.bias)
        return gelu_linear(inner, *_scaled(self.fc2, gamma))


class _SwiGlu(nn.Module):
    """ViT-g's feed-forward layer; the hidden width is two thirds, rounded up to a multiple of 8, as in DINOv2."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor, norm: nn.LayerNorm, gamma: torch.Tensor) -> torch.Tensor:
        """gamma times the SwiGLU of the normed [T, D]."""
        gate, value = norm_linear(tokens, norm, self.w12.weight, self.w12.bias).chunk(2, dim=-1)
        return linear(functional.silu(gate) * value, *_scaled(self.w3, gamma))


class _LayerScale(nn.Module):
    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))


def _scaled(layer: nn.Linear, gamma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's weight and bias times LayerScale's gamma: they are smaller than the tokens that come out."""
    return layer.weight * gamma[:, None], layer.bias * gamma


class Block(nn.Module):
    """Attention and MLP, each with LayerNorm before and LayerScale after, added to the packed tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.hidden_size * config.mlp_ratio
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = _Attention(width, config.num_attention_heads, config.qkv_bias)
        self.ls1 = _LayerScale(width, config.layerscale_value)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = (_SwiGlu if config.use_swiglu_ffn else _Mlp)(width, hidden)
        self.ls2 = _LayerScale(width, config.layerscale_value)

    def attend(self, tokens: torch.Tensor, shapes: Shapes) -> torch.Tensor:
        """The attention branch of [T, D]."""
        return linear(self.attn(tokens, self.norm1, shapes), *_scaled(self.attn.proj, self.ls1.gamma))

    def transform(self, tokens: torch.Tensor) -> torch.Tensor:
        """The MLP branch of [T, D]."""
        branch: torch.Tensor = self.mlp(tokens, self.norm2, self.ls2.gamma)
        return branch

    def forward(
        self,
        tokens: torch.Tensor,
        shapes: Shapes,
        attended: Kept | None = None,
        transformed: Kept | None = None,
        wanted: Wanted | None = None,
    ) -> torch.Tensor:
        """One block.

        Args:
            tokens: [T, D].
            shapes: of the packed sequence.
            attended: crops that go through the attention branch; None for all.
            transformed: likewise for the MLP branch; not looked at where ``wanted`` is given.
            wanted: in the last block, the tokens whose features are wanted.

        Returns:
            [T, D], or [M, D] where ``wanted`` is given.
        """
        if attended is None:
            tokens = tokens + self.attend(tokens, shapes)
        else:
            tokens = _add(tokens, self.attend(tokens.index_select(0, attended.tokens), attended.shapes), attended)
        if wanted is not None:
            tokens = tokens.index_select(0, wanted.tokens)
            branch = self.transform(tokens)
            return tokens + (branch if wanted.scale is None else branch * wanted.scale)
        if transformed is None:
            return tokens + self.transform(tokens)
        return _add(tokens, self.transform(tokens.index_select(0, transformed.tokens)), transformed)


def _add(tokens: torch.Tensor, branch: torch.Tensor, kept: Kept) -> torch.Tensor:
    """[T, D] with the scaled branch [k, D] added to the kept tokens."""
    added: torch.Tensor = _Add.apply(tokens, branch, kept.tokens, kept.scale)
    return added


class _Add(torch.autograd.Function):
    """Unlike ``index_add`` of the scaled branch, keeps no copy of it."""

    @staticmethod
    def forward(
        ctx: Any, tokens: torch.Tensor, branch: torch.Tensor, places: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(places, scale)
        ctx.dtype = branch.dtype
        return tokens.index_add(0, places, branch * scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        places, scale = ctx.saved_tensors
        return grad_outputs[0], grad_outputs[0].index_select(0, places).mul_(scale).to(ctx.dtype), None, None


class _PatchEmbedding(nn.Module):
    """Holds the weights under their official name; the product is done by ``VisionTransformer``."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)


class VisionTransformer(nn.Module):
    """DINOv2's vision transformer; ``state_dict`` has the official names (``blocks.0.attn.qkv.weight``).

    Args:
        config: its shape.
        drop_path: share of the crops that skip a residual branch in training mode.
    """

    def __init__(self, config: ModelConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        width = config.hidden_size
        self.config, self.drop_path, self.activation_checkpointing = config, drop_path, False
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (config.image_size // config.patch_size) ** 2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = _PatchEmbedding(width, config.patch_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Random weights as DINOv2 draws them: truncated normal (0.02), CLS 1e-6, biases and the mask token 0."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.zeros_(self.mask_token)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, groups: Sequence[Crops], wanted: torch.Tensor) -> torch.Tensor:
        """Features of the wanted tokens, after the final LayerNorm.

        Args:
            groups: crops, one group for each size.
            wanted: [M] int64, places in the packed sequence: crops one after the other, group after group, each crop
                its CLS token and then its patches row by row.

        Returns:
            [M, D]
        """
        embedded = [self._embed(crops) for crops in groups]
        shapes: Shapes = tuple((len(part), part.shape[1]) for part in embedded)
        tokens = torch.cat([part.flatten(0, 1) for part in embedded])
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            attended, transformed = self._drop(shapes, tokens.device), self._drop(shapes, tokens.device)
            arguments: tuple[object, ...] = (tokens, shapes, attended, transformed)
            if index == last:
                arguments += (_among(wanted, transformed, sum(r * n for r, n in shapes)),)
            if self.activation_checkpointing and torch.is_grad_enabled():
                from torch.utils.checkpoint import checkpoint

                tokens = checkpoint(block, *arguments, use_reentrant=False)
            else:
                tokens = block(*arguments)
        return self.norm(tokens)  # type: ignore[no-any-return]

    def features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """CLS [B, D] and patches [B, N, D] of [B, S, S] uint8 or [B, 3, S, S] normalised images, nothing dropped."""
        side = self.config.patch_size
        length = 1 + (pixels.shape[-2] // side) * (pixels.shape[-1] // side)
        wanted = torch.arange(len(pixels) * length, device=pixels.device)
        hidden = self([Crops(pixels)], wanted).view(len(pixels), length, -1)
        return hidden[:, 0], hidden[:, 1:]

    def _embed(self, crops: Crops) -> torch.Tensor:
        """[n, 1 + N, D]"""
        weight, bias, side = self.patch_embed.proj.weight, self.patch_embed.proj.bias, self.config.patch_size
        pixels = crops.pixels
        if pixels.dtype == torch.uint8:  # grey: the three channels are one, and their weights add up
            pixels, weight = ((pixels.float() / 255 - MEAN) / STD)[:, None], weight.sum(1, keepdim=True)
        count, channels, height, width = pixels.shape
        rows, columns = height // side, width // side
        cells = pixels.view(count, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        patches = linear(cells.reshape(count, rows * columns, -1), weight.flatten(1), bias)
        if crops.masks is not None:
            patches = torch.where(crops.masks[..., None], self.mask_token.to(patches.dtype), patches)
        position = self._positions(rows, columns)
        first = (self.cls_token + position[:, :1]).expand(count, -1, -1)
        return torch.cat([first, patches + position[:, 1:]], dim=1)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """[1, 1 + rows * columns, D]: bicubic to the wanted grid, no antialias, as ``Dinov2Embeddings``.

        Without DINOv2's offset of 0.1, since exports are used in transformers, which has none (docs/pretraining.md).
        """
        native = self.config.image_size // self.config.patch_size
        if rows == columns == native:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].float().reshape(1, native, native, -1).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], dim=1)

    def _drop(self, shapes: Shapes, device: torch.device) -> Kept | None:
        """Draw the crops that go through one residual branch, from torch's generator of the CPU."""
        if not self.training or self.drop_path == 0:
            return None
        kept_shapes, scales, tokens, start = [], [], [], 0
        for rows, length in shapes:
            count = max(int(rows * (1 - self.drop_path)), 1)
            chosen = torch.randperm(rows)[:count].sort().values
            tokens.append((start + chosen[:, None] * length + torch.arange(length)).flatten())
            scales.append(torch.full((count * length, 1), rows / count))
            kept_shapes.append((count, length))
            start += rows * length
        places, scale = (torch.cat(parts).to(device, non_blocking=True) for parts in (tokens, scales))
        return Kept(places, tuple(kept_shapes), scale)


def _among(wanted: torch.Tensor, kept: Kept | None, total: int) -> Wanted:
    if kept is None:
        return Wanted(wanted)
    scale = torch.zeros(total, 1, device=wanted.device)
    scale[kept.tokens] = kept.scale
    return Wanted(wanted, scale[wanted])
