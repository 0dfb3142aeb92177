"""VinDr-RibCXR 1.0.0: PNG images and the outlines of twenty ribs.

Source of the facts: public readers; data/<split>/img/VinDr_RibCXR_<split>_000.png and
Annotations/<split>/Vindr_RibCXR_<split>_mask.json with {"img": {"0": path}, "R1": {"0": [{"x", "y"}, ...]}, ...}.
The splits are called train and val.
"""

from __future__ import annotations

import json
from typing import Any

from ..cohort import Layout, Request, studies
from ..files import write_image, write_text

RIBS = tuple(f"{side}{number}" for side in "RL" for number in range(1, 11))


def write(request: Request) -> None:
    """Writes vindr-ribcxr/."""
    root = request.out / "vindr-ribcxr"
    tables: dict[str, dict[str, dict[str, Any]]] = {
        s: {"img": {}, **{rib: {} for rib in RIBS}} for s in ("train", "val")
    }
    prevalence = {"pleural effusion": 0.0, "rib fracture": 0.0, "pneumothorax": 0.0}
    for study in studies(
        request, "vindr-ribcxr", views=((("PA",), 1.0),), normal=0.7, prevalence=prevalence, shares=(0.8, 0.2)
    ):
        split = "train" if study.split == "train" else "val"
        table = tables[split]
        index = str(len(table["img"]))
        name = f"data/{split}/img/VinDr_RibCXR_{split}_{int(index):03d}.png"
        phantom = study.image(0, request.size, square=False)
        write_image(root / name, phantom.grey())
        request.truth.add(root / name, phantom, split=split)
        table["img"][index] = name
        for rib in RIBS:
            table[rib][index] = [{"x": round(float(x), 2), "y": round(float(y), 2)} for x, y in phantom.ribs[rib]]
    for split, table in tables.items():
        write_text(root / "Annotations" / split / f"Vindr_RibCXR_{split}_mask.json", json.dumps(table))


LAYOUT = Layout("vindr-ribcxr", "VinDr-RibCXR", write)
