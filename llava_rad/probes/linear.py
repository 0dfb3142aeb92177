"""Linear probes of encoders on one manifest, with the paper's column beside them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from encoder.probing.published import Columns, column
from llava_rad.probes.folder import ProbeTable

if TYPE_CHECKING:
    import torch

    from encoder.backbones.base import FrozenEncoder
    from encoder.preprocessing import Recipe
    from encoder.probing.linear import LinearConfig, LinearResult, Split

Protocol = Literal["paper", "cached", "logistic"]
Progress = Callable[[str, int], Callable[[int], None]]
PROTOCOLS: Final = {
    "paper": "AdamW, lr 5e-5, 100 epochs, batch 96, augmented images, 5 seeds (paper, E.3.1)",
    "cached": "the same on vectors that are computed once, without augmentation",
    "logistic": "penalised logistic regression on standardised vectors, penalty by cross-validation",
}
MACRO: Final = "macro"


@dataclass(frozen=True)
class Work:
    """What one probe needs.

    Attributes:
        split: images and labels.
        protocol: how the probe is fitted.
        config: of its training.
        cache: folder for vectors and prepared images.
        batch_size: images of the encoder at a time.
        device: of the encoder.
        dtype: of the encoder where vectors are computed once.
    """

    split: Split
    protocol: Protocol
    config: LinearConfig
    cache: Path
    batch_size: int
    device: str
    dtype: torch.dtype


def probe(encoder: FrozenEncoder, recipe: Recipe, work: Work, progress: Progress) -> LinearResult:
    """Fit and judge the probe of one encoder."""
    import torch

    from encoder.probing import linear
    from encoder.probing.linear import AugmentedVectors
    from encoder.probing.vectors import vectors

    split = work.split

    def fixed(rows: Sequence[Any], what: str) -> Any:
        told = progress(f"vectors ({what})", len(rows))
        return vectors(
            encoder, rows, recipe, cache=work.cache, batch_size=work.batch_size, device=work.device, dtype=work.dtype,
            progress=told,
        )  # fmt: skip

    judged = fixed(split.judged, split.judged_on)
    if work.protocol == "logistic":
        return linear.logistic(split, fixed(split.train, "train"), judged)
    epochs = progress("epochs", work.config.epochs * len(work.config.seeds))
    if work.protocol == "cached":
        images = torch.from_numpy(fixed(split.train, "train"))
        return linear.train(split, lambda epoch, batch: images[batch], judged, work.config, progress=epochs)
    told = progress("images (train)", len(split.train))
    source = AugmentedVectors(encoder, split.train, recipe, work.cache, device=work.device, progress=told)
    return linear.train(split, source, judged, work.config, progress=epochs)


def facts(result: LinearResult) -> dict[str, Any]:
    """What is kept of a result: no log-odds, which belong to single images."""
    content = {name: value for name, value in asdict(result).items() if name != "odds"}
    return content | {"macro": {name: result.macro(name) for name in ("auprc", "auroc")}}


def table(found: Mapping[str, Mapping[str, Any]], split: Split, protocol: str, dataset: str) -> ProbeTable:
    """Mean (standard deviation) of AUPRC and AUROC for each label and encoder.

    Args:
        found: encoder -> what :func:`facts` gave.
        split: what was judged.
        protocol: of :data:`PROTOCOLS`.
        dataset: whose published numbers stand beside.
    """
    published = column(dataset)
    head = ["label", "positives", *(f"{name} {what}" for name in found for what in ("AUPRC", "AUROC"))]
    cells = [[*head, *(["paper: RAD-DINO AUPRC"] if published else [])]]
    first = next(iter(found.values()))
    for label in (*split.labels, MACRO):
        numbers = [
            _shown(one["macro"][what] if label == MACRO else one[what][label])
            for one in found.values()
            for what in ("auprc", "auroc")
        ]
        positives = "" if label == MACRO else f"{first['positives'][label]:,}"
        cells.append([label, positives, *numbers, *([_paper(published, label)] if published else [])])
    notes = [
        f"{len(split.train):,} training images, {len(split.judged):,} judged ({split.judged_on}). x 100, "
        "mean (standard deviation over seeds).",
        f"Protocol {protocol}: {PROTOCOLS[protocol]}.",
    ]
    if split.left_out:
        notes.append(
            f"Left out, since they are not both present and absent on both sides: {', '.join(split.left_out)}."
        )
    return ProbeTable(f"Linear probe: {dataset or 'manifest'}", cells, tuple(notes))


def heights(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """AUROC of each label and encoder for the plot."""
    return {
        name: {label: _moments(values) for label, values in {**one["auroc"], MACRO: one["macro"]["auroc"]}.items()}
        for name, one in found.items()
    }


def _moments(values: Sequence[float]) -> tuple[float, float]:
    return 100 * statistics.mean(values), 100 * (statistics.stdev(values) if len(values) > 1 else 0.0)


def _shown(values: Sequence[float]) -> str:
    mean, sd = _moments(values)
    return f"{mean:.1f} ({sd:.1f})" if len(values) > 1 else f"{mean:.1f}"


def _paper(published: Columns, label: str) -> str:
    value = next((value for name, value in published.items() if name.lower() == label.lower()), None)
    if value is None:
        return ""
    return f"{value.mean:.1f}" + ("" if value.sd is None else f" ({value.sd:.1f})")
