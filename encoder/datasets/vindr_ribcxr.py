"""VinDr-RibCXR 1.0.0: 245 radiographs with the outlines of twenty ribs, R1 to R10 and L1 to L10.

``Annotations/train/Vindr_RibCXR_train_mask.json``: ``{"img": {"0": "data/train/img/VinDr_RibCXR_train_000.png", ...},
"R1": {"0": [{"x": 1.5, "y": 2.0}, ...], ...}, ...}``, and the same for ``val``. The official parts are 196 training
images and 49 called val, which are the test images as in the paper (E.3.2). One image is one subject. R is the
patient's right. The layout of the publishers' code (vinbigdata-medical) is read too:
``data/train/Vindr_RibCXR_train_mask.json`` beside ``data/train/img``; the folder given holds ``data``, or is it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from encoder.datasets.manifest import Row
from encoder.datasets.mask_decoding import from_outline
from encoder.datasets.masks import Draw, MaskFiles, naming
from encoder.datasets.tables import find
from encoder.errors import LlavaRadError
from encoder.json_files import read_json

RIBS = tuple(f"{side}{number}" for side in "RL" for number in range(1, 11))
OF = "VinDr-RibCXR"


def read(root: Path, masks: MaskFiles, seed: int) -> Iterator[Row]:
    """Yield the images of both parts; every outlined rib is a mask of its own."""
    number = 0
    for part, split in (("train", "train"), ("val", "test")):
        file = f"Vindr_RibCXR_{part}_mask.json"
        names = (f"Annotations/{part}/{file}", f"data/{part}/{file}", f"{part}/{file}", file)
        table = _table(find(root, *names, of=OF))
        for index, name in table["img"].items():
            number += 1
            path = root / str(name)
            if not path.is_file() and (inside := root / str(name).removeprefix("data/")).is_file():
                path = inside
            with naming(OF, number):
                outlines = {rib: _points(table[rib][index]) for rib in RIBS if table.get(rib, {}).get(index)}
                ribs: dict[str, Draw] = {rib: partial(from_outline, points) for rib, points in outlines.items()}
                drawn = masks.draw(path, path.stem, ribs)
            yield Row(path, "vindr-ribcxr", path.stem, "", path.stem, "frontal", split, number=number, masks=drawn)


def _table(file: Path) -> dict[str, dict[str, Any]]:
    try:
        table = read_json(file)
    except (OSError, ValueError):
        raise LlavaRadError(f"{OF}: its table cannot be read as JSON") from None
    if not isinstance(table, dict) or not all(isinstance(part, dict) for part in table.values()) or "img" not in table:
        raise LlavaRadError(f"{OF}: its table has no images under 'img'")
    return table


def _points(outline: Any) -> list[tuple[float, float]]:
    try:
        return [(float(point["x"]), float(point["y"])) for point in outline]
    except (TypeError, KeyError, ValueError):
        raise LlavaRadError("the outline is damaged: it is not a list of x and y") from None
