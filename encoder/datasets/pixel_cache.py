"""The pixel cache: every image decoded once, resized to the training resolution, and stored as raw 8-bit pixels.

A folder::

    cache.json            format, side, recipe, number of rows, SHA-256 of the list of rows and of their changes
    shard-00000.bin       pixels of some hundred images, one after the other
    shard-00000.json      their rows and shapes, SHA-256 of the source files and of the .bin
    ...
    index.npy             tables of all shards, written last: the cache is complete
    unreadable.csv        rows that could not be read: data set, row of its manifest, SHA-256, reason

``encoder.datasets.cache_building`` writes it. A complete cache never changes, and is read without a lock.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder import json_files
from encoder.errors import LlavaRadError
from encoder.files import TEMPORARY, check_room, reported, sha256_of, write, writing
from encoder.locks import locked

FORMAT = "llava-rad.pixels/1"
# One entry for each image: its row (from 0), the position of its pixels, and the SHA-256 of its source file.
INDEX = np.dtype(
    [("row", "<i8"), ("shard", "<i4"), ("height", "<i4"), ("width", "<i4"), ("offset", "<i8"), ("sha256", "u1", 32)]
)
Progress = Callable[[int, int], None]
Pixels = npt.NDArray[np.uint8]
_OPEN_FILES = 256  # of 1024 that a process may have open by default
_BLOCK = 8 << 20
_COPIES = 4  # shards copied at a time


class Cache:
    """Images prepared for pre-training: whole picture, shorter side ``size`` pixels, minimum..maximum mapped to 0..255,
    brighter means denser. An image is read when it is asked for, by one ``pread``. Can be pickled.

    Attributes:
        folder: of the cache.
        size: shorter side of every image in pixels.
        rows: [N] int64, position (from 0) of each image in the rows that the cache was built from; unreadable ones are
            missing.
        unreadable: number of rows that could not be read.
        index: [N] of ``INDEX``.
        fingerprint: SHA-256 of the side, the recipe, the source files' contents in order, and which are inverted or
            stretched; equal fingerprints mean equal pixels.
    """

    def __init__(self, folder: Path, size: int, index: npt.NDArray[Any], fingerprint: str, unreadable: int) -> None:
        self.folder, self.size, self.fingerprint, self.unreadable = folder.absolute(), size, fingerprint, unreadable
        self.index = index
        self._shards: OrderedDict[int, io.FileIO] = OrderedDict()

    @classmethod
    def open(cls, folder: Path) -> Cache:
        """Open a complete cache.

        Raises:
            LlavaRadError: if there is none, or it is damaged.
        """
        facts = read_json(folder / "cache.json")
        if facts is None or not (folder / "index.npy").is_file():
            raise LlavaRadError("there is no complete pixel cache in the folder", hint="pre-training builds it")
        check_format(facts)
        try:
            index = np.load(folder / "index.npy", mmap_mode="r", allow_pickle=False)
            digest = hashlib.sha256(json.dumps([facts["size"], facts["recipe"]], sort_keys=True).encode())
            digest.update(np.ascontiguousarray(index["sha256"]).tobytes())
            digest.update(str(facts.get("inverted", "")).encode())
            digest.update(str(facts.get("aspects", "")).encode())
            return cls(folder, facts["size"], index, digest.hexdigest(), facts["rows"] - len(index))
        except (OSError, ValueError, KeyError, IndexError):
            raise LlavaRadError("the pixel cache is damaged", hint="remove its folder to build it again") from None

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = Cache.open(state["folder"]).__dict__

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Positions of the images in the list of rows, [N]."""
        return np.asarray(self.index["row"], np.int64)

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """Pixels of one image: [h, w] uint8, read-only.

        Raises:
            IndexError: if there is no such image.
            LlavaRadError: if its shard is missing or cut short.
        """
        _, shard, height, width, offset, _ = self.index[i].item()
        try:
            data = os.pread(self._file(shard).fileno(), height * width, offset)
        except OSError:
            raise damaged() from None
        if len(data) != height * width:
            raise damaged()
        return np.frombuffer(data, np.uint8).reshape(height, width)

    def _file(self, shard: int) -> io.FileIO:
        """Return an open shard; the one that was used longest ago is closed when nobody reads it."""
        file = self._shards.pop(shard, None) or io.FileIO(shard_file(self.folder, shard, "bin"))
        self._shards[shard] = file
        if len(self._shards) > _OPEN_FILES:
            self._shards.popitem(last=False)
        return file

    def sha256(self, i: int) -> str:
        """SHA-256 of the source file of image i, hexadecimal."""
        return bytes(self.index["sha256"][i]).hex()

    def verify(self) -> None:
        """Read all pixels and compare them with the SHA-256 that each shard was written with.

        Raises:
            LlavaRadError: if a shard is damaged.
        """
        for shard in np.unique(self.index["shard"]).tolist():
            facts = read_json(shard_file(self.folder, shard, "json"))
            try:
                whole = facts is not None and sha256_of(shard_file(self.folder, shard, "bin")) == facts["sha256"]
            except OSError:
                whole = False
            if not whole:
                raise damaged()


def stage(cache: Cache, folder: Path, *, progress: Progress | None = None, waiting: Callable[[], None]) -> Cache:
    """Copy a complete cache to a disk of this machine, or continue or open a copy.

    Args:
        cache: what to copy.
        folder: on that disk; the copy is a folder in it, named after the fingerprint.
        progress: called after each shard with the number of copied and of all bytes.
        waiting: called now and then while another process copies.

    Returns:
        The copy.

    Raises:
        LlavaRadError: if a shard has changed since it was written, or the disk is too small or refuses.
    """
    target = folder / f"pixels-{cache.fingerprint[:16]}"
    with reported("the copy of the pixel cache"):
        target.mkdir(parents=True, exist_ok=True)
        if not (target / "index.npy").is_file():
            with locked(target / ".lock", waiting=waiting):
                if not (target / "index.npy").is_file():
                    _copy(cache, target, progress)
    copy = Cache.open(target)
    if copy.fingerprint != cache.fingerprint:
        raise LlavaRadError("the copy of the pixel cache is damaged", hint="remove its folder to copy it again")
    return copy


def _copy(cache: Cache, target: Path, progress: Progress | None) -> None:
    for stale in target.glob(f".*{TEMPORARY}"):
        stale.unlink()
    facts: dict[int, dict[str, Any]] = {}
    for shard in np.unique(cache.index["shard"]).tolist():
        found = read_json(shard_file(cache.folder, shard, "json"))
        if found is None:
            raise damaged()
        facts[shard] = found
    missing = [shard for shard, found in facts.items() if not _is_copied(shard_file(target, shard, "bin"), found)]
    total, left = (sum(facts[shard]["bytes"] for shard in shards) for shards in (facts, missing))
    check_room(target, left, "the copy of the pixel cache", "--stage names another folder")

    def one(shard: int) -> int:
        digest = hashlib.sha256()
        source = shard_file(cache.folder, shard, "bin")
        with source.open("rb", buffering=0) as file, writing(shard_file(target, shard, "bin")) as copy:
            while block := file.read(_BLOCK):
                digest.update(block)
                copy.write(block)
            if digest.hexdigest() != facts[shard]["sha256"]:
                raise damaged()
        return int(facts[shard]["bytes"])

    done = total - left
    with ThreadPoolExecutor(_COPIES, "copy") as pool:
        try:
            for size in pool.map(one, missing):
                done += size
                if progress is not None:
                    progress(done, total)
        finally:
            pool.shutdown(cancel_futures=True)
    for path in (*(shard_file(cache.folder, shard, "json") for shard in facts), cache.folder / "cache.json"):
        write(target / path.name, path.read_bytes())
    write(target / "index.npy", (cache.folder / "index.npy").read_bytes())


def _is_copied(path: Path, facts: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == facts["bytes"]


def check_format(facts: dict[str, Any]) -> None:
    """Raise ``LlavaRadError`` if a ``cache.json`` is not one of this version."""
    if facts.get("format") != FORMAT:
        raise LlavaRadError("the folder's cache.json is not that of a pixel cache of this version")


def damaged() -> LlavaRadError:
    """Make the error of a shard that is cut short or has changed."""
    return LlavaRadError("a shard of the pixel cache is damaged", hint="remove the cache's folder to build it again")


def shard_file(folder: Path, number: int, suffix: str) -> Path:
    """Path of a shard's ``bin`` or ``json``."""
    return folder / f"shard-{number:05d}.{suffix}"


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file.

    Raises:
        LlavaRadError: if it is damaged.
    """
    try:
        data = json_files.read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        data = None
    if not isinstance(data, dict):
        raise damaged()
    return data
