"""Time the sandboxed reader against highdicom and torchxrayvision, for each transfer syntax.

    python -m scripts.bench.reader --rounds 9 --json runs/reader.json

The image is RG1 of pydicom-data (1955 x 1841, 15 bits). "read" is the full-size radiograph through the sandbox,
"prepare" the 518-pixel model input through it; highdicom gives its display frame (modality, VOI, presentation),
torchxrayvision its scaled array, both in process. Minimum and median seconds of the rounds are given, and ratios to
"read". highdicom does not read big endian files. "two readers" prepares in two threads. Exits 1 where they disagree.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from encoder.preprocessing import RECIPES
from encoder.reader.sandbox import Reader
from scripts.bench.harness import Report, parser, require
from scripts.phantom.transfer_syntaxes import SYNTAXES, rewrite

COLUMNS = {"MB": ".1f", "s": ".4f", "least s": ".4f", "per s": ".1f", "x time": ""}
PLUGIN_UIDS = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
DECODER_DEPENDENCIES = dict.fromkeys(PLUGIN_UIDS, ("numpy", "imagecodecs"))  # pydicom's plugin interface


def is_available(uid: str) -> bool:
    """Return True if `decode_frame` decodes a transfer syntax; part of pydicom's plugin interface."""
    return uid in PLUGIN_UIDS


def decode_frame(source: bytes, runner: Any) -> bytearray:
    """Decode 12-bit or lossless JPEG to little-endian bytes, for the other readers.

    The only plugins that pydicom knows for them are GPL-3 or python-gdcm. Ours uses none, see
    ``encoder/reader/decoders.py``.
    """
    import imagecodecs

    pixels = imagecodecs.jpeg8_decode(source)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return bytearray(pixels.tobytes())


def calls(reader: Reader, path: Path) -> dict[str, Callable[[], Any]]:
    """The readers of one file: radiograph, model input, display frame 0..255, values scaled to -1024..1024."""
    import highdicom
    from torchxrayvision.utils import read_xray_dcm

    return {
        "read": lambda: reader.read(path),
        "prepare": lambda: reader.prepare(path, RECIPES["rad-dino"]),
        "highdicom": lambda: highdicom.imread(path).get_frame(
            1, apply_voi_transform=True, voi_output_range=(0.0, 255.0)
        ),
        "torchxrayvision": lambda: read_xray_dcm(path),
    }


def check(sides: dict[str, Callable[[], Any]]) -> None:
    """Require that all readers give the same image."""
    ours = sides["read"]()
    top = (1 << (ours.facts.bits_stored or 16)) - 1
    scaled = (2 * (ours.pixels / top) - 1) * 1024
    same = float(np.abs(scaled - sides["torchxrayvision"]()).max()) <= 2 * 2048 / top
    if "highdicom" in sides:
        levels = 4 if top == 255 else 1  # baseline JPEG: two decoders, and the window multiplies their difference
        same &= float(np.abs(ours.display().astype(np.float64) - sides["highdicom"]()).max()) <= levels
    require(same, f"{ours.facts.transfer_syntax}: the readers disagree")


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, rounds=9, quick="one round of three syntaxes").parse_args()
    names, rounds = (list(SYNTAXES)[:3], 1) if options.quick else (list(SYNTAXES), options.rounds)
    import data_store
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    for uid in PLUGIN_UIDS:
        if "jpeg8" not in get_decoder(uid).available_plugins:
            get_decoder(uid).add_plugin("jpeg8", (__name__, "decode_frame"))
    source = pydicom.dcmread(Path(data_store.__file__).parent / "data" / "RG1_UNCI.dcm")
    report = Report(options)
    with (
        tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool,
        Reader(timeout_s=60) as first, Reader(timeout_s=60) as second,
    ):  # fmt: skip
        report.table("syntaxes", COLUMNS, "per image; ratios to read")
        for name in names:
            path = Path(folder) / f"{name}.dcm"
            path.write_bytes(rewrite(source, name))
            sides = calls(first, path)
            if name == "explicit-be":
                del sides["highdicom"]
            check(sides)  # also warms up
            facts = {side: {"MB": path.stat().st_size / 1e6} for side in sides}
            report.race(sides, rounds, "read", facts=facts, prefix=f"{name}: ")
            two = [calls(reader, path)["prepare"] for reader in (first, second)]
            pair = {"two readers": lambda two=two: [*pool.map(lambda call: call(), two)]}
            report.race(pair, rounds, count=2, prefix=f"{name}: ")
    report.close()


if __name__ == "__main__":
    main()
