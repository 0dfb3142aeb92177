"""The encoder's vector of every image, computed once and kept by image: a stopped run goes on, others reuse it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder, Vision
from encoder.backbones.loading import in_fastest_form
from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.preprocessing import Recipe
from encoder.reader.sandbox import Reader

Progress = Callable[[int], None]
CHUNK = 64
"""Images that are read, encoded and kept together."""


def identity(encoder: FrozenEncoder) -> str:
    """SHA-256 over names and values of an encoder's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()


def prepared(rows: Sequence[Row], recipe: Recipe, reader: Reader) -> npt.NDArray[np.uint8]:
    """[N, S, S] images.

    Raises:
        LlavaRadError: an image cannot be read; it is named by its row.
    """
    images = []
    for row in rows:
        try:
            images.append(reader.prepare(row.path, recipe, force=True).pixels)
        except LlavaRadError as error:
            raise LlavaRadError(f"row {row.number} of the manifest: {error}", hint=error.hint) from None
    return np.stack(images)


def vectors(
    encoder: FrozenEncoder,
    rows: Sequence[Row],
    recipe: Recipe,
    *,
    cache: Path | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress = lambda number: None,
) -> npt.NDArray[np.float32]:
    """The image vectors (``Features.cls``: the CLS token, or what the encoder has in its place), [N, D].

    Args:
        encoder: frozen; computed in its fastest form.
        rows: N images.
        recipe: how they are prepared.
        cache: folder for what has been computed: a file for each encoder and recipe, in which images are known by path,
            size and time, so that nothing else is taken for them.
        batch_size: images at a time.
        device: where to compute.
        dtype: in which type; bfloat16 changes the third digit.
        progress: told the number of images that are done.

    Raises:
        LlavaRadError: an image cannot be read, or the cache cannot be used.
    """
    keys = [row_key([row]) for row in rows]
    what = f"{identity(encoder)}{recipe}{'' if dtype == torch.float32 else dtype}" if cache else ""
    kept = None if cache is None else _Kept(cache, hashlib.sha256(what.encode()).hexdigest())
    known = {} if kept is None else kept.get(keys)
    missing = [number for number, key in enumerate(keys) if key not in known]
    progress(len(rows) - len(missing))
    vision = in_fastest_form(encoder, size=recipe.size, device=device, dtype=dtype) if missing else encoder
    with Reader() as reader:
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            images = prepared([rows[number] for number in chunk], recipe, reader)
            new = dict(zip((keys[n] for n in chunk), encode(vision, images, recipe, batch_size, device), strict=True))
            known |= new
            if kept is not None:
                kept.put(new)
            progress(len(chunk))
    if kept is not None:
        kept.close()
    return np.stack([known[key] for key in keys])


@torch.inference_mode()
def encode(
    encoder: Vision, images: npt.NDArray[np.uint8], recipe: Recipe, batch_size: int, device: torch.device | str
) -> npt.NDArray[np.float32]:
    """The vectors of prepared images [N, S, S] in batches, [N, D]."""
    batches = [images[at : at + batch_size] for at in range(0, len(images), batch_size)]
    found = [encoder(recipe.normalise(batch).to(device)).cls.float().cpu().numpy() for batch in batches]
    return np.concatenate(found)


def row_key(rows: Sequence[Row]) -> str:
    """What tells these images from others and from themselves after a change: paths, sizes, times."""
    digest = hashlib.sha256()
    for row in rows:
        try:
            status = row.path.stat()
        except OSError:
            raise LlavaRadError(f"row {row.number} of the manifest: there is no such image") from None
        digest.update(f"{row.path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


class _Kept:
    """Vectors on disk."""

    def __init__(self, folder: Path, name: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(folder / f"{name[:24]}.sqlite", timeout=60)
            with self._base:
                self._base.execute("CREATE TABLE IF NOT EXISTS vectors (image TEXT PRIMARY KEY, value BLOB)")
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from None

    def get(self, keys: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        wanted = set(keys)
        try:
            rows = self._base.execute("SELECT image, value FROM vectors").fetchall()
        except sqlite3.Error as error:
            raise _unusable(error) from None
        return {key: np.frombuffer(value, np.float32) for key, value in rows if key in wanted}

    def put(self, new: dict[str, npt.NDArray[np.float32]]) -> None:
        try:
            with self._base:
                rows = [(key, value.tobytes()) for key, value in new.items()]
                self._base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise _unusable(error) from None

    def close(self) -> None:
        self._base.close()


def _unusable(error: Exception) -> LlavaRadError:
    return LlavaRadError(
        f"the file of image vectors cannot be used ({type(error).__name__})", hint="remove it, or name another folder"
    )
