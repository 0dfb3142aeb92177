"""Small DINOv2 models with random weights, and the same network as other libraries build it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def random_(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Make LayerNorms and LayerScales random as well, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def dinov2(width: int = 24, layers: int = 2, heads: int = 2, size: int = 56, seed: int = 0, **more: Any) -> Any:
    """A random ``Dinov2Model``."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=size,
        patch_size=14,
        architectures=["Dinov2Model"],
        **more,
    )
    torch.manual_seed(seed)
    return random_(Dinov2Model(config), seed)


def timm_vit(
    width: int = 24, layers: int = 2, heads: int = 2, size: int = 56, *, swiglu: bool = False
) -> torch.nn.Module:
    """timm's network as its ``vit_*_patch14_dinov2`` are built; its parameters have the official names."""
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    more = {"mlp_ratio": 16 / 3, "mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU} if swiglu else {}
    return VisionTransformer(
        img_size=size,
        patch_size=14,
        embed_dim=width,
        depth=layers,
        num_heads=heads,
        init_values=1e-5,
        num_classes=0,
        **more,
    ).eval()


def published_names(layers: int) -> set[str]:
    """The key names in ``microsoft/rad-dino``'s model.safetensors (spelt out; 223 for 12 layers)."""
    names = {
        "embeddings.cls_token",
        "embeddings.mask_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.patch_embeddings.projection.bias",
        "layernorm.weight",
        "layernorm.bias",
    }
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        names |= {f"{at}layer_scale1.lambda1", f"{at}layer_scale2.lambda1"}
        for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "attention.output.dense"):
            names |= {f"{at}{part}.weight", f"{at}{part}.bias"}
        for part in ("query", "key", "value"):
            names |= {f"{at}attention.attention.{part}.weight", f"{at}attention.attention.{part}.bias"}
    return names


def official_names(layers: int) -> set[str]:
    """The key names in ``dinov2_vitb14_pretrain.pth`` (spelt out; 175 for 12 layers)."""
    names = {"cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    names |= {"norm.weight", "norm.bias"}
    for layer in range(layers):
        names |= {f"blocks.{layer}.ls1.gamma", f"blocks.{layer}.ls2.gamma"}
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            names |= {f"blocks.{layer}.{part}.weight", f"blocks.{layer}.{part}.bias"}
    return names


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    """Write a .safetensors file; returns its path."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return path


class Evil:
    """Its pickle creates a file where it is loaded with code."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil-code-ran"),)
