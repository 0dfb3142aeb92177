"""The model card of a trained checkpoint: what it was made of, and what it is not for."""

from __future__ import annotations

from typing import Any

from llava_rad.model.config import LlavaRadConfig
from llava_rad.training.config import TrainingConfig

_TEXT = """\
# {name}

> **Research use only. Not for clinical use.** Whatever this model writes is a draft for a radiologist to check.

Writes the Findings section for one frontal chest radiograph: a frozen image encoder, a two-layer projector and a
language model, in the directory format `llava-rad/1`. Made with `llava-rad train`.

| | |
|---|---|
| started from | {start} |
| trained | {trained} |
| data | {pairs} image-report pairs ({datasets}), watched on {val} |
| steps | {steps}, batches of {batch}, peak learning rate {lr:g} |
| precision | {precision}, DeepSpeed: {deepspeed} |
| preprocessing | `{recipe}` version {version} |

Assumptions where the paper is silent: {features}; LLaVA-1.5's Vicuna
conversation around the paper's instruction; reports with their case and punctuation; greedy decoding.

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
        recipe=settings.preprocessing.name,
        version=settings.preprocessing.version,
    )
