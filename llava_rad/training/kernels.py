"""Faster kernels for the language model that is trained: Liger's, or those of torch.compile."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from encoder.errors import LlavaRadError


def compile_layers(language_model: Any, backend: Any = "inductor") -> None:
    """Compile a Llama's norms and MLPs in place, with adapters that are put on them later; once for all layers."""
    model = language_model.model
    for layer in model.layers:
        for part in (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp):
            part.compile(backend=backend)
    model.norm.compile(backend=backend)


def use_liger(language_model: Any) -> None:
    """Replace a Llama's norms, rotary embedding and MLP by Liger's kernels.

    Raises:
        LlavaRadError: if liger-kernel is not installed, or there is no CUDA device.
    """
    if not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None:
        raise LlavaRadError(
            "engine.liger needs a CUDA device and the package liger-kernel", hint="engine.liger=false does without"
        )
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(
        rope=True,
        cross_entropy=False,
        fused_linear_cross_entropy=False,
        rms_norm=True,
        swiglu=True,
        model=language_model,
    )
