"""A trained backbone as a folder shaped like microsoft/rad-dino, for ``AutoModel``, timm, torch.hub and ourselves."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from encoder.backbones.base import RECIPE_KEY
from encoder.backbones.weight_names import to_hugging_face
from encoder.errors import LlavaRadError, ModelError
from encoder.preprocessing import Recipe, rad_dino
from encoder.pretraining.config import ModelConfig, PretrainingConfig
from encoder.pretraining.initialisation import HEAD_FILE, backbone_shapes, refuse_unequal, source_in_words

COMPATIBLE_FILE = "backbone_compatible.safetensors"
"""The backbone with official names, as microsoft/rad-dino has it beside ``model.safetensors``."""


def export(
    backbone: Mapping[str, torch.Tensor],
    config: ModelConfig,
    folder: Path,
    *,
    heads: Mapping[str, torch.Tensor] | None,
    image_size: int,
    card: Mapping[str, Any],
) -> None:
    """Write a backbone, its head and its image processor. An earlier export in the same place is replaced.

    Nothing appears under the folder's name before every file is on the disk and transformers has read the model back
    with no tensor missing or left over.

    Args:
        backbone: the teacher's tensors by their official names, on any device.
        config: its shape.
        folder: where to.
        heads: the teacher's DINO head (``mlp.*``, ``last_layer.weight_g`` and ``weight_v``) or None.
        image_size: side in pixels of the preprocessing recipe, which is RAD-DINO's: that of the global crops.
        card: what the model card says, see ``describe``.

    Raises:
        ModelError: if the tensors are not this model's, or are not finite.
        LlavaRadError: if the folder holds something else, or cannot be written.
    """
    refuse_unequal(backbone, backbone_shapes(config), "the tensors to export")
    for tensors, what in ((backbone, "backbone"), (heads or {}, "head")):
        odd = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if odd:
            raise ModelError(f"the {what} is not exported: {len(odd)} tensors are not finite, first {odd[0]}")
    if folder.exists() and not (folder / "config.json").is_file() and any(folder.iterdir()):
        raise LlavaRadError(f"the folder {folder.name} holds something that is not an exported model")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(temporary, backbone, config, heads, rad_dino(image_size), card)
        _replace(temporary, folder)
    except OSError as error:
        raise LlavaRadError(f"the model cannot be exported: {error.strerror or type(error).__name__}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(
    folder: Path,
    backbone: Mapping[str, torch.Tensor],
    config: ModelConfig,
    heads: Mapping[str, torch.Tensor] | None,
    recipe: Recipe,
    card: Mapping[str, Any],
) -> None:
    from transformers import Dinov2Config

    from encoder.backbones.dinov2 import RadDino

    official = _on_cpu(backbone)
    shape = config.model_dump(exclude={"layerscale_value"})  # of random initialisation only
    shape |= {"architectures": ["Dinov2Model"], "dtype": "float32", RECIPE_KEY: recipe.name}
    Dinov2Config(**shape).save_pretrained(folder)
    # Legacy names, which every version of transformers reads.
    _save(to_hugging_face(official), folder / "model.safetensors")
    _save(official, folder / COMPATIBLE_FILE)
    if heads is not None:
        _save(_on_cpu(heads), folder / HEAD_FILE)
    processor = json.dumps(processor_config(recipe), indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(processor, encoding="utf-8")
    (folder / "README.md").write_text(as_markdown(card, recipe.size), encoding="utf-8")
    RadDino.from_pretrained(folder, offline=True)


def processor_config(recipe: Recipe) -> dict[str, Any]:
    """``preprocessor_config.json`` as microsoft/rad-dino publishes it, at the size of the recipe.

    ``resample`` 3 is Pillow's bicubic, ``BitImageProcessor``'s own default.
    """
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": recipe.size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": recipe.size, "width": recipe.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [recipe.mean] * 3,
        "image_std": [recipe.std] * 3,
    }


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"format": "pt"})


def _replace(temporary: Path, folder: Path) -> None:
    """Flush everything to the disk and rename. Folders cannot be exchanged: the earlier one steps aside first."""
    for path in [temporary, *temporary.iterdir()]:  # temporary folders and safetensors files are private to their owner
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)
    aside = temporary.with_name(temporary.name + ".old")
    if folder.exists():
        folder.rename(aside)
    temporary.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor, model = AutoImageProcessor.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER).eval()
image = Image.open(FILE).convert("F")
image = np.asarray(image.resize([int({size} * side / min(image.size)) for side in image.size], Image.BICUBIC))
image = ((image - image.min()) * (255 / (float(image.max()) - float(image.min()))) + 0.5).astype(np.uint8)
inputs = processor(Image.fromarray(image).convert("RGB"), return_tensors="pt")
tokens = model(**inputs).last_hidden_state.detach()
cls, patches = tokens[:, 0], tokens[:, 1:]
```

`FILE` is a greyscale picture of 8 or 16 bits in which dense structures are bright. The lines in the middle are
necessary: the encoder was trained on images that are resized to {size} pixels and then scaled so that their darkest and
brightest pixels are 0 and 255 (preprocessing recipe `{recipe}`). The image processor alone does not scale, and cuts the
values of 16-bit pictures off. `llava-rad embed` also reads DICOM and gives the same features.

| file | contents |
|---|---|
| `config.json`, `model.safetensors` | Hugging Face's `Dinov2Model`, published key names, the preprocessing recipe |
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
    """Collect the contents of a model card. They hold no path and no file name.

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


def as_markdown(card: Mapping[str, Any], size: int) -> str:
    """A card as README.md.

    Args:
        card: of :func:`describe`.
        size: side of the prepared images in pixels.
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
    return _TEXT.format(
        name=_plain(card["name"]),
        datasets=datasets,
        facts=facts,
        scores=measured,
        size=size,
        recipe=rad_dino(size).name,
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(cell: object) -> str:
    """One line without the characters that end a cell."""
    return " ".join(str(cell).split()).replace("|", "\\|")
