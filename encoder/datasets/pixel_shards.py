"""The shards of a pixel cache: how they are written, in parallel, one after the other, each whole or not there."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import itertools
import json
import os
import secrets
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
from encoder.errors import LlavaRadError, ReadError
from encoder.preprocessing import Recipe
from encoder.reader.sandbox import Reader, open_source

# One entry for each image: its row (from 0), where its pixels are, and the SHA-256 of the file it came from.
INDEX = np.dtype(
    [("row", "<i8"), ("shard", "<i4"), ("height", "<i4"), ("width", "<i4"), ("offset", "<i8"), ("sha256", "u1", 32)]
)
Progress = Callable[[int, int], None]
# Reasons that may lie with the machine (a folder not mounted, a disk or processor too busy) rather than with the file.
_PASSING = {"missing", "unreadable", "timeout", "crashed", "memory"}
_Pixels = npt.NDArray[np.uint8]
_Read = tuple[_Pixels | str, str]  # pixels or the reason why there are none, and the file's SHA-256


class Builder:
    """One run over the shards that are missing; see :func:`encoder.datasets.pixel_cache.build`."""

    def __init__(self, rows: Sequence[Row], folder: Path, facts: dict[str, Any], allowed: int) -> None:
        self._rows, self._folder, self._facts, self._allowed = rows, folder, facts, allowed
        self._size, self._step = int(facts["size"]), int(facts["rows_per_shard"])
        self._recipe = Recipe.from_dict(facts["recipe"])
        self._local = threading.local()
        self._readers: list[Reader] = []
        self._done = 0
        self._unreadable: dict[int, tuple[str, str]] = {}

    def run(self, workers: int, progress: Progress | None) -> None:
        for stale in self._folder.glob(".*.tmp"):
            stale.unlink()
        _write(self._folder / "cache.json", _json(self._facts))
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
        """Whether a shard was written by an earlier run. One with images that may be readable now is made again."""
        facts = read_json(shard_file(self._folder, shard, "json"))
        if facts is None or any(reason in _PASSING for _, _, reason in facts["unreadable"]):
            return False
        with contextlib.suppress(OSError):
            if shard_file(self._folder, shard, "bin").stat().st_size == facts["bytes"]:
                self._unreadable |= {row: (sha256, reason) for row, sha256, reason in facts["unreadable"]}
                self._done += len(self._rows_of(shard))
                return True
        return False

    def _check_disk(self, shards: int) -> None:
        needed = min(shards * self._step, len(self._rows)) * self._size**2  # at the least: squares
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise LlavaRadError(
                f"the pixel cache needs at least {needed / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free",
                hint="data.cache names another folder",
            )

    def _read_all(self, todo: Iterable[int], workers: int) -> Generator[tuple[int, _Pixels | str, str], None, None]:
        """Read rows, some at a time; results come in order, so that the bytes do not depend on ``workers``."""
        rows = iter(todo)
        waiting: deque[tuple[int, Future[_Read]]] = deque()
        # Threads: each only talks to the process that decodes for it.
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
        """The pixels, or the reason why there are none; and the file's SHA-256."""
        reader = getattr(self._local, "reader", None)
        if reader is None:
            self._local.reader = reader = Reader(timeout_s=60.0)
            self._readers.append(reader)
        path = self._rows[row].path
        try:
            try:
                image = reader.prepare(path, self._recipe, crop=False)
            except ReadError as error:
                # The view is judged after modality and body part, so nothing else is forced with it.
                if error.reason != "lateral":
                    raise
                image = reader.prepare(path, self._recipe, crop=False, force=True)
            if min(image.pixels.shape) != self._size:
                raise ReadError("crashed", "the decoding process gave an image of another size")
            return image.pixels, image.sha256
        except ReadError as error:
            return error.reason, sha256_of(path)

    def _write_shard(
        self,
        shard: int,
        results: Iterator[tuple[int, _Pixels | str, str]],
        progress: Progress | None,
    ) -> None:
        temporary = self._folder / f".shard-{secrets.token_hex(8)}.tmp"
        images: list[tuple[int, int, int, int, str]] = []
        unreadable: list[tuple[int, str, str]] = []
        digest, offset = hashlib.sha256(), 0
        try:
            with temporary.open("xb") as file:
                for row, pixels, sha256 in itertools.islice(results, len(self._rows_of(shard))):
                    if isinstance(pixels, str):
                        self._unreadable[row] = (sha256, pixels)
                        unreadable.append((row, sha256, pixels))
                        if len(self._unreadable) > self._allowed:
                            raise too_many(len(self._unreadable), len(self._rows), self._allowed, self._done + 1)
                    else:
                        file.write(pixels.data)
                        digest.update(pixels.data)
                        images.append((row, *pixels.shape, offset, sha256))
                        offset += pixels.nbytes
                    self._done += 1
                    if progress is not None:
                        progress(self._done, len(self._rows))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(shard_file(self._folder, shard, "bin"))
        finally:
            temporary.unlink(missing_ok=True)
        facts = {"bytes": offset, "sha256": digest.hexdigest(), "images": images, "unreadable": unreadable}
        _write(shard_file(self._folder, shard, "json"), _json(facts))

    def _write_index(self, shards: Iterable[int]) -> None:
        tables = []
        for shard in shards:
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
        _write(self._folder / "index.npy", buffer.getvalue())

    def _write_unreadable(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("dataset", "row", "sha256", "reason"))
        for position, (sha256, reason) in sorted(self._unreadable.items()):
            row = self._rows[position]
            writer.writerow((row.dataset, row.number or position + 1, sha256, reason))
        _write(self._folder / "unreadable.csv", text.getvalue().encode())


def too_many(unreadable: int, total: int, allowed: int, seen: int | None = None) -> LlavaRadError:
    which = f"of the first {seen} of {total}" if seen is not None and seen < total else f"of {total}"
    return LlavaRadError(
        f"{unreadable} {which} images cannot be read, {allowed} may be",
        hint="unreadable.csv in the cache folder lists them; data.max_unreadable sets the limit",
    )


def damaged() -> LlavaRadError:
    return LlavaRadError("a shard of the pixel cache is damaged", hint="remove the cache's folder to build it again")


def shard_file(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"shard-{number:05d}.{suffix}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or "" where it cannot be read."""
    try:
        with open(open_source(path), "rb") as file:  # noqa: PTH123 (a descriptor, no path)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (ReadError, OSError):
        return ""


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file.

    Raises:
        LlavaRadError: it is damaged.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        data = None
    if not isinstance(data, dict):
        raise damaged()
    return data


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; where the file system knows no locks, without one."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LlavaRadError("another process is building the pixel cache in data.cache") from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
