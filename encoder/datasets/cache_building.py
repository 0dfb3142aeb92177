"""Building the pixel cache (``encoder.datasets.pixel_cache``), by one process or in parts by many machines.

A shard exists as soon as its .json does, so a killed build resumes with the next shard. Part ``k`` of ``n`` is every
n-th shard from the k-th on; whoever finds all shards written joins them by the index.

Locks: ``.lock`` is held for a whole build, and by a part while it decides what to write and while it joins; a lock of
its own is held by a part while it writes. So nothing writes a shard once the index is there.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from encoder.datasets.manifest import Row
from encoder.datasets.pixel_cache import (
    FORMAT,
    INDEX,
    Cache,
    Pixels,
    Progress,
    check_format,
    damaged,
    read_json,
    shard_file,
)
from encoder.datasets.splits import disjoint_contents
from encoder.errors import ConfigError, LlavaRadError, ReadError
from encoder.files import TEMPORARY, check_room, reported, sha256_of, write, writing
from encoder.locks import locked
from encoder.preprocessing import Recipe, rad_dino
from encoder.reader.sandbox import Reader, open_source

SHARD_BYTES = 256 << 20
_PROBES = 16  # source files that are compared with an existing cache
# Reasons that may be the machine's (a folder not mounted, an overloaded disk or processor) rather than the file's.
_PASSING = {"missing", "unreadable", "timeout", "crashed", "memory"}
_Read = tuple[Pixels | str, str]  # pixels, or the reason for their absence; the file's SHA-256


class Builder:
    """Builds a cache, resumes an interrupted build, or opens a complete cache.

    Frontal and lateral views are taken; other body parts, other modalities and raw detector data count as unreadable.

    Args:
        rows: the images; the cache holds them in this order.
        folder: created if missing; takes about ``1.2 * size * size`` bytes for each image.
        size: shorter side in pixels.
        workers: images decoded at the same time, each in a process of its own.
        recipe: preprocessing, without its centre crop; None is RAD-DINO's at ``size``.
        max_unreadable: largest share of images that may be unreadable.
        progress: called after each image with the number of completed and of all images.
        notify: called with a line now and then while another process builds.

    Raises:
        LlavaRadError: if there is no image.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        folder: Path,
        *,
        size: int,
        workers: int,
        recipe: Recipe | None = None,
        max_unreadable: float = 0.01,
        progress: Progress | None = None,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        if not rows:
            raise LlavaRadError("there is no image to train on")
        self._rows, self._folder, self._size, self._workers = rows, folder, size, max(1, workers)
        self._progress, self._notify = progress, notify
        self._allowed = int(max_unreadable * len(rows))
        self._recipe = recipe or rad_dino(size)
        self._step = max(1, SHARD_BYTES * 4 // (5 * size * size))
        self._facts: dict[str, Any] = {
            "format": FORMAT,
            "size": size,
            "recipe": self._recipe.to_dict(),
            "rows": len(rows),
            "sha256_of_rows": _identity(rows),
            "rows_per_shard": self._step,
        }
        if inverted := [number for number, row in enumerate(rows) if row.inverted]:
            self._facts["inverted"] = hashlib.sha256(str(inverted).encode()).hexdigest()
        if aspects := [(number, row.aspect) for number, row in enumerate(rows) if row.aspect is not None]:
            self._facts["aspects"] = hashlib.sha256(str(aspects).encode()).hexdigest()
        self._local = threading.local()
        self._readers: list[Reader] = []
        self._done = self._total = 0
        self._unreadable: dict[int, tuple[str, str]] = {}

    def cache(self) -> Cache:
        """Build what is missing, and open the cache.

        Raises:
            ConfigError: if the folder holds a cache of other images or of another size.
            LlavaRadError: if too many images are unreadable, two splits share an image, or the cache cannot be written.
        """
        with reported("the pixel cache"):
            if not self._is_complete():  # a complete cache is only read: no lock, also on a read-only disk
                with self._lock():
                    if not self._is_complete():
                        with contextlib.ExitStack() as parts:
                            for path in sorted(self._folder.glob(".lock-*")):
                                parts.enter_context(locked(path, waiting=self._wait))
                            self._write(self._missing(self._shards()))
                            self._join()
        cache = Cache.open(self._folder)
        _check_contents(cache, self._rows)
        if cache.unreadable > self._allowed:
            raise _too_many(cache.unreadable, len(self._rows), self._allowed)
        disjoint_contents([self._rows[row] for row in cache.rows.tolist()], map(cache.sha256, range(len(cache))))
        return cache

    def part(self, number: int, of: int) -> bool:
        """Build a part of the cache; the last one joins the parts.

        Args:
            number: of the part, from 1.
            of: number of parts.

        Returns:
            True if the cache is complete now.

        Raises:
            ConfigError, LlavaRadError: as :meth:`cache`; also if another process builds this part.
        """
        mine = self._shards()[number - 1 :: of]
        with reported("the pixel cache"):
            if self._is_complete():
                return True
            with contextlib.ExitStack() as stack:
                with self._lock():
                    if self._is_complete():
                        return True
                    busy = f"another process is building part {number}/{of} of the pixel cache"
                    stack.enter_context(locked(self._folder / f".lock-{number}-of-{of}", busy=busy))
                    missing = self._missing(mine)
                self._write(missing)
            with self._lock():
                if not self._is_complete():
                    if not all(map(self._is_there, self._shards())):
                        return False
                    self._join()
        return True

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        return locked(self._folder / ".lock", waiting=self._wait)

    def _wait(self) -> None:
        ready, shards = len(list(self._folder.glob("shard-*.json"))), len(self._shards())
        self._notify(f"another process builds the pixel cache; waiting ({ready:,} of {shards:,} shards are ready)")

    def _is_complete(self) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        _check_same(read_json(self._folder / "cache.json"), self._facts)
        return (self._folder / "index.npy").is_file()

    def _shards(self) -> range:
        return range(-(-len(self._rows) // self._step))

    def _missing(self, shards: Sequence[int]) -> list[int]:
        """Shards that are to be written; one with images that may be readable now is written again."""
        write(self._folder / "cache.json", _json(self._facts))
        missing = [shard for shard in shards if not self._is_there(shard, whole=True)]
        for shard in missing:  # nobody joins a shard that is written anew
            shard_file(self._folder, shard, "json").unlink(missing_ok=True)
        self._total = sum(len(self._rows_of(shard)) for shard in shards)
        self._done = self._total - sum(len(self._rows_of(shard)) for shard in missing)
        needed = min(len(missing) * self._step, len(self._rows)) * self._size**2  # lower bound: square images
        check_room(self._folder, needed, "the pixel cache", "data.cache names another folder")
        return missing

    def _write(self, shards: Sequence[int]) -> None:
        results = self._read_all((row for shard in shards for row in self._rows_of(shard)), self._workers)
        try:
            for shard in shards:
                self._write_shard(shard, results)
        finally:
            results.close()
            self._write_unreadable()

    def _join(self) -> None:
        """Write the index of all shards, all of which are there."""
        for stale in self._folder.glob(f".*{TEMPORARY}"):
            stale.unlink()
        self._write_unreadable()
        if len(self._unreadable) > self._allowed:
            raise _too_many(len(self._unreadable), len(self._rows), self._allowed)
        self._write_index()

    def _rows_of(self, shard: int) -> range:
        return range(shard * self._step, min((shard + 1) * self._step, len(self._rows)))

    def _is_there(self, shard: int, *, whole: bool = False) -> bool:
        """Tell whether a shard was written; if ``whole``, without images that may be readable now."""
        facts = read_json(shard_file(self._folder, shard, "json"))
        if facts is None or (whole and any(reason in _PASSING for _, _, reason in facts["unreadable"])):
            return False
        with contextlib.suppress(OSError):
            if shard_file(self._folder, shard, "bin").stat().st_size == facts["bytes"]:
                self._unreadable |= {row: (sha256, reason) for row, sha256, reason in facts["unreadable"]}
                return True
        return False

    def _read_all(self, todo: Iterable[int], workers: int) -> Generator[tuple[int, Pixels | str, str], None, None]:
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
        path = self._rows[row].path
        try:
            try:
                image = reader.prepare(path, self._recipe, crop=False, **self._rows[row].reading)
            except ReadError as error:
                # The view is judged after modality and body part, so nothing else is forced with it.
                if error.reason != "lateral":
                    raise
                image = reader.prepare(path, self._recipe, crop=False, force=True, **self._rows[row].reading)
            if min(image.pixels.shape) != self._size:
                raise ReadError("crashed", "the decoding process gave an image of another size")
            return image.pixels, image.sha256
        except ReadError as error:
            return error.reason, _source_sha256(path)

    def _write_shard(self, shard: int, results: Iterator[tuple[int, Pixels | str, str]]) -> None:
        images: list[tuple[int, int, int, int, str]] = []
        unreadable: list[tuple[int, str, str]] = []
        digest, offset = hashlib.sha256(), 0
        with writing(shard_file(self._folder, shard, "bin")) as file:
            for row, pixels, sha256 in itertools.islice(results, len(self._rows_of(shard))):
                if isinstance(pixels, str):
                    self._unreadable[row] = (sha256, pixels)
                    unreadable.append((row, sha256, pixels))
                    if len(self._unreadable) > self._allowed:
                        raise _too_many(len(self._unreadable), self._total, self._allowed, self._done + 1)
                else:
                    file.write(pixels.data)
                    digest.update(pixels.data)
                    images.append((row, *pixels.shape, offset, sha256))
                    offset += pixels.nbytes
                self._done += 1
                if self._progress is not None:
                    self._progress(self._done, self._total)
        facts = {"bytes": offset, "sha256": digest.hexdigest(), "images": images, "unreadable": unreadable}
        write(shard_file(self._folder, shard, "json"), _json(facts))

    def _write_index(self) -> None:
        tables = []
        for shard in self._shards():
            facts = read_json(shard_file(self._folder, shard, "json"))
            if facts is None:
                raise damaged()
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
        text += "\0inverted" * row.inverted + ("" if row.aspect is None else f"\0aspect {row.aspect:g}")
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest())
    return digest.hexdigest()


def _check_same(there: dict[str, Any] | None, facts: dict[str, Any]) -> None:
    if there is None:
        return
    check_format(there)
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


def _too_many(unreadable: int, total: int, allowed: int, seen: int | None = None) -> LlavaRadError:
    which = f"of the first {seen} of {total}" if seen is not None and seen < total else f"of {total}"
    return LlavaRadError(
        f"{unreadable} {which} images cannot be read, {allowed} may be",
        hint="unreadable.csv in the cache folder lists them; data.max_unreadable sets the limit",
    )


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
