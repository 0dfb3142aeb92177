"""Cost of a training run, measured on shapes: parameters, operations, memory of each process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from encoder.backbones.weight_files import architecture_of
from encoder.hub import refused_packages
from encoder.pretraining.config import ModelConfig as VitConfig
from encoder.pretraining.vit import VisionTransformer
from encoder.runs.preflight import Trace, by_depth, parameters_of, trace, transformer_flops
from llava_rad.model.projector import Projector
from llava_rad.training.config import LoraConfig, TrainingConfig
from llava_rad.training.deepspeed_config import offloads, stage
from llava_rad.training.initial import with_adapters
from llava_rad.training.studies import StudySamples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llava_rad.training.data import Samples

_LAYERS = "num_hidden_layers"
_SHARE_OF_MEMORY = 0.8
"""Of a device, for what is estimated; workspaces of kernels, communication and fragmentation come on top."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the parts and of a sample, the mean one unless said otherwise.

    Attributes:
        encoder: as ``Dinov2Config`` has them, or with the number of ``parameters``.
        language_model: as ``LlamaConfig`` has them.
        image_tokens: features of an image.
        length: tokens of a sample, images included.
        answer: tokens with a loss.
        images: number of images.
        further_tokens: features of each image after the first; None: as many as of the first.
    """

    encoder: Mapping[str, Any]
    language_model: Mapping[str, Any]
    image_tokens: int
    length: float
    answer: float
    images: float = 1.0
    further_tokens: int | None = None

    @property
    def projected(self) -> float:
        """Features of the images that are projected."""
        further = self.image_tokens if self.further_tokens is None else self.further_tokens
        return self.image_tokens + (self.images - 1) * further

    def with_images(self, number: int) -> Sizes:
        """Return the sizes of a sample of so many images with the same texts."""
        changed = replace(self, images=number)
        return replace(changed, length=self.length - self.projected + changed.projected)


def sizes_of(
    encoder: Mapping[str, Any], language_model: Mapping[str, Any], image_tokens: int, samples: Samples | StudySamples
) -> tuple[Sizes, Sizes]:
    """Return the sizes of a split's mean sample, and of the largest one, whose batch takes the most memory."""
    images, further = np.ones(len(samples)), None
    if isinstance(samples, StudySamples):
        images, further = np.array([len(found) for found in samples.images]), samples.layout.further_tokens
    answers = np.array([len(ids) for ids in samples.answers])
    parts = encoder, language_model, image_tokens
    mean, most = (
        Sizes(*parts, float(take(samples.lengths)), float(take(answers)), float(take(images)), further)
        for take in (np.mean, np.max)
    )
    return mean, most


@dataclass(frozen=True)
class Cost:
    """Cost of a run.

    Attributes:
        encoder: parameters of the encoder.
        projector: parameters of the projector.
        language_model: parameters of the language model, adapters excluded.
        trained: parameters that are trained.
        tera_flops: operations of each sample of a step, in units of 1e12.
        weights: bytes on each process for weights, gradients and the optimiser.
        activations: bytes on each process for what the backward pass needs.
        logits: bytes on each process for the scores of the supervised tokens.
        host: bytes of main memory on each process where DeepSpeed offloads.
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
        """Bytes on each process, together."""
        return self.weights + self.activations + self.logits


def cost_of(config: TrainingConfig, sizes: Sizes, processes: int = 1) -> Cost:
    """Measure the cost of a run on the shapes of one and two samples of the given length."""
    run, engine = config.optimization, config.engine
    width, vocabulary, layers = (int(sizes.language_model[key]) for key in ("hidden_size", "vocab_size", _LAYERS))
    features = int(sizes.encoder["hidden_size"])
    encoder = encoder_parameters(sizes.encoder)
    projector = parameters_of(lambda: Projector(features, width))
    total, adapters = language_model_parameters(sizes.language_model, config.lora)
    trained = projector + (adapters if config.lora else total)
    rest, block = _language_model_cost(config, sizes)

    forward = (rest + layers * block).flops
    bridge = 2 * projector * sizes.projected
    head = 2 * sizes.answer * vocabulary * width
    depth = int(sizes.encoder["num_hidden_layers"])
    seen = 0.0
    if not config.data.keep_features:
        seen = sizes.images * transformer_flops(encoder, sizes.image_tokens, features, depth)
    # backward: gradients of the inputs and, where weights are trained, of the weights
    times = (2 if config.lora else 3) + (1 if engine.activation_checkpointing else 0)
    flops = times * forward + (2 if config.lora else 3) * head + 3 * bridge + seen

    small = 2 if engine.precision == "bf16" else 4
    level, (to_host, weights_to_host) = stage(config), offloads(config)
    if engine.deepspeed != "none":
        own, gradients, state = small, small, 12 if small == 2 else 8
    else:
        own, gradients, state = 4 + (2 if small == 2 else 0), 4, 8
    frozen = small * (total if config.lora else 0)
    kept = (own * trained + frozen) / (processes if level == 3 else 1)
    shards = processes if level >= 2 else 1
    host = (state * trained / shards if to_host else 0) + (kept if weights_to_host else 0)
    # autocast keeps what is added up from block to block in the type of the weights
    inputs = sizes.length * width * (2 if small == 2 and (engine.deepspeed != "none" or config.lora) else 4)
    in_blocks = layers * inputs + block.kept if engine.activation_checkpointing else layers * block.kept
    in_projector = sizes.projected * (features + 2 * width) * small  # its input, and GELU's input and output
    return Cost(
        encoder=encoder,
        projector=projector,
        language_model=total,
        trained=trained,
        tera_flops=flops / 1e12,
        weights=kept + (gradients + state) * trained / shards - host + small * encoder,
        activations=run.micro_batch_size * (in_blocks + rest.kept + in_projector),
        logits=run.micro_batch_size * sizes.answer * vocabulary * (small + 8),
        host=host,
    )


def decide_recomputation(config: TrainingConfig, sizes: Sizes, processes: int, available: int) -> TrainingConfig:
    """Replace ``engine.activation_checkpointing: auto`` by true or false.

    Args:
        config: the run.
        sizes: of the largest sample.
        processes: number of processes that train.
        available: bytes of each one's device.
    """
    if config.engine.activation_checkpointing != "auto":
        return config

    def decided(recompute: bool) -> TrainingConfig:
        engine = config.engine.model_copy(update={"activation_checkpointing": recompute})
        return config.model_copy(update={"engine": engine})

    return decided(cost_of(decided(False), sizes, processes).memory > _SHARE_OF_MEMORY * available)


def encoder_parameters(config: Mapping[str, Any]) -> int:
    """Count the parameters of an encoder: 86,580,480 for DINOv2's ViT-B/14 at 518 px."""
    if "parameters" in config:
        return int(config["parameters"])
    keys = VitConfig.model_fields.keys() & config.keys()
    return parameters_of(lambda: VisionTransformer(VitConfig(**{key: config[key] for key in keys})))


def language_model_parameters(config: Mapping[str, Any], lora: LoraConfig | None) -> tuple[int, int]:
    """Count the parameters of a Llama (6,738,415,616 for Vicuna-7B), and those of the adapters on all its blocks."""
    total = _count(json.dumps(config))
    if lora is None:
        return total, 0
    one = {_LAYERS: 1}
    adapted = parameters_of(lambda: with_adapters(_llama(config, **one), lora, 0))
    return total, int(config[_LAYERS]) * (adapted - parameters_of(lambda: _llama(config, **one)))


@cache
def _count(config: str) -> int:
    return parameters_of(lambda: _llama(json.loads(config)))


def _llama(config: Mapping[str, Any], **changes: Any) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    described = architecture_of(config, LlamaConfig, "the language model")
    with refused_packages():
        return LlamaForCausalLM(
            LlamaConfig(**{key: value for key, value in described.items() if "dtype" not in key} | changes)
        )


def _language_model_cost(config: TrainingConfig, sizes: Sizes) -> tuple[Trace, Trace]:
    """Cost of one sample outside of the decoder blocks, and in each block, in the types that training uses."""
    spread, half = config.engine.deepspeed != "none", config.engine.precision == "bf16"
    return _trace_llama(json.dumps(sizes.language_model), round(sizes.length), config.lora, spread, half)


@cache
def _trace_llama(config: str, length: int, lora: LoraConfig | None, spread: bool, half: bool) -> tuple[Trace, Trace]:
    llama = json.loads(config)
    dtype = torch.bfloat16 if half and (spread or lora) else torch.float32

    def measure(blocks: int, samples: int) -> Trace:
        def build() -> PreTrainedModel:
            model = _llama(llama, **{_LAYERS: blocks}).to(dtype)
            return with_adapters(model, lora, 0, float32=not spread) if lora else model

        def forward(model: Any) -> Any:
            hidden = torch.zeros(samples, length, int(llama["hidden_size"]), dtype=dtype, requires_grad=True)
            inner = (model.get_base_model() if lora else model).model
            places = torch.arange(length)[None]
            angles = inner.rotary_emb(hidden, position_ids=places)
            # layer by layer: on fake tensors the whole model would write out a causal mask, which each block would keep
            for layer in inner.layers:
                hidden = layer(hidden, attention_mask=None, position_ids=places, position_embeddings=angles)
            return inner.norm(hidden)

        return trace(build, forward, bf16=half and not spread)

    return by_depth(measure)
