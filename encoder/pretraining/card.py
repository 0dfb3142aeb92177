"""The model card of an exported encoder: what it is, what it was trained on in numbers, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from encoder.pretraining.config import PretrainingConfig
from encoder.pretraining.initialisation import source_in_words

_TEXT = """---
library_name: transformers
pipeline_tag: image-feature-extraction
tags: [chest-x-ray, radiology, dinov2, rad-dino]
---

# {name}

A vision transformer for chest radiographs, trained without labels by self-distillation (DINOv2; recipe of RAD-DINO,
Pérez-García et al. 2024, arXiv:2401.10815). This is the teacher's backbone.

**For research only.** Not a medical device, not for clinical use, and not validated for any diagnosis. The weights may
be bound by the terms of use of the images below.

## Trained on

{datasets}

## How

{facts}
{scores}
## Use

```python
import torch
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained(FOLDER)
model = AutoModel.from_pretrained(FOLDER)
with torch.inference_mode():
    tokens = model(**processor(image, return_tensors="pt")).last_hidden_state
cls, patches = tokens[:, 0], tokens[:, 1:]
```

`image` is an 8-bit picture whose darkest and brightest pixels are 0 and 255. The processor cuts the values of 16-bit
pictures off without a word: scale them first. `encoder.backbones.base.RadDino.from_pretrained(FOLDER)` gives the same
features.

| file | contents |
|---|---|
| `config.json`, `model.safetensors` | Hugging Face's `Dinov2Model`, key names as microsoft/rad-dino publishes them |
| `preprocessor_config.json` | its image processor |
| `backbone_compatible.safetensors` | the same weights with DINOv2's own key names (torch.hub, timm) |
| `dino_head.safetensors` | the teacher's projection head, to continue pre-training; where present |
"""


def describe(
    config: PretrainingConfig,
    datasets: Mapping[str, tuple[int, int]],
    *,
    step: int,
    scores: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What a card says of a run. No path and no name of a file is among it.

    Args:
        config: of the run.
        datasets: name -> subjects (0 where not known) and images trained on.
        step: of the exported teacher.
        scores: of the probes of this teacher, name -> value.
    """
    crops, optimization = config.crops, config.optimization
    images = sum(count for _, count in datasets.values())
    seen = step * optimization.batch_size
    facts = {
        "started from": source_in_words(config),
        "steps": f"{step:,} of batch size {optimization.batch_size:,}",
        "images seen": f"{seen:,}" + (f", {seen / images:.1f} times each" if images else ""),
        "global crops": f"2 of {crops.global_size} px, {crops.crop_by} {crops.global_scale[0]}-{crops.global_scale[1]}",
        "local crops": f"{crops.local_crops} of {crops.local_size} px, {crops.crop_by} "
        f"{crops.local_scale[0]}-{crops.local_scale[1]}",
        "prototypes": f"{config.head.prototypes:,}",
        "loss weights": f"DINO {config.loss.dino:g}, iBOT {config.loss.ibot:g}, KoLeo {config.loss.koleo:g}",
        "seed": str(config.seed),
        "chosen": "the step with the best linear probe" if config.probe.select == "probe" else "the last step",
    }
    return {"name": config.name, "datasets": dict(datasets), "facts": facts, "scores": dict(scores or {})}


def as_markdown(card: Mapping[str, Any]) -> str:
    """A card as README.md.

    Args:
        card: of :func:`describe`.
    """
    counts: Mapping[str, tuple[int, int]] = card.get("datasets", {})
    rows = [
        (name, f"{subjects:,}" if subjects else "unknown", f"{images:,}") for name, (subjects, images) in counts.items()
    ]
    datasets = _table(("data set", "subjects", "images"), rows) if rows else "Not stated."
    scores: Mapping[str, float] = card.get("scores", {})
    measured = ""
    if scores:
        measured = (
            "\n## Frozen probes\n\n" + _table(("probe", "value"), [(n, f"{v:.4f}") for n, v in scores.items()]) + "\n"
        )
    facts = _table(("what", "value"), list(card.get("facts", {}).items()))
    return _TEXT.format(name=_plain(card["name"]), datasets=datasets, facts=facts, scores=measured)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(cell: object) -> str:
    """One line without the characters that end a cell."""
    return " ".join(str(cell).split()).replace("|", "\\|")
