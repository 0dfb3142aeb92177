"""Is everything there and does it fit? A run's configuration, data, parts and cost, looked at without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from encoder.backbones.base import tokens_of_patches
from encoder.backbones.loading import sizes, stored_sizes
from encoder.errors import LlavaRadError, ModelError
from encoder.hub import fetch
from encoder.preprocessing import recipe_named
from encoder.pretraining.validation import Report, flop, gigabytes, gpu_memory, look_at_files
from llava_rad.conversion.published import open_checkpoint
from llava_rad.model.checkpoint import ENCODER, LANGUAGE_MODEL
from llava_rad.model.config import LlavaRadConfig
from llava_rad.model.prompt import Prompt
from llava_rad.reports.pairs import Pair
from llava_rad.training.config import TrainingConfig, accumulation, total_steps, warmup_steps
from llava_rad.training.data import Prompted, Samples, select_pairs, tokenise
from llava_rad.training.deepspeed_config import read_deepspeed
from llava_rad.training.estimate import SHARE_OF_RATE, Estimate, Sizes, estimate, matrix_rate

_PAPER = {"train": 146_909, "val": 7_250}


class _Parts(NamedTuple):
    encoder: Mapping[str, Any]
    language_model: dict[str, Any]
    image_tokens: int
    tokens: Any
    prompt: Prompted


def validate(config: TrainingConfig, *, processes: int = 1, offline: bool = False) -> Report:
    """Look at everything that a run needs.

    Args:
        config: the run.
        processes: as many as will train.
        offline: look for the parts in the cache only.

    Returns:
        Summary, warnings and problems; problems are kept, not raised, so that all are seen at once.
    """
    report = Report()
    report.lines.append(f"run         {config.name}, seed {config.seed}")
    report.attempt(lambda: _engine(report, config, processes))
    pairs: list[Pair] = []
    report.attempt(lambda: pairs.extend(_data(report, config)))
    parts: list[_Parts] = []
    texts = [pair.findings for pair in pairs if pair.row.split == "train"]
    report.attempt(lambda: parts.append(_parts(config, texts, offline)))
    if not report.problems:
        report.attempt(lambda: _cost(report, config, pairs, parts[0], processes))
    return report


def _engine(report: Report, config: TrainingConfig, processes: int) -> None:
    run, engine = config.optimization, config.engine
    read_deepspeed(engine.deepspeed)
    micro = accumulation(config, processes)
    kind = f"adapters of rank {config.lora.r}" if config.lora else "all of the language model"
    report.lines += [
        f"trained     the projector and {kind}; the encoder is frozen",
        f"batch       {run.batch_size:,} samples: {run.micro_batch_size} at a time, {micro} times, on {processes} "
        f"process{'es' if processes > 1 else ''}",
        f"engine      {engine.precision}, DeepSpeed {engine.deepspeed}, activation checkpointing "
        f"{'on' if engine.activation_checkpointing else 'off'}",
    ]


def _data(report: Report, config: TrainingConfig) -> list[Pair]:
    selected = select_pairs(config.data)
    report.lines.append(f"{'pairs':<12}{'split':<8}{'images':>10}{'subjects':>10}   paper")
    for split, published in _PAPER.items():
        rows = [selected.pairs[number].row for number in selected.of(split)]
        subjects = len({(row.dataset, row.subject) for row in rows if row.subject})
        line = f"{'':<12}{split:<8}{len(rows):>10,}{f'{subjects:,}' if subjects else 'unknown':>10}"
        report.lines.append(f"{line}   {published:,} images")
    if selected.dropped:
        left_out = ", ".join(f"{reason} {number:,}" for reason, number in selected.dropped.items())
        report.lines.append(f"{'':<12}left out: {left_out}")
    if not selected.of("val"):
        report.warnings.append("there is no pair in the split val: nothing is watched while training")
    look_at_files(report, [pair.row for pair in selected.pairs], config.data.max_unreadable)
    return selected.pairs


def _parts(config: TrainingConfig, texts: Sequence[str], offline: bool) -> _Parts:
    """Sizes, tokenizer and prompt, from configuration files alone."""
    from llava_rad.model.assemble import read_tokens
    from llava_rad.training.initial import llama_config, make_tokens

    model = config.model
    if model.checkpoint is not None:
        folder = open_checkpoint(model.checkpoint, offline=offline)
        settings = LlavaRadConfig.load(folder)
        words = _json(folder / LANGUAGE_MODEL / "config.json")
        tokens = read_tokens(folder / LANGUAGE_MODEL, words)
        encoder = stored_sizes(folder / ENCODER).config
        return _Parts(encoder, words, settings.image_tokens, tokens, Prompted.of(settings, tokens))
    vision = sizes(model.encoder, kind=model.encoder_kind, offline=offline)
    image_tokens = tokens_of_patches(recipe_named(model.recipe or vision.recipe).size, vision.patch_size)
    if model.language_model is None:
        tokens = make_tokens(model.scratch, texts, Prompt())
        words = llama_config(model.scratch, tokens, config.data.max_length).to_dict()
    else:
        patterns = ("config.json", "tokenizer*", "generation_config.json")
        folder = fetch(model.language_model, patterns=patterns, offline=offline)
        words = _json(folder / "config.json")
        tokens = read_tokens(folder, words)
    before, after = Prompt().encode(tokens.tokenizer, tokens.ids.bos)
    return _Parts(vision.config, words, image_tokens, tokens, Prompted(tuple(before), tuple(after), image_tokens))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"{path.parent.name}/{path.name} is missing or no JSON object")
    return found


def _cost(report: Report, config: TrainingConfig, pairs: Sequence[Pair], parts: _Parts, processes: int) -> None:
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
    sizes = Sizes(parts.encoder, parts.language_model, parts.image_tokens, mean, train.supervised() / len(train))
    cost = estimate(config, sizes, processes)
    _print_cost(report, cost)
    rate = matrix_rate(config.engine.precision)
    seconds = steps * run.batch_size * cost.tera_flops * 1e12 / (SHARE_OF_RATE * rate * processes)
    report.lines.append(
        f"time        about {_duration(seconds)} on {processes} like this one: {flop(cost.tera_flops)} a sample, at "
        f"{SHARE_OF_RATE:.0%} of the {rate / 1e12:.3g} TFLOP/s measured here"
    )
    available = gpu_memory()
    if available is not None and cost.memory > available:
        report.warnings.append(
            f"about {gigabytes(cost.memory)} are needed for each process, the GPU has {gigabytes(available)}: lower "
            "optimization.micro_batch_size, or set engine.deepspeed=zero3 or zero3-offload, or lora={}"
        )
    if config.engine.deepspeed != "none":
        try:
            import deepspeed  # noqa: F401
        except ImportError:
            report.problems.append(
                LlavaRadError("engine.deepspeed needs the package deepspeed", hint='pip install "llava-rad[train]"')
            )


def _lengths(train: Samples, dropped: dict[str, int], longest: int) -> list[str]:
    left_out = "".join(f"; {reason}: {number:,} left out" for reason, number in dropped.items())
    return [
        f"tokens      {train.lengths.mean():,.0f} a sample, at most {train.lengths.max():,} of {longest:,}; "
        f"{train.supervised():,} with a loss{left_out}"
    ]


def _print_cost(report: Report, cost: Estimate) -> None:
    host = f"; {gigabytes(cost.host)} of main memory" if cost.host else ""
    report.lines += [
        f"parameters  encoder {cost.encoder:,}, projector {cost.projector:,}, language model {cost.language_model:,}; "
        f"trained {cost.trained:,}",
        f"memory      about {gigabytes(cost.memory)} for each process: weights, gradients and optimiser "
        f"{gigabytes(cost.weights)}, activations {gigabytes(cost.activations)}, logits {gigabytes(cost.logits)}{host}",
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
