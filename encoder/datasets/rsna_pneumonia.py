"""RSNA Pneumonia Detection Challenge 2018, stage 2: 26,684 labelled images (DICOM), boxes of lung opacities.

``stage_2_train_labels.csv`` (``patientId``, ``x``, ``y``, ``width``, ``height``, ``Target``) has a row for each box, or
one row without a box; ``stage_2_detailed_class_info.csv`` one of three classes. ``stage_2_train_images/ID.dcm``. The
3,000 test images were published without labels and are not read. The images are NIH ChestX-ray14's under new names:
an encoder pre-trained on ChestX-ray14 has seen these patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.datasets.mask_decoding import Box, from_boxes
from encoder.datasets.masks import Draw, MaskFiles, naming
from encoder.datasets.tables import find, read_csv
from encoder.datasets.values import checked
from encoder.errors import LlavaRadError

OF = "RSNA Pneumonia"
CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")


def read(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Yield one row for each labelled image; the mask ``pneumonia`` is the union of its boxes."""
    images: dict[str, tuple[int, list[Box]]] = {}
    labels, classes = (
        find(root, "stage_2_train_labels.csv", of=OF),
        find(root, "stage_2_detailed_class_info.csv", of=OF),
    )
    columns = ("patientId", "x", "y", "width", "height", "Target")
    for number, row in enumerate(read_csv(labels, *columns, of=OF), 1):
        _, found = images.setdefault(row["patientId"], (number, []))
        if checked(row["Target"], ("0", "1"), f"{OF}: row {number}, column 'Target'") == "1":
            with naming(OF, number):
                found.append(_box(row))
    kinds = {row["patientId"]: row["class"] for row in read_csv(classes, "patientId", "class", of=OF)}
    for image, (number, found) in images.items():
        path = root / "stage_2_train_images" / f"{image}.dcm"
        draw: dict[str, Draw] = {"pneumonia": partial(from_boxes, found)} if found else {}
        with naming(OF, number):
            drawn = masks.draw(path, image, draw)
        kind = kinds.get(image)
        yield Row(
            path,
            dataset="rsna-pneumonia",
            subject=image,
            study=image,
            image=image,
            view="frontal",
            labels={"Pneumonia": float(bool(found))}
            | {name: None if kind is None else float(kind == name) for name in CLASSES},
            number=number,
            masks=drawn,
        )


def _box(row: dict[str, str]) -> Box:
    try:
        x, y, width, height = (float(row[name]) for name in ("x", "y", "width", "height"))
    except ValueError:
        raise LlavaRadError("the box is damaged: a side is not a number") from None
    return x, y, x + width, y + height
