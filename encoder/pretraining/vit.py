"""The vision transformer that is trained: DINOv2's architecture and parameter names, made for multi-crop batches.

Crops of different sizes travel through the blocks as one packed sequence of tokens, so that every matrix product is
done once for all of them; attention looks at each crop alone. Dropped paths cost nothing (the rows are left out), and
the last block's MLP and the final LayerNorm are computed only for the tokens that a loss looks at. Under autocast the
tokens themselves have the type of the products, as in DINOv2's own mixed precision: most of a GPU's time outside of
products goes into reading and writing them. The results are those of Hugging Face's ``Dinov2Model`` on the same
weights, which the tests hold this to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from encoder.backbones.linear import linear
from encoder.pretraining.config import ModelConfig
from encoder.pretraining.fused_layers import (
    Shapes,
    attention,
    cast,
    gelu_linear,
    give,
    norm_linear,
    product_type,
    scaled,
    take,
)
from encoder.pretraining.packing import Kept, Packing, Wanted, among, draw_kept

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


class _Attention(nn.Module):
    """Holds the weights under their official names, as the next two do; the work is done by ``Block``."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def layers(self) -> tuple[nn.Linear, nn.Linear]:
        """First and last layer."""
        return self.fc1, self.fc2

    def between(self, inner: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """From the first layer's result to the last one's."""
        return gelu_linear(inner, weight, bias)


class _SwiGlu(nn.Module):
    """ViT-g's feed-forward layer; the hidden width is two thirds, rounded up to a multiple of 8, as in DINOv2."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def layers(self) -> tuple[nn.Linear, nn.Linear]:
        """First and last layer."""
        return self.w12, self.w3

    def between(self, inner: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """From the first layer's result to the last one's."""
        gate, value = inner.chunk(2, dim=-1)
        return linear(functional.silu(gate) * value, weight, bias)


class _LayerScale(nn.Module):
    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))


class Block(nn.Module):
    """Attention and MLP, each with LayerNorm before and LayerScale after, added to the packed tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.hidden_size * config.mlp_ratio
        self.heads = config.num_attention_heads
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = _Attention(width, config.qkv_bias)
        self.ls1 = _LayerScale(width, config.layerscale_value)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = (_SwiGlu if config.use_swiglu_ffn else _Mlp)(width, hidden)
        self.ls2 = _LayerScale(width, config.layerscale_value)

    def _weights(self, tokens: torch.Tensor) -> _Weights:
        first, last = self.mlp.layers()
        weights = {"qkv": self.attn.qkv.weight, "into": first.weight, "into_bias": first.bias}
        if self.attn.qkv.bias is not None:
            weights["qkv_bias"] = self.attn.qkv.bias
        gamma1, gamma2 = self.ls1.gamma, self.ls2.gamma
        if self.training:  # on the weights, which are smaller than the tokens that come out
            weights["proj"], weights["proj_bias"] = scaled(self.attn.proj.weight, self.attn.proj.bias, gamma1)
            weights["out"], weights["out_bias"] = scaled(last.weight, last.bias, gamma2)
        else:
            weights |= {"proj": self.attn.proj.weight, "proj_bias": self.attn.proj.bias}
            weights |= {"out": last.weight, "out_bias": last.bias, "gamma1": gamma1, "gamma2": gamma2}
        norms = {"scale1": self.norm1.weight, "shift1": self.norm1.bias}
        norms |= {"scale2": self.norm2.weight, "shift2": self.norm2.bias}
        if tokens.device.type != "cpu":  # where norms may have another type than tokens
            weights, norms = weights | norms, {}
        lowered = cast(list(weights.values()), tokens.dtype)
        return _Weights(**norms, **dict(zip(weights, lowered, strict=True)))

    def forward(
        self,
        tokens: torch.Tensor,
        packing: Packing,
        attended: Kept | None = None,
        transformed: Kept | None = None,
        wanted: Wanted | None = None,
        *,
        copy: bool = False,
    ) -> torch.Tensor:
        """One block.

        Args:
            tokens: [T, D]; changed in place where crops are dropped or no gradient is wanted.
            packing: of the tokens.
            attended: crops that go through the attention branch; None for all.
            transformed: likewise for the MLP branch; not looked at where ``wanted`` is given.
            wanted: in the last block, the tokens whose features are wanted.
            copy: leave ``tokens`` as they are.

        Returns:
            [T, D], or [M, D] where ``wanted`` is given.
        """
        if copy and not torch.compiler.is_compiling():  # compiled code changes no inputs
            tokens = tokens.clone()
        with torch.autocast(tokens.device.type, enabled=False):
            of = self._weights(tokens)

            def attend(rows: torch.Tensor, packing: Packing) -> torch.Tensor:
                projected = norm_linear(rows, of.scale1, of.shift1, self.norm1.eps, of.qkv, of.qkv_bias)
                mixed = attention(projected, packing.shapes, self.heads, packing.starts)
                return linear(mixed, of.proj, of.proj_bias)

            def transform(rows: torch.Tensor) -> torch.Tensor:
                inner = norm_linear(rows, of.scale2, of.shift2, self.norm2.eps, of.into, of.into_bias)
                branch: torch.Tensor = self.mlp.between(inner, of.out, of.out_bias)
                return branch

            if attended is None:
                tokens = _add(tokens, attend(tokens, packing), of.gamma1)
            else:
                rows, tokens = take(tokens, attended.tokens)
                branch = attend(rows, attended.packing)
                tokens = give(tokens, branch, attended.tokens, attended.packing.shapes, attended.scales)
            if wanted is not None:
                tokens = tokens.index_select(0, wanted.tokens)
                if wanted.scale is not None:
                    return tokens + transform(tokens) * wanted.scale
                return _add(tokens, transform(tokens), of.gamma2)
            if transformed is None:
                return _add(tokens, transform(tokens), of.gamma2)
            rows, tokens = take(tokens, transformed.tokens)
            return give(tokens, transform(rows), transformed.tokens, transformed.packing.shapes, transformed.scales)


class _Weights(NamedTuple):
    """Of a block, in the type of its products; LayerScale's gammas only where they are not in ``proj`` and ``out``."""

    scale1: torch.Tensor
    shift1: torch.Tensor
    scale2: torch.Tensor
    shift2: torch.Tensor
    qkv: torch.Tensor
    proj: torch.Tensor
    proj_bias: torch.Tensor
    into: torch.Tensor
    into_bias: torch.Tensor
    out: torch.Tensor
    out_bias: torch.Tensor
    qkv_bias: torch.Tensor | None = None
    gamma1: torch.Tensor | None = None
    gamma2: torch.Tensor | None = None


def _add(tokens: torch.Tensor, branch: torch.Tensor, gamma: torch.Tensor | None) -> torch.Tensor:
    """Tokens plus a branch of all of them, times LayerScale's gamma where that is not in the weights."""
    if gamma is None:
        return tokens + branch
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.addcmul(tokens, branch, gamma)
    return tokens.addcmul_(branch, gamma)


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

    Attributes:
        activation_checkpointing: compute blocks again in the backward pass.
        sharded: the blocks' weights are spread over processes (FSDP).
    """

    def __init__(self, config: ModelConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        width = config.hidden_size
        self.config, self.drop_path = config, drop_path
        self.activation_checkpointing = self.sharded = False
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
        packing = Packing.of(shapes, tokens.device)
        branches = 2 * len(self.blocks)
        dropping = self.training and self.drop_path
        kept = draw_kept(shapes, branches, self.drop_path, tokens.device) if dropping else [None] * branches
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks):
            attended, transformed = kept[2 * index : 2 * index + 2]
            arguments: tuple[object, ...] = (tokens, packing, attended, transformed)
            if index + 1 == len(self.blocks):
                arguments += (among(wanted, transformed, len(tokens)),)
            # FSDP hands a block views of its inputs, and a block that is computed again needs them as they were
            if recompute:
                from torch.utils.checkpoint import checkpoint

                tokens = checkpoint(block, *arguments, copy=True, use_reentrant=False)
            else:
                tokens = block(*arguments, copy=self.sharded)
        return functional.layer_norm(
            tokens.float(), self.norm.normalized_shape, self.norm.weight, self.norm.bias, self.norm.eps
        )

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
        patches = patches.to(product_type(patches.device))
        if crops.masks is not None:
            patches = torch.where(crops.masks[..., None], self.mask_token.to(patches.dtype), patches)
        position = self._positions(rows, columns)
        first = (self.cls_token + position[:, :1]).to(patches.dtype).expand(count, -1, -1)
        return torch.cat([first, patches + position[:, 1:].to(patches.dtype)], dim=1)

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
