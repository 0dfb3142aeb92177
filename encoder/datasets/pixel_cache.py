"""The pixel cache: every image decoded once, resized to the training resolution, and kept as raw 8-bit pixels.

A folder::

    cache.json            format, side, recipe, number of rows, what the rows are
    shard-00000.bin       pixels of some hundred images, one after the other
    shard-00000.json      which rows they are, their shapes, SHA-256 of the source files and of the .bin
    ...
    index.npy             all shards' tables in one, written last: the cache is whole
    unreadable.csv        rows that could not be read: data set, row of its manifest, SHA-256, reason

A shard is there from the moment its .json is, so a build that was killed goes on with the next shard.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.datasets.manifest import Row
from encoder.datasets.pixel_shards import Builder, Progress, damaged, locked, read_json, sha256_of, shard_file, too_many
from encoder.errors import ConfigError, LlavaRadError
from encoder.preprocessing import Recipe, rad_dino

FORMAT = "llava-rad.pixels/1"
SHARD_BYTES = 256 << 20
_PROBES = 16  # source files that are compared with an existing cache


class Cache:
    """Images as RAD-DINO is trained on them: the shorter side ``size`` pixels, the whole picture, minimum..maximum to
    0..255, brighter means denser. Pixels are memory-mapped: processes share them. May be pickled.

    Attributes:
        folder: where it is.
        size: shorter side of every image in pixels.
        rows: [N] int64, for each image its position (from 0) in the rows that the cache was built of; unreadable ones
            are missing.
        unreadable: how many of the rows could not be read.
        fingerprint: SHA-256 of the side, the recipe and the source files' contents in order: equal fingerprints mean
            equal pixels.
    """

    def __init__(self, folder: Path, size: int, index: npt.NDArray[Any], fingerprint: str, unreadable: int) -> None:
        self.folder, self.size, self.fingerprint, self.unreadable = folder.absolute(), size, fingerprint, unreadable
        self._index = index
        self._shards: dict[int, npt.NDArray[np.uint8]] = {}

    @classmethod
    def open(cls, folder: Path) -> Cache:
        """Open a cache that is whole.

        Raises:
            LlavaRadError: there is none, or it is damaged.
        """
        facts = read_json(folder / "cache.json")
        if facts is None or not (folder / "index.npy").is_file():
            raise LlavaRadError("there is no whole pixel cache in the folder", hint="pre-training builds it")
        _check_format(facts)
        try:
            index = np.load(folder / "index.npy", mmap_mode="r", allow_pickle=False)
            digest = hashlib.sha256(json.dumps([facts["size"], facts["recipe"]], sort_keys=True).encode())
            digest.update(np.ascontiguousarray(index["sha256"]).tobytes())
            return cls(folder, facts["size"], index, digest.hexdigest(), facts["rows"] - len(index))
        except (OSError, ValueError, KeyError, IndexError):
            raise LlavaRadError("the pixel cache is damaged", hint="remove its folder to build it again") from None

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = Cache.open(state["folder"]).__dict__

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Positions of the images in the list of rows."""
        return np.asarray(self._index["row"], np.int64)

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """Pixels of one image: [h, w] uint8, read-only.

        Raises:
            IndexError: there is no such image.
            LlavaRadError: its shard is missing or cut short.
        """
        _, shard, height, width, offset, _ = self._index[i].item()
        pixels = self._shards.get(shard)
        if pixels is None:
            try:
                pixels = np.memmap(shard_file(self.folder, shard, "bin"), np.uint8, "r")
            except (OSError, ValueError):
                raise damaged() from None
            self._shards[shard] = pixels = pixels.view(np.ndarray)
        if offset + height * width > len(pixels):
            raise damaged()
        return pixels[offset : offset + height * width].reshape(height, width)

    def sha256(self, i: int) -> str:
        """SHA-256 of the file that image i came from, hexadecimal."""
        return bytes(self._index["sha256"][i]).hex()

    def verify(self) -> None:
        """Read all pixels and compare them with the SHA-256 that each shard was written with.

        Raises:
            LlavaRadError: a shard is damaged.
        """
        for shard in np.unique(self._index["shard"]).tolist():
            facts = read_json(shard_file(self.folder, shard, "json"))
            try:
                with shard_file(self.folder, shard, "bin").open("rb") as file:
                    whole = facts is not None and hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"]
            except OSError:
                whole = False
            if not whole:
                raise damaged()


def build(
    rows: Sequence[Row],
    folder: Path,
    *,
    size: int,
    workers: int,
    recipe: Recipe | None = None,
    max_unreadable: float = 0.01,
    progress: Progress | None = None,
) -> Cache:
    """Build a cache, go on with one that was interrupted, or open one that is whole.

    Frontal and lateral views are taken; other body parts, other modalities and raw detector data count as unreadable.

    Args:
        rows: the images; the cache holds them in this order.
        folder: made if needed; about ``1.2 * size * size`` bytes for each image.
        size: shorter side in pixels.
        workers: images that are decoded at the same time, each in a process of its own.
        recipe: how they are prepared, all but the centre crop; None is RAD-DINO's at ``size``.
        max_unreadable: largest share of images that may be unreadable.
        progress: called with the number of images done and of all, for each image.

    Raises:
        ConfigError: the folder holds a cache of other images or of another size.
        LlavaRadError: too many images are unreadable, there is no image, the disk is full or refuses.
    """
    if not rows:
        raise LlavaRadError("there is no image to train on")
    recipe = recipe or rad_dino(size)
    facts = {
        "format": FORMAT,
        "size": size,
        "recipe": recipe.to_dict(),
        "rows": len(rows),
        "sha256_of_rows": _identity(rows),
        "rows_per_shard": max(1, SHARD_BYTES * 4 // (5 * size * size)),
    }
    allowed = int(max_unreadable * len(rows))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _check_same(read_json(folder / "cache.json"), facts)
            if not (folder / "index.npy").is_file():
                Builder(rows, folder, facts, allowed).run(max(1, workers), progress)
    except OSError as error:
        raise LlavaRadError(f"the pixel cache cannot be written ({os.strerror(error.errno or 0)})") from None
    cache = Cache.open(folder)
    _check_contents(cache, rows)
    if cache.unreadable > allowed:
        raise too_many(cache.unreadable, len(rows), allowed)
    return cache


def _identity(rows: Sequence[Row]) -> str:
    """What the rows are: names of the images, and their paths below the folder that they share."""
    paths = [str(row.path) for row in rows]
    # what the first and the last path in order share, all share
    top = os.path.commonpath([str(Path(path).parent) for path in (min(paths), max(paths))])
    digest = hashlib.sha256()
    for row, path in zip(rows, paths, strict=True):
        text = "\0".join((row.dataset, row.subject, row.study, row.image, path[len(top) :]))
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest())
    return digest.hexdigest()


def _check_same(there: dict[str, Any] | None, facts: dict[str, Any]) -> None:
    if there is None:
        return
    _check_format(there)
    for key, what in (
        ("size", f"images of {there.get('size')} pixels, not of data.size = {facts['size']}"),
        ("recipe", "images of another preprocessing recipe"),
        ("rows", f"{there.get('rows')} images, not these {facts['rows']}"),
        ("sha256_of_rows", "other images"),
        ("rows_per_shard", "shards of another size"),
    ):
        if there.get(key) != facts[key]:
            raise ConfigError(
                f"the pixel cache in data.cache holds {what}", hint="name another folder with data.cache=FOLDER"
            )


def _check_contents(cache: Cache, rows: Sequence[Row]) -> None:
    """Compare a few source files with the cache: the same names may stand for other pictures. Missing ones pass."""
    for i in np.unique(np.linspace(0, len(cache) - 1, _PROBES).astype(int)) if len(cache) else ():
        if sha256_of(rows[int(cache.rows[i])].path) not in ("", cache.sha256(int(i))):
            raise ConfigError(
                "the pixel cache in data.cache was made of files that have changed since",
                hint="remove the folder, or name another one with data.cache=FOLDER",
            )


def _check_format(facts: dict[str, Any]) -> None:
    if facts.get("format") != FORMAT:
        raise LlavaRadError("the folder's cache.json is not that of a pixel cache of this version")
