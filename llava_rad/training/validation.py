"""Check a run's configuration, data, parts and cost without training (``train --validate``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from encoder.backbones.base import tokens_of_patches
from encoder.backbones.loading import sizes, stored_sizes
from encoder.datasets.splits import disjoint_files
from encoder.errors import LlavaRadError, ModelError
from encoder.hub import fetch
from encoder.json_files import read_json
from encoder.preprocessing import recipe_named
from encoder.runs.preflight import (
    Report,
    available_memory,
    cache_need,
    checkpoints_need,
    flop,
    gpu_memory,
    parameters_of,
)
from encoder.units import gigabytes
from llava_rad.conversion.published import open_checkpoint
from llava_rad.model.checkpoint import ENCODER, LANGUAGE_MODEL
from llava_rad.model.config import LlavaRadConfig, check_language_model
from llava_rad.model.projector import Projector
from llava_rad.training.config import TrainingConfig, accumulation, total_steps, warmup_steps
from llava_rad.training.cost import (
    Cost,
    Sizes,
    cost_of,
    decide_recomputation,
    language_model_parameters,
    sizes_of,
)
from llava_rad.training.data import (
    Prompted,
    Samples,
    Selected,
    cache_folder,
    section_settings,
    select_pairs,
    target_text,
    tokenise,
)
from llava_rad.training.deepspeed_config import check_compile, checkpoint_bytes, read_deepspeed
from llava_rad.training.initial import llama_config, make_tokens, recipe_of
from llava_rad.training.studies import (
    Layout,
    StudySamples,
    check_positions,
    study_samples,
    study_settings,
    whole_prompt,
)

_PAPER = {"train": 146_909, "val": 7_250}


class _Parts(NamedTuple):
    encoder: Mapping[str, Any]
    language_model: dict[str, Any]
    image_tokens: int
    tokens: Any
    prompt: Prompted
    settings: LlavaRadConfig


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
    sections = config.data.sections
    texts = [target_text(pair, sections) for pair in found[0].pairs if pair.row.split == "train"] if found else []
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
    if "impression" in config.data.sections:
        number = sum(bool(pair.context.impression) for pair in selected.pairs)
        report.lines.append(f"{'sections':<12}findings, and the impression of {number:,} pairs")
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
        settings = section_settings(LlavaRadConfig.load(folder), config.data.sections)
        words = _json(folder / LANGUAGE_MODEL / "config.json")
        tokens = read_tokens(folder / LANGUAGE_MODEL, words)
        encoder = stored_sizes(folder / ENCODER).config
        return _Parts(encoder, words, settings.image_tokens, tokens, Prompted.of(settings, tokens), settings)
    vision = sizes(model.encoder, kind=model.encoder_kind, offline=offline)
    recipe = recipe_named(model.recipe or vision.recipe)
    image_tokens = tokens_of_patches(recipe.size, vision.patch_size)
    settings = LlavaRadConfig(name=config.name, image_tokens=image_tokens, recipe=recipe.to_dict())
    settings = section_settings(settings, config.data.sections)
    if model.language_model is None:
        conversation = whole_prompt(settings.conversation, config.study)
        tokens = make_tokens(model.scratch, texts, conversation, settings.sections)
        words = llama_config(model.scratch, tokens, config.data.max_length).to_dict()
    else:
        patterns = ("config.json", "tokenizer*", "generation_config.json")
        folder = fetch(model.language_model, patterns=patterns, offline=offline)
        words = _json(folder / "config.json")
        check_language_model(words, f"the language model {model.language_model}")
        tokens = read_tokens(folder, words)
    settings = settings.model_copy(update={"tokens": tokens.ids})
    prompt = Prompted.of(settings, tokens)
    if model.language_model is not None:
        check_length(image_tokens, prompt.length - image_tokens, settings.generation.max_new_tokens, words)
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
    sizes, largest = sizes_of(parts.encoder, parts.language_model, parts.image_tokens, train)
    decided = decide_recomputation(config, largest, processes, gpu_memory() or available_memory("cpu"))
    if config.engine.activation_checkpointing == "auto":
        recomputed = "recomputed in the backward pass" if decided.engine.activation_checkpointing else "kept"
        report.lines.append(f"blocks      activations are {recomputed} (auto)")
    config = decided
    cost, most = cost_of(config, sizes, processes), cost_of(config, largest, processes)
    _print_cost(report, most)
    operations = steps * run.batch_size * cost.tera_flops
    each = f"{flop(cost.tera_flops)} a sample"
    rate = report.tell_time(operations, processes, each, precision=config.engine.precision, tflops=tflops)
    if largest.images > 1:
        report.lines += _by_images(config, sizes, int(largest.images), processes, rate)
    report.check_memory(
        most.memory,
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


def _by_images(config: TrainingConfig, sizes: Sizes, most: int, processes: int, rate: float) -> list[str]:
    """Cost of samples with the mean sample's texts and one image, two and so on.

    Args:
        config: the run.
        sizes: of the mean sample.
        most: largest number of images.
        processes: number of processes that train.
        rate: TFLOP/s of each.
    """
    lines = [f"{'images':<12}{'tokens':>8}{'memory':>12}{'a sample':>14}{'seconds':>10}"]
    for number in range(1, most + 1):
        one = sizes.with_images(number)
        cost = cost_of(config, one, processes)
        lines.append(
            f"{number:>6}{'':<6}{one.length:>8,.0f}{gigabytes(cost.memory):>12}{flop(cost.tera_flops):>14}"
            f"{cost.tera_flops / rate:>10.3g}"
        )
    return lines


def _print_cost(report: Report, cost: Cost) -> None:
    host = f"; {gigabytes(cost.host)} of main memory" if cost.host else ""
    report.lines += [
        f"parameters  encoder {cost.encoder:,}, projector {cost.projector:,}, language model {cost.language_model:,}; "
        f"trained {cost.trained:,}",
        f"memory      at most about {gigabytes(cost.memory)} for each process: weights, gradients and optimiser "
        f"{gigabytes(cost.weights)}, activations {gigabytes(cost.activations)}, logits {gigabytes(cost.logits)}{host}",
    ]
