"""Writing files that are the same bytes each time: gzip without a clock, sorted keys, fixed line ends."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .radiograph import Phantom

#: bit i of a truth mask; everything else that was drawn is in the last one
MASK_BITS = ("right_lung", "left_lung", "heart", "ribs", "effusion", "pneumothorax", "chest_tube", "other")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table; gzip-compressed when the name ends in .gz. None becomes an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with the line ends it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_image(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Writes a grey image: 8-bit PNG or JPEG, 16-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if path.suffix in (".jpg", ".jpeg"):
        image.save(path, quality=92)
    else:
        image.save(path, compress_level=1)


class Truth:
    """What no public data set says about its images: one JSON line and one mask per image, beside the layouts.

    truth/LAYOUT.jsonl has image (path below OUT), view, patient, findings, labels, report and mask;
    truth/LAYOUT/*.png are 8-bit images whose bit i belongs to MASK_BITS[i].
    """

    def __init__(self, out: Path, layout: str) -> None:
        self._out, self._layout = out, layout
        self._lines: list[str] = []

    def add(self, image: Path, phantom: Phantom, *, split: str = "") -> None:
        """Notes the truth of an image that was written below the output folder."""
        mask = np.zeros(phantom.shape, dtype=np.uint8)
        for name, area in phantom.masks.items():
            bit = MASK_BITS.index(name) if name in MASK_BITS else len(MASK_BITS) - 1
            mask[area] |= np.uint8(1 << bit)
        path = self._out / "truth" / self._layout / f"{len(self._lines):05d}.png"
        write_image(path, mask)
        patient = phantom.patient
        record: Mapping[str, Any] = {
            "image": image.relative_to(self._out).as_posix(),
            "split": split,
            "view": phantom.view,
            "patient": {
                "key": patient.key,
                "sex": patient.sex,
                "age": patient.age,
                "ethnicity": patient.ethnicity,
                "height": patient.height,
                "weight": patient.weight,
                "bmi": round(patient.bmi, 1),
            },
            "findings": [
                {"kind": f.kind, "side": f.side, "zone": f.zone, "size": round(f.size, 3)} for f in phantom.findings
            ],
            "regions": [{"kind": r.finding.kind, "side": r.finding.side, "box": list(r.box)} for r in phantom.regions],
            "labels": dict(phantom.report.labels),
            "report": phantom.report.findings,
            "impression": phantom.report.impression,
            "mask": path.relative_to(self._out).as_posix(),
        }
        self._lines.append(json.dumps(record, ensure_ascii=False))

    def close(self) -> int:
        """Writes the lines; returns the number of images."""
        write_text(self._out / "truth" / f"{self._layout}.jsonl", "".join(line + "\n" for line in self._lines))
        return len(self._lines)
