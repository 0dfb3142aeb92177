"""What a training run will cost, worked out from sizes alone: parameters, FLOPs, memory of each process.

FLOPs are those of matrix products, 2 for each multiplication with addition. Memory is what training holds on to;
kernels' workspaces, communication buffers and fragmentation come on top.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_rad.training.config import TrainingConfig
from llava_rad.training.deepspeed_config import offloads, stage

SHARE_OF_RATE = 0.4
"""Of the measured rate of large matrix products, the share that a step is assumed to reach."""


@dataclass(frozen=True)
class Sizes:
    """Of an encoder (as ``Dinov2Config`` has them, or with its number of ``parameters``) and a ``LlamaConfig``.

    Attributes:
        image_tokens: features of an image.
        length: mean tokens of a sample, image included.
        answer: mean tokens with a loss.
    """

    encoder: Mapping[str, Any]
    language_model: Mapping[str, Any]
    image_tokens: int
    length: float
    answer: float


@dataclass(frozen=True)
class Estimate:
    """Costs of a run.

    Attributes:
        encoder, projector, language_model: parameters.
        trained: parameters that are trained.
        tera_flops: for each sample of a step, in units of 1e12.
        weights: bytes of each process for weights, gradients and the optimiser.
        activations: bytes of each process for what the backward pass needs.
        logits: bytes of each process for the scores of the supervised tokens.
        host: bytes of main memory of each process where DeepSpeed offloads.
    """

    encoder: int
    projector: int
    language_model: int
    trained: int
    tera_flops: float
    weights: float
    activations: float
    logits: float
    host: float

    @property
    def memory(self) -> float:
        """Bytes of each process, together."""
        return self.weights + self.activations + self.logits


def llama_parameters(config: Mapping[str, Any]) -> tuple[int, int]:
    """Parameters of a Llama, and of its decoder blocks alone: 6,738,415,616 and 6,476,267,520 for Vicuna-7B."""
    width, inner, layers = (int(config[key]) for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads = int(config["num_attention_heads"])
    kv = int(config.get("num_key_value_heads") or heads)
    size = int(config.get("head_dim") or width // heads)
    block = 2 * width * heads * size + 2 * width * kv * size + 3 * width * inner + 2 * width
    tables = int(config["vocab_size"]) * width * (1 if config.get("tie_word_embeddings", False) else 2)
    return tables + layers * block + width, layers * block


def encoder_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of an encoder: 86,580,480 for DINOv2's ViT-B/14 at 518 px."""
    if "parameters" in config:
        return int(config["parameters"])
    from encoder.pretraining.config import ModelConfig
    from encoder.pretraining.estimate import backbone_parameters

    keys = ModelConfig.model_fields.keys() & config.keys()
    return backbone_parameters(ModelConfig(**{key: config[key] for key in keys}))


def adapter_parameters(config: Mapping[str, Any], rank: int) -> int:
    """Parameters of adapters on every linear layer of the decoder blocks."""
    width, inner, heads = (int(config[key]) for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    size = int(config.get("head_dim") or width // heads)
    queries, kv = heads * size, int(config.get("num_key_value_heads") or heads) * size
    ends = 2 * (width + queries) + 2 * (width + kv) + 3 * (width + inner)
    return rank * ends * int(config["num_hidden_layers"])


def estimate(config: TrainingConfig, sizes: Sizes, processes: int = 1) -> Estimate:
    """The costs of a run on ``processes`` processes."""
    lm, run, engine = sizes.language_model, config.optimization, config.engine
    total, blocks = llama_parameters(lm)
    width, layers, inner = (int(lm[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    features = int(sizes.encoder["hidden_size"])
    projector = (features + 1) * width + (width + 1) * width
    encoder = encoder_parameters(sizes.encoder)
    adapters = adapter_parameters(lm, config.lora.r) if config.lora else 0
    trained = projector + (adapters if config.lora else total)

    attention = 2 * width * sizes.length**2 * layers  # causal: half of 4
    head = 2 * sizes.answer * int(lm["vocab_size"]) * width
    forward = 2 * (blocks + adapters) * sizes.length + attention
    bridge = 2 * projector * sizes.image_tokens
    deep = int(sizes.encoder["num_hidden_layers"])
    seen = 2 * encoder * sizes.image_tokens + 4 * features * sizes.image_tokens**2 * deep
    # backward: slopes of inputs and, where weights are trained, of weights
    times = (2 if config.lora else 3) + (1 if engine.activation_checkpointing else 0)
    flops = times * forward + 3 * (head + bridge) + (0 if config.data.keep_features else seen)

    small = 2 if engine.precision == "bf16" else 4
    level, (to_host, weights_to_host) = stage(config), offloads(config)
    if level or engine.deepspeed != "none":
        own, slopes, state = small, small, 12 if small == 2 else 8
    else:
        own, slopes, state = 4 + (2 if small == 2 else 0), 4, 8
    frozen = small * (total if config.lora else 0)
    parts_of_weights = processes if level == 3 else 1
    parts_of_rest = processes if level >= 2 else 1
    kept = (own * trained + frozen) / parts_of_weights
    rest = (slopes * trained + state * trained) / parts_of_rest
    host = (state * trained / parts_of_rest if to_host else 0) + (kept if weights_to_host else 0)
    tokens = run.micro_batch_size * sizes.length
    layer = tokens * small * (8 * width + 4 * inner)
    held = layers * tokens * width * small + layer if engine.activation_checkpointing else layers * layer
    return Estimate(
        encoder=encoder,
        projector=projector,
        language_model=total,
        trained=trained,
        tera_flops=flops / 1e12,
        weights=kept + rest - host + small * encoder,
        activations=held + tokens * width * small * 2,
        logits=run.micro_batch_size * sizes.answer * int(lm["vocab_size"]) * (small + 8),
        host=host,
    )


def matrix_rate(precision: str) -> float:
    """FLOP/s of large matrix products on this device, measured in about half a second."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    rate = 0.0
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.5:
        start = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        rate = max(rate, 2 * side**3 / (time.perf_counter() - start))
    return rate
