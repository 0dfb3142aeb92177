"""Lungs and six lung zones on MIMIC-CXR images (paper, D.2): masks of Chen et al. 2022, boxes of Chest ImaGenome.

The folder has three PhysioNet projects side by side, each with or without a folder for its version: ``mimic-cxr-jpg``
(or ``mimic-cxr``), ``lung-segment-mimic-cxr``, ``chest-imagenome``; with ``mimiciv`` there too, rows have attributes.

``lung-segment-mimic-cxr``: PNG files with the image's dicom_id in their names, not 0 in both lungs (or with "left" and
"right" in their paths: one for each). ``chest-imagenome``: ``silver_dataset/scene_graph/ID_SceneGraph.json``, whose
``objects`` have ``bbox_name`` ("left upper lung zone": the patient's left) and ``original_x1`` ... ``original_y2`` in
pixels of the original image. A zone is its lung's mask inside its box.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.datasets import mimic_cxr, mimic_iv
from encoder.datasets.manifest import Row
from encoder.datasets.mask_decoding import Box, from_boxes, sides
from encoder.datasets.masks import Draw, MaskFiles, naming
from encoder.datasets.tables import project
from encoder.errors import LlavaRadError
from encoder.json_files import read_json

if TYPE_CHECKING:
    from encoder.datasets.mask_decoding import Mask

OF = "MIMIC-CXR lungs"
ZONES = tuple(f"{side} {zone} lung zone" for side in ("left", "right") for zone in ("upper", "mid", "lower"))
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")
_REST = re.compile(r"rest|background|outside|non.?lung|without|heart", re.IGNORECASE)


def read(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Yield the images that have lung masks; masks ``left lung``, ``right lung``, ``left upper lung zone`` etc."""
    cxr = project(root, ("mimic-cxr-jpg", "mimic-cxr"), mimic_cxr.METADATA, of=OF)
    lungs = _lungs(project(root, ("lung-segment-mimic-cxr",), (), of=OF))
    graphs = project(root, ("chest-imagenome",), ("silver_dataset/scene_graph",), of=OF) / "silver_dataset/scene_graph"
    rows = [row for row in mimic_cxr.read(cxr) if row.image in lungs]
    if (root / "mimiciv").is_dir():
        rows = mimic_iv.linked(rows, mimic_cxr.study_dates(cxr), root)
    for row in rows:
        with naming(OF, row.number):
            halves = _Halves(lungs[row.image], masks)
            draw: dict[str, Draw] = {f"{side} lung": partial(halves.half, side) for side in ("left", "right")}
            for zone, box in _boxes(graphs, row.image).items():
                draw[zone] = partial(halves.zone, zone.split()[0], box)
            drawn = masks.draw(row.path, row.image, draw)
        yield Row(
            row.path, row.dataset, row.subject, row.study, row.image, row.view, "", row.labels, row.number, drawn,
            row.attributes,
        )  # fmt: skip


class _Halves:
    """Both lungs of one image, read once when the first mask is drawn."""

    def __init__(self, files: list[Path], masks: MaskFiles) -> None:
        self._files, self._masks = files, masks
        self._halves: dict[str, Mask] | None = None

    def half(self, side: str, size: tuple[int, int]) -> Mask:
        if self._halves is None:
            both = [self._masks.read(file, size) for file in self._files]
            parted = sides(both[0] | both[-1])
            if parted is None:
                raise LlavaRadError("the mask does not show two lungs that a line separates")
            self._halves = {"left": parted[0], "right": parted[1]}
        return self._halves[side]

    def zone(self, side: str, box: Box, size: tuple[int, int]) -> Mask:
        return self.half(side, size) & from_boxes([box], size)


def _lungs(folder: Path) -> dict[str, list[Path]]:
    """Map images to their file of both lungs, or to their two files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        name = _ID.search(path.name)
        if name is not None and not _REST.search(path.relative_to(folder).as_posix().replace(name[0], "")):
            found.setdefault(name[0], []).append(path)
    for files in found.values():
        halves = {side for file in files for side in ("left", "right") if side in str(file.relative_to(folder)).lower()}
        if len(files) > 1 and not (len(files) == 2 and halves == {"left", "right"}):
            raise LlavaRadError(
                f"{OF}: some images have several masks", hint="one of both lungs, or a left and a right one, by name"
            )
    if not found:
        raise LlavaRadError(f"{OF}: there are no PNG files named by image in lung-segment-mimic-cxr")
    return found


def _boxes(folder: Path, image: str) -> Mapping[str, Box]:
    """Map zones to boxes; empty if the data set has no graph of the image."""
    file = folder / f"{image}_SceneGraph.json"
    file = file if file.is_file() else folder / "scene_graph" / file.name
    if not file.is_file():
        return {}
    try:
        objects = read_json(file)["objects"]
        corners = ("original_x1", "original_y1", "original_x2", "original_y2")
        boxes = {str(o["bbox_name"]): tuple(float(o[c]) for c in corners) for o in objects if o["bbox_name"] in ZONES}
    except (OSError, ValueError, KeyError, TypeError):
        raise LlavaRadError("the scene graph of the image is damaged") from None
    return {zone: (box[0], box[1], box[2], box[3]) for zone, box in boxes.items()}
