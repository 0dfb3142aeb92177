"""Conversion between the tensor names of DINOv2's code ("official") and of Hugging Face's ``Dinov2Model``.

Official files concatenate query, key and value, in this order, as ``qkv``. Published Hugging Face files, such as
microsoft/rad-dino, have the names called legacy here; all versions of ``save_pretrained`` write them, although
transformers 5.23 names its modules differently (``q_proj``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from encoder.errors import ModelError

Tensors = dict[str, torch.Tensor]

_STEM = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_BLOCK = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "ls2.gamma": "layer_scale2.lambda1",
}
_RENAMED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.down_proj": "mlp.weights_out",
}
"""Names of the modules in transformers 5.23 -> legacy names."""
_JOINED = {
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),  # the halves of legacy weights_in
}
_OFFICIAL_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_HUGGING_FACE_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)")


def to_hugging_face(official: Mapping[str, torch.Tensor]) -> Tensors:
    """Convert official names to legacy Hugging Face names: 175 tensors become 223 for ViT-B.

    Unknown names are kept, so that loading the result refuses them.
    """
    result: Tensors = {}
    for name, tensor in official.items():
        match = _OFFICIAL_BLOCK.fullmatch(name)
        part, kind = _split(match[2] if match else name)
        if match is None:
            result[_STEM.get(part, part) + kind] = tensor
        elif part == "attn.qkv":
            for single, third in zip(_JOINED[part], tensor.chunk(3), strict=True):
                result[f"encoder.layer.{match[1]}.{single}{kind}"] = third.contiguous()
        else:
            result[f"encoder.layer.{match[1]}.{_BLOCK.get(part, part)}{kind}"] = tensor
    return result


def to_official(hugging_face: Mapping[str, torch.Tensor]) -> Tensors:
    """Convert Hugging Face names, legacy or of live modules, to official names: 223 tensors become 175 for ViT-B.

    Unknown names are kept, so that loading the result refuses them.

    Raises:
        ModelError: if a part of a concatenated tensor is missing, such as the key of a layer.
    """
    stem = {theirs: ours for ours, theirs in _STEM.items()}
    block = {theirs: ours for ours, theirs in _BLOCK.items()}
    whole_of = {part: whole for whole, parts in _JOINED.items() for part in parts}
    result: Tensors = {}
    pieces: dict[tuple[str, str, str], Tensors] = {}
    for name, tensor in hugging_face.items():
        match = _HUGGING_FACE_BLOCK.fullmatch(name)
        part, kind = _split(match[2] if match else name)
        part = _RENAMED.get(part, part)
        if match is None:
            result[stem.get(part, part) + kind] = tensor
        elif part in whole_of:
            pieces.setdefault((match[1], whole_of[part], kind), {})[part] = tensor
        else:
            result[f"blocks.{match[1]}.{block.get(part, part)}{kind}"] = tensor
    for (layer, whole, kind), found in pieces.items():
        for part in _JOINED[whole]:
            if part not in found:
                raise ModelError(f"the weights lack the tensor encoder.layer.{layer}.{part}{kind}")
        result[f"blocks.{layer}.{whole}{kind}"] = torch.cat([found[part] for part in _JOINED[whole]])
    return result


def _split(name: str) -> tuple[str, str]:
    """Split a suffix off: ``norm1.weight`` -> ``norm1``, ``.weight``; ``ls1.gamma`` -> ``ls1.gamma`` and empty."""
    for kind in (".weight", ".bias"):
        if name.endswith(kind):
            return name.removesuffix(kind), kind
    return name, ""
