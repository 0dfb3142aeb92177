"""The pixel cache: every image decoded once, resized to the training resolution, and stored as raw 8-bit pixels.

A folder::

    cache.json            format, side, recipe, number of rows, SHA-256 of the list of rows and of the inverted ones
    shard-00000.bin       pixels of some hundred images, one after the other
    shard-00000.json      their rows and shapes, SHA-256 of the source files and of the .bin
    ...
    index.npy             tables of all shards, written last: the cache is complete
    unreadable.csv        rows that could not be read: data set, row of its manifest, SHA-256, reason

A shard exists as soon as its .json does, so a killed build resumes with the next shard.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.datasets.manifest import Row
from encoder.datasets.splits import disjoint_contents
from encoder.errors import ConfigError, LlavaRadError, ReadError
from encoder.files import TEMPORARY, locked, reported, sha256_of, write, writing
from encoder.preprocessing import Recipe, rad_dino
from encoder.reader.sandbox import Reader, open_source

FORMAT = "llava-rad.pixels/1"
SHARD_BYTES = 256 << 20
_PROBES = 16  # source files that are compared with an existing cache
# One entry for each image: its row (from 0), the position of its pixels, and the SHA-256 of its source file.
INDEX = np.dtype(
    [("row", "<i8"), ("shard", "<i4"), ("height", "<i4"), ("width", "<i4"), ("offset", "<i8"), ("sha256", "u1", 32)]
)
Progress = Callable[[int, int], None]
# Reasons that may be the machine's (a folder not mounted, an overloaded disk or processor) rather than the file's.
_PASSING = {"missing", "unreadable", "timeout", "crashed", "memory"}
_Pixels = npt.NDArray[np.uint8]
_Read = tuple[_Pixels | str, str]  # pixels, or the reason for their absence; the file's SHA-256


class Cache:
    """Images prepared for pre-training: whole picture, shorter side ``size`` pixels, minimum..maximum mapped to 0..255,
    brighter means denser. Pixels are memory-mapped, so that processes share them. Can be pickled.

    Attributes:
        folder: of the cache.
        size: shorter side of every image in pixels.
        rows: [N] int64, position (from 0) of each image in the rows that the cache was built from; unreadable ones are
            missing.
        unreadable: number of rows that could not be read.
        fingerprint: SHA-256 of the side, the recipe, the source files' contents in order, and which are inverted; equal
            fingerprints mean equal pixels.
    """

    def __init__(self, folder: Path, size: int, index: npt.NDArray[Any], fingerprint: str, unreadable: int) -> None:
        self.folder, self.size, self.fingerprint, self.unreadable = folder.absolute(), size, fingerprint, unreadable
        self._index = index
        self._shards: dict[int, npt.NDArray[np.uint8]] = {}

    @classmethod
    def open(cls, folder: Path) -> Cache:
        """Open a complete cache.

        Raises:
            LlavaRadError: if there is none, or it is damaged.
        """
        facts = _read_json(folder / "cache.json")
        if facts is None or not (folder / "index.npy").is_file():
            raise LlavaRadError("there is no complete pixel cache in the folder", hint="pre-training builds it")
        _check_format(facts)
        try:
            index = np.load(folder / "index.npy", mmap_mode="r", allow_pickle=False)
            digest = hashlib.sha256(json.dumps([facts["size"], facts["recipe"]], sort_keys=True).encode())
            digest.update(np.ascontiguousarray(index["sha256"]).tobytes())
            digest.update(str(facts.get("inverted", "")).encode())
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
        """Positions of the images in the list of rows, [N]."""
        return np.asarray(self._index["row"], np.int64)

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """Pixels of one image: [h, w] uint8, read-only.

        Raises:
            IndexError: if there is no such image.
            LlavaRadError: if its shard is missing or cut short.
        """
        _, shard, height, width, offset, _ = self._index[i].item()
        pixels = self._shards.get(shard)
        if pixels is None:
            try:
                pixels = np.memmap(_shard_file(self.folder, shard, "bin"), np.uint8, "r")
            except (OSError, ValueError):
                raise _damaged() from None
            self._shards[shard] = pixels = pixels.view(np.ndarray)
        if offset + height * width > len(pixels):
            raise _damaged()
        return pixels[offset : offset + height * width].reshape(height, width)

    def sha256(self, i: int) -> str:
        """SHA-256 of the source file of image i, hexadecimal."""
        return bytes(self._index["sha256"][i]).hex()

    def verify(self) -> None:
        """Read all pixels and compare them with the SHA-256 that each shard was written with.

        Raises:
            LlavaRadError: if a shard is damaged.
        """
        for shard in np.unique(self._index["shard"]).tolist():
            facts = _read_json(_shard_file(self.folder, shard, "json"))
            try:
                whole = facts is not None and sha256_of(_shard_file(self.folder, shard, "bin")) == facts["sha256"]
            except OSError:
                whole = False
            if not whole:
                raise _damaged()


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
    """Build a cache, resume an interrupted build, or open a complete cache.

    Frontal and lateral views are taken; other body parts, other modalities and raw detector data count as unreadable.

    Args:
        rows: the images; the cache holds them in this order.
        folder: created if missing; takes about ``1.2 * size * size`` bytes for each image.
        size: shorter side in pixels.
        workers: images decoded at the same time, each in a process of its own.
        recipe: preprocessing, without its centre crop; None is RAD-DINO's at ``size``.
        max_unreadable: largest share of images that may be unreadable.
        progress: called after each image with the number of completed and of all images.

    Raises:
        ConfigError: if the folder holds a cache of other images or of another size.
        LlavaRadError: if too many images are unreadable, there is no image, two splits share an image, or the cache
            cannot be written.
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
    if inverted := [number for number, row in enumerate(rows) if row.inverted]:
        facts["inverted"] = hashlib.sha256(str(inverted).encode()).hexdigest()
    allowed = int(max_unreadable * len(rows))
    with reported("the pixel cache"):
        folder.mkdir(parents=True, exist_ok=True)
        _check_same(_read_json(folder / "cache.json"), facts)
        if not (folder / "index.npy").is_file():  # a complete cache is only read: no lock, also on a read-only disk
            with locked(folder / ".lock", busy="another process is building the pixel cache in data.cache"):
                _check_same(_read_json(folder / "cache.json"), facts)
                if not (folder / "index.npy").is_file():
                    _Builder(rows, folder, facts, allowed).run(max(1, workers), progress)
    cache = Cache.open(folder)
    _check_contents(cache, rows)
    if cache.unreadable > allowed:
        raise _too_many(cache.unreadable, len(rows), allowed)
    disjoint_contents([rows[row] for row in cache.rows.tolist()], map(cache.sha256, range(len(cache))))
    return cache


class _Builder:
    """Writes the missing shards of a cache; see :func:`build`."""

    def __init__(self, rows: Sequence[Row], folder: Path, facts: dict[str, Any], allowed: int) -> None:
        self._rows, self._folder, self._facts, self._allowed = rows, folder, facts, allowed
        self._size, self._step = int(facts["size"]), int(facts["rows_per_shard"])
        self._recipe = Recipe.from_dict(facts["recipe"])
        self._local = threading.local()
        self._readers: list[Reader] = []
        self._done = 0
        self._unreadable: dict[int, tuple[str, str]] = {}

    def run(self, workers: int, progress: Progress | None) -> None:
        for stale in self._folder.glob(f".*{TEMPORARY}"):
            stale.unlink()
        write(self._folder / "cache.json", _json(self._facts))
        shards = range(-(-len(self._rows) // self._step))
        missing = [shard for shard in shards if not self._is_there(shard)]
        self._check_disk(len(missing))
        todo = (row for shard in missing for row in self._rows_of(shard))
        results = self._read_all(todo, workers)
        try:
            for shard in missing:
                self._write_shard(shard, results, progress)
        finally:
            results.close()
            self._write_unreadable()
        self._write_index(shards)

    def _rows_of(self, shard: int) -> range:
        return range(shard * self._step, min((shard + 1) * self._step, len(self._rows)))

    def _is_there(self, shard: int) -> bool:
        """Tell whether an earlier run wrote a shard; one with images that may be readable now is written again."""
        facts = _read_json(_shard_file(self._folder, shard, "json"))
        if facts is None or any(reason in _PASSING for _, _, reason in facts["unreadable"]):
            return False
        with contextlib.suppress(OSError):
            if _shard_file(self._folder, shard, "bin").stat().st_size == facts["bytes"]:
                self._unreadable |= {row: (sha256, reason) for row, sha256, reason in facts["unreadable"]}
                self._done += len(self._rows_of(shard))
                return True
        return False

    def _check_disk(self, shards: int) -> None:
        needed = min(shards * self._step, len(self._rows)) * self._size**2  # lower bound: square images
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise LlavaRadError(
                f"the pixel cache needs at least {needed / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free",
                hint="data.cache names another folder",
            )

    def _read_all(self, todo: Iterable[int], workers: int) -> Generator[tuple[int, _Pixels | str, str], None, None]:
        """Read rows concurrently; results come in order, so that the bytes do not depend on ``workers``."""
        rows = iter(todo)
        waiting: deque[tuple[int, Future[_Read]]] = deque()
        # Threads suffice: each waits for the process that decodes for it.
        with ThreadPoolExecutor(workers, "decode") as pool:
            try:
                for row in itertools.islice(rows, 4 * workers):
                    waiting.append((row, pool.submit(self._read, row)))
                while waiting:
                    row, future = waiting.popleft()
                    pixels, sha256 = future.result()
                    for following in itertools.islice(rows, 1):
                        waiting.append((following, pool.submit(self._read, following)))
                    yield row, pixels, sha256
            finally:
                pool.shutdown(cancel_futures=True)
                for reader in self._readers:
                    reader.close()

    def _read(self, row: int) -> _Read:
        """Read the pixels of a row, or the reason for their absence, and the file's SHA-256."""
        reader = getattr(self._local, "reader", None)
        if reader is None:
            self._local.reader = reader = Reader(timeout_s=60.0)
            self._readers.append(reader)
        path, inverted = self._rows[row].path, self._rows[row].inverted
        try:
            try:
                image = reader.prepare(path, self._recipe, crop=False, inverted=inverted)
            except ReadError as error:
                # The view is judged after modality and body part, so nothing else is forced with it.
                if error.reason != "lateral":
                    raise
                image = reader.prepare(path, self._recipe, crop=False, force=True, inverted=inverted)
            if min(image.pixels.shape) != self._size:
                raise ReadError("crashed", "the decoding process gave an image of another size")
            return image.pixels, image.sha256
        except ReadError as error:
            return error.reason, _source_sha256(path)

    def _write_shard(
        self,
        shard: int,
        results: Iterator[tuple[int, _Pixels | str, str]],
        progress: Progress | None,
    ) -> None:
        images: list[tuple[int, int, int, int, str]] = []
        unreadable: list[tuple[int, str, str]] = []
        digest, offset = hashlib.sha256(), 0
        with writing(_shard_file(self._folder, shard, "bin")) as file:
            for row, pixels, sha256 in itertools.islice(results, len(self._rows_of(shard))):
                if isinstance(pixels, str):
                    self._unreadable[row] = (sha256, pixels)
                    unreadable.append((row, sha256, pixels))
                    if len(self._unreadable) > self._allowed:
                        raise _too_many(len(self._unreadable), len(self._rows), self._allowed, self._done + 1)
                else:
                    file.write(pixels.data)
                    digest.update(pixels.data)
                    images.append((row, *pixels.shape, offset, sha256))
                    offset += pixels.nbytes
                self._done += 1
                if progress is not None:
                    progress(self._done, len(self._rows))
        facts = {"bytes": offset, "sha256": digest.hexdigest(), "images": images, "unreadable": unreadable}
        write(_shard_file(self._folder, shard, "json"), _json(facts))

    def _write_index(self, shards: Iterable[int]) -> None:
        tables = []
        for shard in shards:
            facts = _read_json(_shard_file(self._folder, shard, "json"))
            if facts is None:
                raise _damaged()
            table = np.zeros(len(facts["images"]), INDEX)
            if len(table):
                rows, heights, widths, offsets, digests = zip(*facts["images"], strict=True)
                table["row"], table["height"], table["width"], table["offset"] = rows, heights, widths, offsets
                table["sha256"] = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 32)
            table["shard"] = shard
            tables.append(table)
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(tables), allow_pickle=False)
        write(self._folder / "index.npy", buffer.getvalue())

    def _write_unreadable(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("dataset", "row", "sha256", "reason"))
        for position, (sha256, reason) in sorted(self._unreadable.items()):
            row = self._rows[position]
            writer.writerow((row.dataset, row.number or position + 1, sha256, reason))
        write(self._folder / "unreadable.csv", text.getvalue().encode())


def _identity(rows: Sequence[Row]) -> str:
    """Hash the rows: names of the images, and their paths below their common folder."""
    paths = [str(row.path) for row in rows]
    # the common folder of the first and the last path in order is that of all
    top = os.path.commonpath([str(Path(path).parent) for path in (min(paths), max(paths))])
    digest = hashlib.sha256()
    for row, path in zip(rows, paths, strict=True):
        text = "\0".join((row.dataset, row.subject, row.study, row.image, path[len(top) :]))
        text += "\0inverted" * row.inverted
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
    """Compare a few source files with the cache, since names may refer to other pictures; missing files are ignored."""
    for i in np.unique(np.linspace(0, len(cache) - 1, _PROBES).astype(int)) if len(cache) else ():
        if _source_sha256(rows[int(cache.rows[i])].path) not in ("", cache.sha256(int(i))):
            raise ConfigError(
                "the pixel cache in data.cache was made of files that have changed since",
                hint="remove the folder, or name another one with data.cache=FOLDER",
            )


def _check_format(facts: dict[str, Any]) -> None:
    if facts.get("format") != FORMAT:
        raise LlavaRadError("the folder's cache.json is not that of a pixel cache of this version")


def _too_many(unreadable: int, total: int, allowed: int, seen: int | None = None) -> LlavaRadError:
    which = f"of the first {seen} of {total}" if seen is not None and seen < total else f"of {total}"
    return LlavaRadError(
        f"{unreadable} {which} images cannot be read, {allowed} may be",
        hint="unreadable.csv in the cache folder lists them; data.max_unreadable sets the limit",
    )


def _damaged() -> LlavaRadError:
    return LlavaRadError("a shard of the pixel cache is damaged", hint="remove the cache's folder to build it again")


def _shard_file(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"shard-{number:05d}.{suffix}"


def _source_sha256(path: Path) -> str:
    """Hash an image file; "" if it cannot be read."""
    try:
        handle = open_source(path)
        try:
            return sha256_of(handle)
        finally:
            os.close(handle)
    except (ReadError, OSError):
        return ""


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file.

    Raises:
        LlavaRadError: if it is damaged.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        data = None
    if not isinstance(data, dict):
        raise _damaged()
    return data
