"""Writes a whole phantom data set: into a temporary folder beside the target, renamed when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .cohort import Request
from .files import Truth, write_text
from .layouts import LAYOUTS

_NOTE = (
    "Synthetic chest radiographs drawn by scripts/make_phantom.py: no patient, no hospital, no acquisition.\n"
    "Folder and column names follow the public data sets so that readers can be tested; the contents are invented.\n"
    "truth/ says what was drawn: findings, labels, boxes and masks per image.\n"
)


def make_dataset(
    out: Path,
    layouts: Sequence[str],
    *,
    studies: int = 200,
    size: int = 512,
    seed: int = 0,
    only: Sequence[str] | None = None,
    force: bool = False,
) -> dict[str, int]:
    """Writes the layouts below `out`; the same arguments give the same bytes.

    Args:
        out: target folder.
        layouts: keys of LAYOUTS.
        studies: per layout.
        size: image height in pixels.
        seed: of everything.
        only: findings that occur; None is all.
        force: replaces a folder that is not empty.

    Returns:
        layout -> number of images.

    Raises:
        FileExistsError: `out` is a file, or not empty and `force` is False. Nothing has been touched.
    """
    if out.exists() and not (out.is_dir() and (force or not any(out.iterdir()))):
        raise FileExistsError(f"{out} exists and is not an empty folder (--force replaces it)")
    work = out.parent / f".{out.name}.{os.getpid()}.part"
    counts: dict[str, int] = {}
    try:
        work.mkdir(parents=True)
        for name in layouts:
            truth = Truth(work, name)
            LAYOUTS[name].write(Request(work, studies, size, seed, truth, None if only is None else tuple(only)))
            counts[name] = truth.close()
        write_text(work / "truth" / "README.txt", _NOTE)
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts
