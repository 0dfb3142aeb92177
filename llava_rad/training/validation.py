"""Check a run's configuration, data, parts and cost without training (``train --validate``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from encoder.backbones.base import tokens_of_patches
from encoder.backbones.loading import sizes, stored_sizes
from encoder.backbones.weight_files import architecture_of
from encoder.datasets.splits import disjoint_files
from encoder.errors import LlavaRadError, ModelError
from encoder.hub import fetch, refused_packages
from encoder.json_files import read_json
from encoder.preprocessing import recipe_named
from encoder.pretraining.config import ModelConfig as VitConfig
from encoder.pretraining.vit import VisionTransformer
from encoder.runs.preflight import (
    Report,
    Trace,
    available_memory,
    by_depth,
    cache_need,
    checkpoints_need,
    flop,
    gigabytes,
    gpu_memory,
    parameters_of,
    trace,
    transformer_flops,
)
from llava_rad.conversion.published import open_checkpoint
from llava_rad.model.checkpoint import ENCODER, LANGUAGE_MODEL
from llava_rad.model.config import GenerationDefaults, LlavaRadConfig, check_language_model
from llava_rad.model.projector import Projector
from llava_rad.model.prompt import Prompt
from llava_rad.training.config import LoraConfig, TrainingConfig, accumulation, total_steps, warmup_steps
from llava_rad.training.data import Prompted, Samples, Selected, cache_folder, select_pairs, tokenise
from llava_rad.training.deepspeed_config import check_compile, checkpoint_bytes, offloads, read_deepspeed, stage
from llava_rad.training.initial import llama_config, make_tokens, recipe_of, with_adapters
from llava_rad.training.studies import Layout, StudySamples, check_positions, study_samples, study_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYERS = "num_hidden_layers"
_SHARE_OF_MEMORY = 0.8
"""Of a device, for what is estimated; workspaces of kernels, communication and fragmentation come on top."""
_PAPER = {"train": 146_909, "val": 7_250}


class _Parts(NamedTuple):
    encoder: Mapping[str, Any]
    language_model: dict[str, Any]
    image_tokens: int
    tokens: Any
    prompt: Prompted
    settings: LlavaRadConfig


@dataclass(frozen=True)
class Sizes:
    """Sizes of the parts and of a mean sample.

    Attributes:
        encoder: as ``Dinov2Config`` has them, or with the number of ``parameters``.
        language_model: as ``LlamaConfig`` has them.
        image_tokens: features of an image.
        length: mean tokens of a sample, image included.
        answer: mean tokens with a loss.
        images: mean number of images.
    """

    encoder: Mapping[str, Any]
    language_model: Mapping[str, Any]
    image_tokens: int
    length: float
    answer: float
    images: float = 1.0


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
    """Measure the cost of a run on the shapes of one and two samples of mean length."""
    run, engine = config.optimization, config.engine
    width, vocabulary, layers = (int(sizes.language_model[key]) for key in ("hidden_size", "vocab_size", _LAYERS))
    features = int(sizes.encoder["hidden_size"])
    encoder = encoder_parameters(sizes.encoder)
    projector = parameters_of(lambda: Projector(features, width))
    total, adapters = language_model_parameters(sizes.language_model, config.lora)
    trained = projector + (adapters if config.lora else total)
    rest, block = _language_model_cost(config, sizes)

    forward = (rest + layers * block).flops
    bridge = 2 * projector * sizes.image_tokens * sizes.images  # at most: pooled images have fewer
    head = 2 * sizes.answer * vocabulary * width
    depth = int(sizes.encoder["num_hidden_layers"])
    seen = 0.0
    if not config.data.keep_features:
        seen = sizes.images * transformer_flops(encoder, sizes.image_tokens, features, depth)
    # backward: gradients of the inputs and, where weights are trained, of the weights
    times = (2 if config.lora else 3) + (1 if engine.activation_checkpointing else 0)
    flops = times * forward + 3 * (head + bridge) + seen

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
    return Cost(
        encoder=encoder,
        projector=projector,
        language_model=total,
        trained=trained,
        tera_flops=flops / 1e12,
        weights=kept + (gradients + state) * trained / shards - host + small * encoder,
        activations=run.micro_batch_size * (in_blocks + rest.kept),
        logits=run.micro_batch_size * sizes.answer * vocabulary * (small + 8),
        host=host,
    )


def decide_recomputation(config: TrainingConfig, sizes: Sizes, processes: int, available: int) -> TrainingConfig:
    """Replace ``engine.activation_checkpointing: auto`` by true or false.

    Args:
        config: the run.
        sizes: with the length of the longest sample.
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
            embeds = torch.zeros(samples, length, int(llama["hidden_size"]), dtype=dtype, requires_grad=True)
            inner = model.get_base_model() if lora else model
            return inner.model(inputs_embeds=embeds, use_cache=False).last_hidden_state

        return trace(build, forward, bf16=half and not spread)

    return by_depth(measure)


def validate(
    config: TrainingConfig,
    *,
    processes: int = 1,
    offline: bool = False,
    output: Path = Path(),
    tflops: float | None = None,
) -> Report:
    """Check everything that a run needs.

    Args:
        config: the run.
        processes: number of processes that will train.
        offline: look for the parts in the cache only.
        output: the run folder, whose disk is looked at.
        tflops: TFLOP/s that the run reaches on each process; None for a share of what is measured here.

    Returns:
        Summary, warnings and problems; problems are kept, not raised, so that all are seen at once.
    """
    report = Report()
    report.lines.append(f"run         {config.name}, seed {config.seed}")
    report.attempt(lambda: _engine(report, config, processes))
    found: list[Selected] = []
    report.attempt(lambda: found.append(_data(report, config)))
    parts: list[_Parts] = []
    texts = [pair.findings for pair in found[0].pairs if pair.row.split == "train"] if found else []
    # that there are no texts is a problem of the pairs, and reported
    report.attempt(lambda: parts.append(_parts(config, texts or [""], offline)))
    if not report.problems:
        report.attempt(lambda: _cost(report, config, found[0], parts[0], processes, tflops))
        report.attempt(lambda: _disk(report, config, len(found[0].images.rows), parts[0], output))
    return report


def _engine(report: Report, config: TrainingConfig, processes: int) -> None:
    run, engine = config.optimization, config.engine
    read_deepspeed(engine.deepspeed)
    check_compile(config)
    micro, chosen = accumulation(config, processes), engine.activation_checkpointing
    kind = f"adapters of rank {config.lora.r}" if config.lora else "all of the language model"
    report.lines += [
        f"trained     the projector and {kind}; the encoder is frozen",
        f"batch       {run.batch_size:,} samples: {run.micro_batch_size} at a time, {micro} times, on {processes} "
        f"process{'es' if processes > 1 else ''}",
        f"engine      {engine.precision}, DeepSpeed {engine.deepspeed}, activation checkpointing "
        f"{chosen if isinstance(chosen, str) else 'on' if chosen else 'off'}",
    ]


def _data(report: Report, config: TrainingConfig) -> Selected:
    selected = select_pairs(config.data, config.study.inputs)
    report.lines.append(f"{'pairs':<12}{'split':<8}{'images':>10}{'subjects':>10}   paper")
    for split, published in _PAPER.items():
        rows = [selected.pairs[number].row for number in selected.of(split)]
        subjects = len({(row.dataset, row.subject) for row in rows if row.subject})
        line = f"{'':<12}{split:<8}{len(rows):>10,}{f'{subjects:,}' if subjects else 'unknown':>10}"
        report.lines.append(f"{line}   {published:,} images")
    if selected.dropped:
        left_out = ", ".join(f"{reason} {number:,}" for reason, number in selected.dropped.items())
        report.lines.append(f"{'':<12}left out: {left_out}")
    if inputs := config.study.inputs:
        given = ", ".join(f"{name} {sum(name in pair.context.given for pair in selected.pairs):,}" for name in inputs)
        report.lines.append(f"{'inputs':<12}{given}; images in all {len(selected.images.rows):,}")
    if not selected.of("val"):
        report.warnings.append("there is no pair in the split val: nothing is watched while training")
    report.attempt(lambda: report.check_files(selected.images.rows, config.data.max_unreadable))
    report.attempt(lambda: disjoint_files(selected.rows))
    return selected


def _parts(config: TrainingConfig, texts: Sequence[str], offline: bool) -> _Parts:
    """Sizes, tokenizer and prompt, from configuration files alone."""
    from llava_rad.model.assemble import check_length, read_tokens

    model = config.model
    if model.checkpoint is not None:
        folder = open_checkpoint(model.checkpoint, offline=offline)
        settings = LlavaRadConfig.load(folder)
        words = _json(folder / LANGUAGE_MODEL / "config.json")
        tokens = read_tokens(folder / LANGUAGE_MODEL, words)
        encoder = stored_sizes(folder / ENCODER).config
        return _Parts(encoder, words, settings.image_tokens, tokens, Prompted.of(settings, tokens), settings)
    vision = sizes(model.encoder, kind=model.encoder_kind, offline=offline)
    recipe = recipe_named(model.recipe or vision.recipe)
    image_tokens = tokens_of_patches(recipe.size, vision.patch_size)
    if model.language_model is None:
        tokens = make_tokens(model.scratch, texts, Prompt())
        words = llama_config(model.scratch, tokens, config.data.max_length).to_dict()
    else:
        patterns = ("config.json", "tokenizer*", "generation_config.json")
        folder = fetch(model.language_model, patterns=patterns, offline=offline)
        words = _json(folder / "config.json")
        check_language_model(words, f"the language model {model.language_model}")
        tokens = read_tokens(folder, words)
    before, after = Prompt().encode(tokens.tokenizer, tokens.ids.bos)
    if model.language_model is not None:
        check_length(image_tokens, len(before) + len(after), GenerationDefaults().max_new_tokens, words)
    prompt = Prompted(tuple(before), tuple(after), image_tokens)
    settings = LlavaRadConfig(name=config.name, image_tokens=image_tokens, recipe=recipe.to_dict(), tokens=tokens.ids)
    return _Parts(vision.config, words, image_tokens, tokens, prompt, settings)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"{path.parent.name}/{path.name} is missing or no JSON object")
    return found


def _disk(report: Report, config: TrainingConfig, images: int, parts: _Parts, output: Path) -> None:
    recipe = recipe_of(config, offline=True)
    width = int(parts.language_model["hidden_size"])
    total, adapters = language_model_parameters(parts.language_model, config.lora)
    projector = parameters_of(lambda: Projector(int(parts.encoder["hidden_size"]), width))
    size = checkpoint_bytes(config, projector + (adapters if config.lora else total), total if config.lora else 0)
    report.check_disks(
        [
            cache_need(images, recipe.side, cache_folder(config, output)),
            checkpoints_need(config.engine.keep_checkpoints + 1, size, output / "checkpoints"),
        ]
    )


def _cost(
    report: Report,
    config: TrainingConfig,
    selected: Selected,
    parts: _Parts,
    processes: int,
    tflops: float | None,
) -> None:
    pairs, study = selected.pairs, config.study
    samples: Mapping[str, Samples | StudySamples]
    if study.inputs:
        check_positions(config, parts.language_model)
        layout = Layout.of(study_settings(parts.settings, study), parts.tokens)
        everything = range(len(selected.images.rows))
        samples, dropped = study_samples(pairs, selected.images, everything, layout, study, config.data, config.seed)
    else:
        samples, dropped = tokenise(pairs, range(len(pairs)), parts.tokens, parts.prompt, config.data)
    train = samples["train"]
    steps = total_steps(config, len(train), processes)
    report.lines += _lengths(train, dropped, config.data.max_length)
    run = config.optimization
    report.lines.append(
        f"schedule    {steps:,} steps, {steps * run.batch_size / len(train):.1f} passes; learning rate {run.lr:.3g} "
        f"after {warmup_steps(config, steps):,} steps, then cosine to 0"
    )
    mean = float(train.lengths.mean())
    images = train.mean_images() if isinstance(train, StudySamples) else 1.0
    answer = train.supervised() / len(train)
    sizes = Sizes(parts.encoder, parts.language_model, parts.image_tokens, mean, answer, images)
    longest = replace(sizes, length=float(train.lengths.max()))
    decided = decide_recomputation(config, longest, processes, gpu_memory() or available_memory("cpu"))
    if config.engine.activation_checkpointing == "auto":
        recomputed = "recomputed in the backward pass" if decided.engine.activation_checkpointing else "kept"
        report.lines.append(f"blocks      activations are {recomputed} (auto)")
    config = decided
    cost = cost_of(config, sizes, processes)
    _print_cost(report, cost)
    operations = steps * run.batch_size * cost.tera_flops
    each = f"{flop(cost.tera_flops)} a sample"
    report.tell_time(operations, processes, each, precision=config.engine.precision, tflops=tflops)
    report.check_memory(
        cost.memory,
        "lower optimization.micro_batch_size, or set engine.deepspeed=zero3 or zero3-offload, or lora={}",
    )
    if config.engine.deepspeed != "none":
        try:
            import deepspeed  # noqa: F401
        except ImportError:
            report.problems.append(
                LlavaRadError("engine.deepspeed needs the package deepspeed", hint='pip install "llava-rad[train]"')
            )


def _lengths(train: Samples | StudySamples, dropped: dict[str, int], longest: int) -> list[str]:
    left_out = "".join(f"; {reason}: {number:,} left out" for reason, number in dropped.items())
    return [
        f"tokens      {train.lengths.mean():,.0f} a sample, at most {train.lengths.max():,} of {longest:,}; "
        f"{train.supervised():,} with a loss{left_out}"
    ]


def _print_cost(report: Report, cost: Cost) -> None:
    host = f"; {gigabytes(cost.host)} of main memory" if cost.host else ""
    report.lines += [
        f"parameters  encoder {cost.encoder:,}, projector {cost.projector:,}, language model {cost.language_model:,}; "
        f"trained {cost.trained:,}",
        f"memory      about {gigabytes(cost.memory)} for each process: weights, gradients and optimiser "
        f"{gigabytes(cost.weights)}, activations {gigabytes(cost.activations)}, logits {gigabytes(cost.logits)}{host}",
    ]
