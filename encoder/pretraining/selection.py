"""Which images a run trains on, and which ones probe it: from the configuration's manifests or folder to rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from encoder.datasets.manifest import Row, read_manifest
from encoder.datasets.splits import Selection, disjoint, select
from encoder.errors import ConfigError, LlavaRadError
from encoder.pretraining.config import PretrainingConfig


def training_rows(config: PretrainingConfig) -> Selection:
    """The images of ``data``, filtered, without the subjects and images of ``data.exclude``.

    Raises:
        ConfigError: no images are named or none is left, a manifest cannot be read, the subset is larger than the rest.
            Manifests are called by their place in the list.
    """
    data = config.data
    if data.folder is not None and data.manifests:
        raise ConfigError("data.manifests and data.folder are both given", hint="take one of them")
    if data.folder is not None:
        rows = _folder(data.folder)
    elif data.manifests:
        rows = _read("data.manifests", data.manifests)
    else:
        raise ConfigError(
            "there are no images: neither data.manifests nor data.folder is given",
            hint="data.manifests=[FILE.csv], which llava-rad manifest writes, or data.folder=FOLDER",
        )
    try:
        selection = select(
            rows,
            views=data.views,
            splits=data.splits,
            exclude=_read("data.exclude", data.exclude),
            subset=data.subset,
            seed=config.seed,
        )
    except ConfigError:
        raise
    except LlavaRadError as error:
        raise ConfigError(f"data.subset: {error}", hint=error.hint) from None
    if not selection.rows:
        left_out = ", ".join(f"{reason} {number:,}" for reason, number in selection.dropped.items())
        raise ConfigError(f"none of {len(rows):,} images is left to train on ({left_out or 'the manifests are empty'})")
    return selection


def probe_rows(config: PretrainingConfig) -> list[Row]:
    """The labelled images of ``probe.manifest`` in the splits ``train`` and ``val``; none where there is no probing.

    Raises:
        ConfigError: the manifest cannot be read, has no labels, a split is empty, or a subject is in both.
    """
    if config.probe.manifest is None:
        return []
    rows = [row for row in _read("probe.manifest", [config.probe.manifest]) if row.split in ("train", "val")]
    if not any(row.labels for row in rows):
        raise ConfigError("probe.manifest has no labelled images in the splits train and val")
    for split in ("train", "val"):
        if not any(row.split == split for row in rows):
            raise ConfigError(f"probe.manifest has no images in the split {split}")
    try:
        disjoint(rows)
    except LlavaRadError as error:
        raise ConfigError(f"probe.manifest: {error}", hint=error.hint) from None
    return rows


def _folder(folder: str) -> list[Row]:
    from encoder.datasets.registry import DATASETS

    try:
        rows, _ = DATASETS["folder"].rows(Path(folder).expanduser())
    except LlavaRadError as error:
        raise ConfigError(f"data.folder: {error}", hint=error.hint) from None
    return rows


def _read(key: str, files: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for number, file in enumerate(files, 1):
        try:
            rows += read_manifest(Path(file).expanduser())
        except LlavaRadError as error:
            which = f", number {number} of {len(files)}" if len(files) > 1 else ""
            raise ConfigError(f"{key}{which}: {error}", hint=error.hint) from None
    return rows
