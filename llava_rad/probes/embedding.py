"""Features of many images for use elsewhere: those of a folder or manifest, computed so that a kill loses a batch.

Work in progress is a hidden folder: ``vectors.bin``, to which the features of every batch are appended, and
``images.jsonl`` with one line for each of them (key, SHA-256, finding of :mod:`encoder.reader.information`). A later
call of the same settings continues it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from encoder.datasets.manifest import Row, read_manifest
from encoder.errors import ConfigError, LlavaRadError, ModelError, ReadError
from encoder.files import LineFile, reported
from llava_rad.generation.sources import Source, checked_kind, expand
from llava_rad.probes.feature_files import Kept

if TYPE_CHECKING:
    import torch

    from encoder.backbones.base import FrozenEncoder, Vision
    from encoder.preprocessing import Recipe
    from encoder.probing.vectors import Unreadable

Kind = Literal["cls", "mean", "patches"]
_LINES = 2
"""Version of the work in progress."""
_MANIFESTS = {".csv", ".tsv", ".gz"}


@dataclass(frozen=True)
class Embedded:
    """Features of N images in the order of the images.

    Attributes:
        features: [N, D], or [N, P, D] for patches (row by row), float32; NaN for an image that cannot be read.
        ids: column ``image`` of the manifest, else SHA-256 of each file ("" if there is no such file).
        paths: of the files.
        unreadable: position of an image, from 1 -> the reason why it cannot be read.
        about: encoder, SHA-256 of its weights, recipe and kind of the features; JSON-compatible.
        doubtful: position of an image that is read, from 1 -> why it is probably damaged or incomplete.
    """

    features: npt.NDArray[np.float32]
    ids: list[str]
    paths: list[Path]
    unreadable: dict[int, str]
    about: dict[str, Any]
    doubtful: dict[int, str]


def embed(
    images: str | Path | Iterable[str | Path],
    encoder: str | Path = "rad-dino",
    *,
    features: Kind = "cls",
    recipe: str | None = None,
    recursive: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    dtype: str = "float32",
    max_unreadable: float = 0.01,
    offline: bool = False,
) -> Embedded:
    """Compute the features of images with a frozen encoder.

    Args:
        images: a manifest (CSV), or one or several files, folders or patterns.
        encoder: name, folder, hub repository or run folder, see :func:`encoder.backbones.loading.load_encoder`.
        features: ``"cls"``, one vector for each image: the CLS token or the pooling of the encoder's authors;
            ``"mean"``, the mean of its patch vectors; ``"patches"``, all patch vectors.
        recipe: name of a preprocessing recipe; None is the encoder's own.
        recursive: look into subfolders.
        batch_size: images per batch.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: type of the encoder's computation: ``"float32"`` or ``"bfloat16"``.
        max_unreadable: largest share of images that may be unreadable; one may be in any case.
        offline: never ask the hub.

    Raises:
        LlavaRadError: if there is no image, or too many cannot be read.
        ModelError: if the encoder is missing or damaged, or states no recipe.
        ConfigError: if an option is out of its range.
    """
    rows, ids = rows_of(images, recursive=recursive)
    with tempfile.TemporaryDirectory(prefix="llava-rad-embed-") as folder:
        work = Embedding(
            encoder, features, recipe=recipe, batch_size=batch_size, device=device, dtype=dtype, offline=offline
        )
        found = work.run(rows, ids, Path(folder), max_unreadable=max_unreadable)
        whole = next(found.blocks(len(rows)))
    return Embedded(whole, found.ids, found.paths, found.unreadable, found.about, found.doubtful)


def rows_of(images: str | Path | Iterable[str | Path], *, recursive: bool = False) -> tuple[list[Row], list[str]]:
    """List images, with their ids if all of them have one in a manifest.

    Raises:
        LlavaRadError: if there are none, or the manifest is not one.
    """
    named = list(images) if isinstance(images, Iterable) and not isinstance(images, str | bytes) else [images]
    for one in named:
        checked_kind(one)
        if isinstance(one, bytes):
            raise ConfigError("features are computed of files: name a path instead of bytes")
    manifests = [Path(one) for one in named if Path(one).suffix.lower() in _MANIFESTS and not Path(one).is_dir()]
    if manifests:
        if len(named) > 1:
            raise ConfigError("one manifest, or images: both, or several manifests, are named")
        rows = read_manifest(manifests[0])
        if not rows:
            raise LlavaRadError("the manifest has no rows")
        ids = [row.image for row in rows]
        return rows, ids if all(ids) and len(set(ids)) == len(ids) else []
    sources = expand(named, recursive=recursive).sources
    if not sources:
        hint = "--recursive looks into subfolders"
        raise ReadError("missing", "there is no image in what was named", hint=hint)
    return [Row(source.path, number=source.number) for source in sources if source.path is not None], []


class Embedding:
    """A loaded encoder with the settings of :func:`embed`.

    Raises:
        ConfigError: if an option is out of its range.
        ModelError: if the encoder is missing or damaged, or states no recipe.
    """

    def __init__(
        self,
        encoder: str | Path,
        features: Kind = "cls",
        *,
        recipe: str | None = None,
        batch_size: int = 32,
        device: str = "auto",
        dtype: str = "float32",
        offline: bool = False,
    ) -> None:
        from encoder.backbones.base import image_tokens
        from encoder.backbones.loading import load_encoder
        from encoder.preprocessing import recipe_named
        from encoder.probing.vectors import identity, model_key
        from llava_rad.generation.engine import choose_device, choose_dtype

        if features not in get_args(Kind):
            raise ConfigError(f"there are no features {features!r}", hint=f"choose one of {', '.join(get_args(Kind))}")
        if batch_size < 1:
            raise ConfigError("the batch size is at least 1")
        self.kind, self.batch_size = features, batch_size
        self.device = choose_device(device)
        self.dtype: torch.dtype = choose_dtype(dtype, self.device)
        self.encoder: FrozenEncoder = load_encoder(encoder, offline=offline)
        self.recipe: Recipe = recipe_named(recipe or self.encoder.recipe)
        self._key = model_key(self.encoder)
        tokens = image_tokens(self.encoder, self.recipe.size)
        self.shape = (tokens, self.encoder.width) if features == "patches" else (self.encoder.width,)
        self.about = {
            "format": "llava-rad.features/1",
            "encoder": Path(encoder).name,
            "weights_sha256": identity(self.encoder),
            "recipe": asdict(self.recipe),
            "features": features,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def run(
        self,
        rows: Sequence[Row],
        ids: Sequence[str],
        folder: Path,
        *,
        max_unreadable: float = 0.01,
        progress: Callable[[int], None] = lambda number: None,
    ) -> Kept:
        """Compute the features of N images, or continue.

        Args:
            rows: N images.
            ids: their ids; empty for the SHA-256 of each file.
            folder: work in progress.
            max_unreadable: largest share of images that may be unreadable; one may be in any case.
            progress: called with the number of completed images.

        Raises:
            LlavaRadError: if too many images cannot be read, or the folder cannot be written.
        """
        from encoder.probing.vectors import Unreadable

        unreadable = Unreadable(len(rows), max_unreadable)
        keys = [row.content(_state_of(row.path)) for row in rows]
        with reported("the work in progress"):
            folder.mkdir(exist_ok=True)
        with _Store(folder, json.dumps([_LINES, self._key, self.about], sort_keys=True), self.shape) as store:
            missing = [number for number, key in enumerate(keys) if key not in store.images]
            progress(len(rows) - len(missing))
            if missing:
                self._compute([(rows[number], keys[number]) for number in missing], store, unreadable, progress)
            images = store.images
        if not any(key in images for key in keys):
            error = next(iter(unreadable.reasons.values()))[1]
            raise error if len(rows) == 1 else ReadError("unreadable", f"none of {len(rows)} images can be read")
        reasons = {path: str(error) for path, (_, error) in unreadable.reasons.items()}
        return Kept(
            store.vectors,
            self.shape,
            [images[key][0] if key in images else None for key in keys],
            list(ids)
            or [images[k][1] if k in images else _sha256(row.path) for k, row in zip(keys, rows, strict=True)],
            [row.path for row in rows],
            {number: reasons[row.path] for number, row in enumerate(rows, 1) if row.path in reasons},
            self.about,
            {number: images[key][2] for number, key in enumerate(keys, 1) if key in images and images[key][2]},
        )

    def _compute(
        self,
        images: Sequence[tuple[Row, str]],
        store: _Store,
        unreadable: Unreadable,
        progress: Callable[[int], None],
    ) -> None:
        from encoder.backbones.loading import in_fastest_form
        from encoder.reader.information import finding
        from encoder.reader.sandbox import Reader

        vision = in_fastest_form(self.encoder, size=self.recipe.size, device=self.device, dtype=self.dtype)
        with Reader() as reader:
            for start in range(0, len(images), self.batch_size):
                batch, read = images[start : start + self.batch_size], []
                for row, key in batch:
                    try:
                        image = reader.prepare(row.path, self.recipe, force=True, **row.reading)
                        read.append((key, image.sha256, finding(image.warnings), image.pixels))
                    except LlavaRadError as error:
                        unreadable.add(row, error)
                if read:
                    found = self._encode(vision, np.stack([pixels for *_, pixels in read]))
                    store.add(found, [one[:3] for one in read])
                progress(len(batch))

    def _encode(self, vision: Vision, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            cls, patches = vision(self.recipe.normalise(images).to(self.device))
            chosen = cls if self.kind == "cls" else patches.float()
            chosen = chosen.mean(1) if self.kind == "mean" else chosen
            found: npt.NDArray[np.float32] = chosen.float().cpu().numpy()
        if not np.isfinite(found).all():
            raise ModelError("the encoder gives values that are not finite")
        return found


class _Store:
    """Work in progress; content of other settings, and what a kill left half written, is dropped."""

    def __init__(self, folder: Path, settings: str, shape: tuple[int, ...]) -> None:
        self.vectors = folder / "vectors.bin"
        self.images: dict[str, tuple[int, str, str]] = {}  # key of a file -> position of its features, SHA-256, finding
        self._length = 4 * int(np.prod(shape))
        self._count = 0
        with reported("the work in progress"):
            self._lines = LineFile(folder / "images.jsonl", busy="another process is computing these features")
            self._file = os.open(self.vectors, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            first = json.dumps({"settings": hashlib.sha256(settings.encode()).hexdigest()}).encode() + b"\n"
            lines = self._lines.lines()
            whole = os.fstat(self._file).st_size // self._length
            if lines[:1] != [first] or len(lines) > 1 + whole:
                self._lines.clear()
                with reported("the work in progress"):
                    self._lines.append(first)
                lines = [first]
            for key, digest, found in map(json.loads, lines[1:]):
                self.images[key] = self._count, digest, found
                self._count += 1
        except BaseException:
            self.close()
            raise

    def add(self, vectors: npt.NDArray[np.float32], images: Sequence[tuple[str, str, str]]) -> None:
        with reported("the work in progress"):
            view, at = memoryview(np.ascontiguousarray(vectors).tobytes()), self._count * self._length
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
            os.fsync(self._file)
            self._lines.append(b"".join(json.dumps(image).encode() + b"\n" for image in images))
        for key, digest, found in images:
            self.images[key] = self._count, digest, found
            self._count += 1

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, self._count * self._length)
        os.close(self._file)
        self._lines.close()

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _state_of(path: Path) -> str:
    """Hash path, size and times of a file; "" if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ""
    text = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _sha256(path: Path) -> str:
    return Source(1, path=path).sha256() or ""
