"""Low-rank adapters on the decoder, and only there: the projector is trained whole, the encoder is no part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llava_rad.training.config import LoraConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LINEAR = r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
"""Every linear layer of the decoder blocks, as LLaVA-1.5's ``find_all_linear_names`` takes them; not the head."""


def with_adapters(
    language_model: PreTrainedModel, config: LoraConfig, seed: int, *, float32: bool = True
) -> PreTrainedModel:
    """Freeze a language model and put adapters on its linear layers.

    Args:
        language_model: ``LlamaForCausalLM``.
        config: rank, scale, dropout.
        seed: of the adapters' random half.
        float32: keep adapters in float32 beside a language model in bfloat16. DeepSpeed takes one type only, and its
            optimiser has a copy in float32.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    language_model.requires_grad_(False)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    adapted = get_peft_model(
        language_model,
        PeftLoraConfig(
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=_LINEAR,
            bias="none",
            task_type="CAUSAL_LM",
        ),
        autocast_adapter_dtype=float32,
    )
    torch.random.set_rng_state(state)
    return adapted
