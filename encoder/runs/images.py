"""The pixel cache of a run: built or opened, built in parts beforehand, and copied to a disk of each machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from encoder.datasets.cache_building import Builder
from encoder.datasets.pixel_cache import Cache, Progress, stage
from encoder.runs.folder import own_cache
from encoder.runs.progress import progress_bar

Make = Callable[[Progress, Callable[[str], None]], Builder]
"""Makes a builder that calls one function with the number of completed and of all images, and one with notes."""
Part = tuple[int, int]
"""Number of a part of the cache, from 1, and number of parts."""


def open_images(make: Make, folder: Path, *, replace: bool, progress: bool) -> Cache:
    """Build, continue or open the cache of a run; see :func:`own_cache`."""
    with progress_bar(0, "reading images", progress) as bar:
        return own_cache(lambda: make(_to(bar), _notes(progress)).cache(), folder, replace=replace)


def stage_images(cache: Cache, folder: Path, *, progress: bool) -> Cache:
    """Copy a cache into a folder on this machine's disk, or open the copy; see :func:`stage`."""
    waiting = _notes(progress)
    with progress_bar(0, "copying MB of images", progress) as bar:
        return stage(
            cache,
            folder,
            progress=lambda done, total: _to(bar)(done >> 20, total >> 20),
            waiting=lambda: waiting("another process copies the pixel cache; waiting"),
        )


def prepare_images(
    make: Make, *, part: Part | None = None, stage_folder: Path | None = None, progress: bool = True
) -> Cache | None:
    """Build the cache or a part of it without training, and copy it to a disk of this machine.

    Args:
        make: of the cache's builder.
        part: what to build; None for all of it.
        stage_folder: where to copy the complete cache; None for no copy.
        progress: show progress.

    Returns:
        The cache or its copy; None if other parts are missing.
    """
    with progress_bar(0, "reading images", progress) as bar:
        builder = make(_to(bar), _notes(progress))
        if part is not None and not builder.part(*part):
            return None
        cache = builder.cache()
    return cache if stage_folder is None else stage_images(cache, stage_folder, progress=progress)


def _to(bar: Any) -> Progress:
    def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advance


def _notes(progress: bool) -> Callable[[str], None]:
    def note(line: str) -> None:
        if progress:
            sys.stderr.write(f"llava-rad: {line}\n")

    return note
