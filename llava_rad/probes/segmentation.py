"""Segmentation probes: Dice of structures by encoder and head, with the paper's table beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.probing.published import DICE, WORST_GROUP
from llava_rad.probes.folder import ProbeTable

if TYPE_CHECKING:
    from encoder.backbones.base import FrozenEncoder
    from encoder.preprocessing import Recipe
    from encoder.probing.segmentation.data import SegmentationSet
    from encoder.probing.segmentation.model import SegmentationConfig

Progress = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Sets:
    """Images and masks of different subjects, prepared by one recipe."""

    train: SegmentationSet
    val: SegmentationSet
    test: SegmentationSet


def probe(
    sets: Sets,
    encoder: FrozenEncoder | None,
    recipe: Recipe,
    structures: Sequence[str],
    config: SegmentationConfig,
    *,
    folder: Path,
    attributes: Sequence[str],
    few_shot: Sequence[int],
    overlays: int,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Train one head on one encoder and judge it.

    Args:
        sets: images.
        encoder: frozen; None for the U-Net.
        recipe: of the images.
        structures: which masks.
        config: how.
        folder: checkpoints, the head and overlays go there.
        attributes: of patients, to group by.
        few_shot: numbers of training images of the few-shot curve; none where empty.
        overlays: test images that are drawn.
        device: where to compute.
        progress: from what is done and how many steps it has to what is told of steps done.
    """
    from encoder.probing.segmentation.evaluate import evaluate, overlay_sheet, write_png
    from encoder.probing.segmentation.evaluate import few_shot as curve
    from encoder.probing.segmentation.model import keep_inputs, predict
    from encoder.probing.segmentation.train import head_layers, train_segmentation

    kept = None
    if encoder is not None and config.augmentation is None:  # then one pass of the encoder serves everything below
        parts = [part.images for part in (sets.train, sets.val, sets.test)]
        kept = keep_inputs(parts, encoder.to(device), recipe, head_layers(config), device, gib=config.cache_gib)
    epochs = progress(f"epochs ({config.head})", config.epochs)
    segmenter = train_segmentation(
        sets.train, sets.val, encoder, recipe, structures, config, lambda epoch: epochs(1),
        folder=folder, device=device, inputs=None if kept is None else (kept[0], kept[1]),
    )  # fmt: skip
    judged = None if kept is None else kept[2]
    found = evaluate(segmenter, encoder, sets.test, attributes=attributes, device=device, inputs=judged).to_dict()
    if overlays:
        import numpy as np

        chosen = np.arange(min(overlays, len(sets.test)))
        masks = predict(
            segmenter,
            encoder,
            sets.test.images[chosen],
            device=device,
            inputs=None if judged is None else judged.subset(chosen),
        )
        write_png(overlay_sheet(sets.test.images[chosen], sets.test.masks(chosen), masks), folder / "overlays.png")
    if few_shot:
        told = progress("few-shot runs", 3 * (1 + sum(number < len(sets.train) for number in few_shot)))
        points = curve(
            sets.train, sets.val, sets.test, encoder, recipe, structures, config, numbers=few_shot, device=device,
            progress=lambda point: told(1), inputs=kept,
        )  # fmt: skip
        found["few_shot"] = [point.to_dict() for point in points]
    return found


def table(found: Mapping[str, Mapping[str, Any]], sizes: tuple[int, ...], target: str | None) -> ProbeTable:
    """Dice as mean (standard deviation) over images for each structure, head and encoder.

    Args:
        found: "encoder, head" -> what :func:`probe` gave.
        sizes: training, validation and test images.
        target: structure of the paper's table 3 (``lungs``, ...) whose numbers stand beside, or None.
    """
    cells = [["", "n", *found]]
    first = next(iter(found.values()))
    for structure in first["structures"]:
        scores = [one["structures"][structure] for one in found.values()]
        cells.append([structure, f"{scores[0]['images']:,}", *map(_shown, scores)])
    cells.append(
        ["mean of each image", f"{first['together']['images']:,}", *(_shown(one["together"]) for one in found.values())]
    )
    for attribute, groups in first["groups"].items():
        for name in groups["groups"]:
            scores = [one["groups"][attribute]["groups"][name] for one in found.values()]
            cells.append([f"{attribute} {name}", f"{scores[0]['images']:,}", *map(_shown, scores)])
        worst = [one["groups"][attribute]["worst_group"] for one in found.values()]
        cells.append([f"worst {attribute}", "", *(name or "" for name in worst)])
    cells.append(["trainable parameters", "", *(f"{one['parameters']:,}" for one in found.values())])
    for row in first.get("few_shot", ()):
        if row["seed"] == first["few_shot"][0]["seed"]:
            cells.append(
                [f"{row['images']:,} training images", "", *(_few(one, row["images"]) for one in found.values())]
            )
    notes = [
        f"Dice x 100, mean (standard deviation) over test images that have the structure; {sizes[0]:,} training, "
        f"{sizes[1]:,} validation and {sizes[2]:,} test images of different subjects.",
    ]
    if first.get("few_shot"):
        notes.append("Few-shot rows: mean of each image's mean, lowest to highest of three draws.")
    if target is not None:
        notes.append(f"Paper (table 3), {target}: {_paper(target)}.")
    return ProbeTable("Segmentation on frozen features", cells, tuple(notes))


def heights(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Dice of each structure, head and encoder for the plot."""
    return {
        name: {structure: (100 * score["mean"], 100 * score["sd"]) for structure, score in one["structures"].items()}
        for name, one in found.items()
    }


def _paper(target: str) -> str:
    rows = [
        f"{name} {head} {values[target].mean:.1f} ({values[target].sd:.1f})" for (name, head), values in DICE.items()
    ]
    worst = WORST_GROUP["RAD-DINO"].get(target)
    return "; ".join(rows) + (f"; RAD-DINO linear, worst group by ethnicity {worst[1]:.1f}" if worst else "")


def _shown(score: Mapping[str, Any]) -> str:
    if score["mean"] is None:
        return "none"
    return f"{100 * score['mean']:.1f}" + ("" if score["sd"] is None else f" ({100 * score['sd']:.1f})")


def _few(one: Mapping[str, Any], images: int) -> str:
    means = [100 * row["dice"]["mean"] for row in one["few_shot"] if row["images"] == images]
    return f"{sum(means) / len(means):.1f} ({min(means):.1f} to {max(means):.1f})"
