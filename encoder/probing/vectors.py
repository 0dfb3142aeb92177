"""Features of a frozen encoder: one vector for each image, kept on disk, and patch vectors after several blocks."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.backbones.base import FrozenEncoder, Vision
from encoder.backbones.loading import in_fastest_form
from encoder.datasets.manifest import Row
from encoder.errors import ConfigError, LlavaRadError, ModelError
from encoder.files import DIGESTS, Digests
from encoder.preprocessing import Recipe
from encoder.reader.information import finding
from encoder.reader.radiograph import PreparedImage
from encoder.reader.sandbox import Reader

Progress = Callable[[int], None]
_NO_SETTINGS = {"name_or_path", "recipe", "training"}  # the recipe is part of each key that a model's is part of
CHUNK = 64
"""Images that are read, encoded and stored together."""


def identity(encoder: FrozenEncoder) -> str:
    """Hash names and values of an encoder's weights (SHA-256)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()


def model_key(encoder: FrozenEncoder) -> str:
    """Hash all that an encoder's features depend on (SHA-256): weights, their type, modules and settings of modules.

    Weights alone do not tell encoders apart: numbers of heads and epsilons are in ``config.json`` only. The encoder's
    folder and addresses in memory are left out, so that the same encoder has the same key everywhere.
    """
    digest = hashlib.sha256(f"{identity(encoder)}{encoder.dtype}".encode())
    digest.update(re.sub("0x[0-9a-f]+", "", str(encoder.model)).encode())
    for name, module in encoder.named_modules():
        facts = {key: value for key, value in vars(module).items() if isinstance(value, (int, float, str, tuple))}
        facts = {key: value for key, value in facts.items() if key[0] != "_" and key not in _NO_SETTINGS}
        digest.update(f"{name}{sorted(facts.items())}".encode())
    return digest.hexdigest()


class Unreadable:
    """Images that cannot be read and are left out (a share as in pre-training, and one in any case), and doubtful ones.

    Args:
        total: number of images.
        share: largest share that may be unreadable.
        hint: advice where there are more.

    Attributes:
        reasons: path of an image -> its row of the manifest and the error.
        doubtful: path of an image that is read -> its row and the finding of :mod:`encoder.reader.information`.
    """

    def __init__(self, total: int, share: float = 0.01, *, hint: str = "--max-unreadable sets the limit") -> None:
        self.hint = hint
        self.total, self.allowed = total, max(1, int(share * total))
        self.reasons: dict[Path, tuple[int, LlavaRadError]] = {}
        self.doubtful: dict[Path, tuple[int, str]] = {}

    def add(self, row: Row, error: LlavaRadError) -> None:
        """Leave an image out.

        Raises:
            LlavaRadError: if it is one too many.
        """
        self.reasons[row.path] = row.number, error
        if len(self.reasons) > self.allowed:
            raise LlavaRadError(
                f"{len(self.reasons)} of {self.total} images cannot be read, {self.allowed} may be; "
                f"{'; '.join(self.lines())}",
                hint=self.hint,
            )

    def lines(self) -> list[str]:
        """Row of the manifest and reason of each image; rows name images, since file names may identify patients."""
        return [f"row {number}: {error}" for number, error in self.reasons.values()]

    def findings(self) -> list[dict[str, int | str]]:
        """Row of the manifest and finding of each doubtful image."""
        return [{"row": number, "finding": found} for number, found in self.doubtful.values()]


def prepared(
    rows: Sequence[Row],
    recipe: Recipe,
    reader: Reader,
    unreadable: Unreadable | None = None,
    *,
    digests: Sequence[str],
) -> list[PreparedImage | None]:
    """Read and prepare images of files with these SHA-256; None stands for one that is left out.

    Raises:
        LlavaRadError: if an image cannot be read and ``unreadable`` is None or full, or has another SHA-256; the
            message names its row.
    """
    images: list[PreparedImage | None] = []
    for row, digest in zip(rows, digests, strict=True):
        try:
            image = reader.prepare(row.path, recipe, force=True, **row.reading)
        except LlavaRadError as error:
            if unreadable is None:
                raise LlavaRadError(f"row {row.number} of the manifest: {error}", hint=error.hint) from None
            unreadable.add(row, error)
            images.append(None)
            continue
        if image.sha256 != digest:
            raise LlavaRadError(
                f"row {row.number} of the manifest: the image file changed during the run", hint="run the command again"
            )
        images.append(image)
    return images


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
    unreadable: Unreadable | None = None,
    digests: Digests | None = None,
) -> npt.NDArray[np.float32]:
    """Compute the image vectors [N, D] (``Features.cls``: the CLS token or its equivalent).

    Args:
        encoder: frozen; runs in its fastest form.
        rows: N images.
        recipe: preprocessing.
        cache: folder of computed vectors: a file for each encoder, recipe and type, in which images are identified by
            the SHA-256 of their files, and those that are inverted or stretched apart.
        batch_size: images per batch.
        device: of the encoder.
        dtype: of the encoder; bfloat16 changes the third digit.
        progress: called with the number of completed images.
        unreadable: collects images that cannot be read, whose vectors are NaN, and doubtful ones; None raises for the
            first that cannot be read.
        digests: of the image files; default: those that ``cache`` remembers.

    Raises:
        LlavaRadError: if an image, or too many, cannot be read, or the cache cannot be used.
    """
    digests = digests or Digests(None if cache is None else cache / DIGESTS)
    files = digests.of([row.path for row in rows])
    keys = [row.content(digest) for row, digest in zip(rows, files, strict=True)]
    what = f"{model_key(encoder)}{recipe}{dtype}" if cache else ""
    kept = None if cache is None else _Kept(cache, hashlib.sha256(what.encode()).hexdigest())
    digests.save()
    known = {} if kept is None else kept.get(keys)
    findings = {} if kept is None else kept.findings(keys)
    missing = [number for number, key in enumerate(keys) if key not in known]
    progress(len(rows) - len(missing))
    vision = in_fastest_form(encoder, size=recipe.size, device=device, dtype=dtype) if missing else encoder
    with Reader() as reader:
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            images = prepared(
                [rows[number] for number in chunk],
                recipe,
                reader,
                unreadable,
                digests=[files[number] for number in chunk],
            )
            read = [(keys[number], image) for number, image in zip(chunk, images, strict=True) if image is not None]
            if read:
                found = encode(vision, np.stack([image.pixels for _, image in read]), recipe, batch_size, device)
                new = dict(zip((key for key, _ in read), found, strict=True))
                doubts = {key: text for key, image in read if (text := finding(image.warnings))}
                known |= new
                findings |= doubts
                if kept is not None:
                    kept.put(new, doubts)
            progress(len(chunk))
    if kept is not None:
        kept.close()
    if unreadable is not None:
        unreadable.doubtful |= {
            row.path: (row.number, findings[key]) for row, key in zip(rows, keys, strict=True) if key in findings
        }
    absent = np.full(encoder.width if not known else len(next(iter(known.values()))), np.nan, np.float32)
    return np.stack([known.get(key, absent) for key in keys])


@torch.inference_mode()
def encode(
    encoder: Vision, images: npt.NDArray[np.uint8], recipe: Recipe, batch_size: int, device: torch.device | str
) -> npt.NDArray[np.float32]:
    """Compute the vectors [N, D] of prepared images [N, S, S] in batches.

    Raises:
        ModelError: if a value is not finite.
    """
    batches = [images[at : at + batch_size] for at in range(0, len(images), batch_size)]
    found = [encoder(recipe.normalise(batch).to(device)).cls.float().cpu().numpy() for batch in batches]
    result = np.concatenate(found)
    if not np.isfinite(result).all():
        raise ModelError("the encoder gives values that are not finite")
    return result


def activations(encoder: FrozenEncoder, pixel_values: torch.Tensor, count: int = 4) -> list[torch.Tensor]:
    """Compute patch vectors after ``count`` evenly spaced blocks; the last are the encoder's own ``patches``.

    For ViT-B these are blocks 3, 6, 9 and 12. If an encoder's patches pass its final LayerNorm, all activations do, as
    in DINOv2's ``get_intermediate_layers(norm=True)``; the paper (table 3, "4 x 768 features") does not say.

    Args:
        encoder: frozen.
        pixel_values: [B, 3, S, S] normalised images.
        count: number of activations; 1 works with every encoder.

    Returns:
        Tensors [B, N, D], shallowest first.

    Raises:
        ConfigError: if ``count`` is above 1 and the encoder has no transformer blocks, or fewer than ``count``.
    """
    if count == 1:
        return [encoder(pixel_values).patches]
    taps = encoder.taps()
    if taps is None:
        raise ConfigError(
            f"{type(encoder).__name__} has no transformer blocks, so no activations between them",
            hint="its patches can be probed with the linear head",
        )
    blocks, norm = taps
    if len(blocks) < count:
        raise ConfigError(f"the encoder has {len(blocks)} blocks; {count} activations were requested")
    wanted = [len(blocks) * (number + 1) // count - 1 for number in range(count)]
    kept: dict[int, torch.Tensor] = {}

    def keep(index: int, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, torch.Tensor)
        kept[index] = hidden

    hooks = [
        blocks[index].register_forward_hook(lambda module, inputs, output, index=index: keep(index, output))
        for index in wanted[:-1]
    ]
    try:
        patches = encoder(pixel_values).patches
    finally:
        for hook in hooks:
            hook.remove()
    number = patches.shape[1]
    with torch.no_grad():
        before = [kept[index] if norm is None else norm(kept[index]) for index in wanted[:-1]]
    return [*(hidden[:, hidden.shape[1] - number :] for hidden in before), patches]


def as_maps(patches: torch.Tensor) -> torch.Tensor:
    """Arrange patch vectors [B, N, D] as maps [B, D, s, s] with s = sqrt(N).

    Raises:
        ConfigError: if N is not a square.
    """
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise ConfigError(f"{patches.shape[1]} patches do not form a square")
    return patches.transpose(1, 2).reshape(len(patches), -1, side, side)


class _Kept:
    """Vectors and findings of images in an SQLite file; what ``put`` returned from survives a kill."""

    def __init__(self, folder: Path, name: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(folder / f"{name[:24]}.sqlite", timeout=60)
            with self._base:
                self._base.execute("CREATE TABLE IF NOT EXISTS vectors (image TEXT PRIMARY KEY, value BLOB)")
                self._base.execute("CREATE TABLE IF NOT EXISTS findings (image TEXT PRIMARY KEY, text TEXT)")
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from None

    def get(self, keys: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        rows = self._all("SELECT image, value FROM vectors", keys)
        return {key: np.frombuffer(value, np.float32) for key, value in rows}

    def findings(self, keys: Sequence[str]) -> dict[str, str]:
        return dict(self._all("SELECT image, text FROM findings", keys))

    def _all(self, query: str, keys: Sequence[str]) -> list[tuple[str, Any]]:
        wanted = set(keys)
        try:
            return [row for row in self._base.execute(query) if row[0] in wanted]
        except sqlite3.Error as error:
            raise _unusable(error) from None

    def put(self, new: dict[str, npt.NDArray[np.float32]], findings: dict[str, str]) -> None:
        try:
            with self._base:
                rows = [(key, value.tobytes()) for key, value in new.items()]
                self._base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
                self._base.executemany("INSERT OR REPLACE INTO findings VALUES (?, ?)", findings.items())
        except sqlite3.Error as error:
            raise _unusable(error) from None

    def close(self) -> None:
        self._base.close()


def _unusable(error: Exception) -> LlavaRadError:
    # SQLite's own words, such as "database or disk is full"; those of OSError name the path
    why = str(error) if isinstance(error, sqlite3.Error) else type(error).__name__
    full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return LlavaRadError(
        f"the file of image vectors cannot be used ({why})", hint=None if full else "remove it, or name another folder"
    )
