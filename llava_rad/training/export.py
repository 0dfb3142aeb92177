"""The trained weights as a checkpoint directory: the encoder's files as they were, projector and language model new."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from encoder.backbones.base import first_line
from encoder.errors import LlavaRadError, ModelError
from encoder.hub import refused_packages
from llava_rad.model.checkpoint import ENCODER, LANGUAGE_MODEL, PROJECTOR, writing
from llava_rad.model.config import LlavaRadConfig
from llava_rad.model.llava_rad import greedy, load_llama
from llava_rad.training.config import TrainingConfig
from llava_rad.training.module import ReportLoss

_PROJECTOR, _LANGUAGE_MODEL = "projector.", "language_model."


def export(
    config: TrainingConfig,
    model: ReportLoss,
    state: dict[str, torch.Tensor],
    initial: Path,
    settings: LlavaRadConfig,
    folder: Path,
    facts: dict[str, Any],
) -> None:
    """Write the directory in one step.

    Args:
        config: the run.
        model: the trained module; its own tensors may be parts, those of ``state`` are whole.
        state: all of the module's weights by name.
        initial: the checkpoint that training started from.
        settings: of the trained checkpoint.
        folder: where to; replaced.
        facts: for the model card: ``steps``, ``pairs`` by split, ``datasets``, last ``losses``.

    Raises:
        LlavaRadError: if the disk refuses.
        ModelError: if weights are no longer finite.
    """
    from safetensors.torch import save_file

    odd = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if odd:
        raise ModelError(f"the trained weights are no longer finite (first {odd[0]}); the checkpoints are as they were")
    settings = settings.model_copy(update={"name": config.name, "files": {}})
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    try:
        with writing(folder, settings, force=True) as temporary:
            shutil.copytree(initial / ENCODER, temporary / ENCODER)
            save_file(_part(state, _PROJECTOR, dtype), temporary / PROJECTOR)
            words = _part(state, _LANGUAGE_MODEL, dtype)
            if config.lora is None:
                _save(model.language_model, words, settings, temporary / LANGUAGE_MODEL)
            elif config.lora.merge:
                _save_merged(model.language_model, words, settings, initial, temporary / LANGUAGE_MODEL, dtype)
            else:
                _save_adapter(config, model.language_model, words, temporary / LANGUAGE_MODEL)
            model.tokens.save(temporary / LANGUAGE_MODEL)
            (temporary / "README.md").write_text(write_card(config, settings, facts), encoding="utf-8")
    except OSError as error:
        raise LlavaRadError(f"the model could not be written: {error.strerror or first_line(error)}") from error


def _part(state: dict[str, torch.Tensor], prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _save(language_model: Any, state: dict[str, torch.Tensor], settings: LlavaRadConfig, folder: Path) -> None:
    language_model.generation_config = greedy(settings.tokens)
    language_model.config.dtype = next(iter(state.values())).dtype
    language_model.save_pretrained(folder, state_dict=state)


def _save_merged(
    adapted: Any,
    state: dict[str, torch.Tensor],
    settings: LlavaRadConfig,
    initial: Path,
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """The adapters merged into the language model that training started from, in float32, where sums are most exact."""
    from peft import get_peft_model, set_peft_model_state_dict

    base = load_llama(initial / LANGUAGE_MODEL, "the language model", dtype=torch.float32)
    base.config.rope_parameters = adapted.get_base_model().config.rope_parameters
    with refused_packages():
        whole = get_peft_model(base, adapted.peft_config["default"])
    adapters = {name.replace(".default.", "."): tensor for name, tensor in state.items() if ".lora_" in name}
    result = set_peft_model_state_dict(whole, adapters)
    left = [name for name in result.missing_keys if ".lora_" in name] + list(result.unexpected_keys)
    if left:
        raise ModelError(f"the adapters do not fit the language model: {len(left)} differ, first {left[0]}")
    merged = whole.merge_and_unload().to(dtype)
    _save(merged, dict(merged.state_dict()), settings, folder)


def _save_adapter(config: TrainingConfig, adapted: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    adapted.peft_config["default"].base_model_name_or_path = config.model.language_model
    adapted.save_pretrained(folder, state_dict=state)
    (folder / "README.md").unlink(missing_ok=True)


_TEXT = """\
# {name}

> **Research use only. Not for clinical use.** Whatever this model writes is a draft for a radiologist to check.

Writes the {sections} for {inputs}: a frozen image encoder, a two-layer projector and a
language model, in the directory format `llava-rad/1`. Made with `llava-rad train`.

| | |
|---|---|
| started from | {start} |
| trained | {trained} |
| data | {pairs} image-report pairs ({datasets}), watched on {val} |
| steps | {steps}, batches of {batch}, peak learning rate {lr:g} |
| precision | {precision}, DeepSpeed: {deepspeed} |
| preprocessing | `{recipe}` version {version} |

{looks}Assumptions where the paper is silent: {features}; the prompt template
`{template}` around the paper's instruction; reports with their case and punctuation; greedy decoding.

What it was trained on decides under which terms it may be used and passed on. Whether its reports are right is not
measured here: `llava-rad evaluate` scores them.
"""


def write_card(config: TrainingConfig, settings: LlavaRadConfig, facts: dict[str, Any]) -> str:
    """The card's text.

    Args:
        config: the run.
        settings: of the checkpoint.
        facts: ``steps``, ``pairs`` by split, ``datasets``.
    """
    model = config.model
    language_model = model.language_model or "a small Llama with random weights"
    lora = f"the projector, and adapters of rank {config.lora.r} on the language model" if config.lora else None
    return _TEXT.format(
        name=config.name,
        start=model.checkpoint or f"{model.encoder} and {language_model}",
        trained=lora or "the projector and all of the language model; not the encoder",
        pairs=f"{facts['pairs']['train']:,}",
        val=f"{facts['pairs']['val']:,}",
        datasets=", ".join(facts["datasets"]) or "unnamed",
        steps=f"{facts['steps']:,}",
        batch=config.optimization.batch_size,
        lr=config.optimization.lr,
        precision=config.engine.precision,
        deepspeed=config.engine.deepspeed,
        features=settings.features,
        template=settings.prompt.template,
        sections="Findings and Impression sections" if settings.with_impression else "Findings section",
        inputs=", ".join(["one frontal chest radiograph", *(name.replace("_", " ") for name in config.study.inputs)]),
        looks=_looks(config.study.inputs, facts.get("losses", {})),
        recipe=settings.preprocessing.name,
        version=settings.preprocessing.version,
    )


def _looks(inputs: Sequence[str], losses: Mapping[str, float]) -> str:
    """Return a table of the loss with other inputs than a sample's own; "" if none was measured."""
    rows = [
        f"| {name.replace('_', ' ')} | {losses[f'val_loss_{name}']:.4f} | {losses[f'val_loss_other_{name}']:.4f} "
        f"| {losses[f'val_loss_without_{name}']:.4f} |"
        for name in inputs
        if f"val_loss_{name}" in losses
    ]
    if not rows:
        return ""
    head = "| loss on `val`, samples that have it | its own | another patient's | left out |"
    return "\n".join([head, "|---|---|---|---|", *rows]) + "\n\n"
