"""The folder of a run: created, cleared for a new start, or checked to hold the run that is to be resumed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from encoder.datasets.manifest import Row
from encoder.errors import ConfigError, LlavaRadError
from encoder.files import write
from encoder.locks import locked_folder
from encoder.runs.config import dump
from encoder.runs.metrics_log import METRICS

CONFIG, CURVES, DATA = "config.yaml", "curves.png", "data.sha256"

MayChange = Mapping[str, Collection[str] | None]
"""Section of a configuration -> keys that a resumed run may change; None for all keys of the section."""


_PATIENCE = 10.0


def locked_run(folder: Path) -> AbstractContextManager[None]:
    """Hold a run folder, in the first process of a run.

    Raises:
        LlavaRadError: on entry, if another run is writing to it.
    """
    return locked_folder(folder, busy="another run is writing to the run folder", patience=_PATIENCE)


def prepare(
    folder: Path,
    config: BaseModel,
    *,
    load: Callable[[str], BaseModel],
    begun: Callable[[], bool],
    may_change: MayChange,
    results: Collection[str],
    restart: bool,
    data: str,
    data_key: str,
) -> bool:
    """Create the folder, or check that the run in it has the same configuration and data; then write both down.

    Args:
        folder: the run folder.
        config: configuration of the run.
        load: reads a configuration file of this kind of run.
        begun: returns whether the folder holds a checkpoint.
        may_change: parts of the configuration that a resumed run may change.
        results: names of files and folders that a run writes, ``metrics.jsonl``, ``curves.png`` and ``tensorboard``
            excepted; the pixel cache is no result.
        restart: remove the results of an earlier run.
        data: :func:`data_digest` of the run; kept in ``data.sha256``.
        data_key: key of the configuration that names the tables, for messages.

    Returns:
        False if parts made by an earlier start belong to this run; True if there is none, or it had another
        configuration or other data and ended before its first checkpoint.

    Raises:
        ConfigError: if the folder holds a run with another configuration or other data.
        LlavaRadError: if the folder cannot be written.
    """
    known, fingerprint = folder / CONFIG, folder / DATA
    try:
        before = fingerprint.read_text(encoding="ascii", errors="replace").strip() if fingerprint.is_file() else None
        anew = restart or not known.is_file()
        if not anew and begun():
            _refuse_another(load(str(known)), config, may_change)
            if before not in (None, data):
                raise ConfigError(
                    f"the table of {data_key} has changed since the run in the run folder began",
                    hint="give another run folder, the table as it was, or --restart to begin anew",
                )
        elif not anew:
            anew = known.read_text(encoding="utf-8") != dump(config) or before != data
        if restart:
            for name in (*results, METRICS, CURVES, "tensorboard"):
                shutil.rmtree(folder / name, ignore_errors=True)
                if (folder / name).exists():
                    (folder / name).unlink()
        folder.mkdir(parents=True, exist_ok=True)
        write(known, dump(config))
        write(fingerprint, data + "\n")
    except OSError as error:
        raise LlavaRadError(f"the run folder cannot be written: {error.strerror or type(error).__name__}") from error
    return anew


def data_digest(rows: Iterable[Row], texts: Iterable[str] = ()) -> str:
    """SHA-256 of the images of a run in their order, and of its texts. Folders may move, so paths do not count."""
    digest = hashlib.sha256()
    for row in rows:
        fields = (row.dataset, row.subject, row.study, row.image, row.path.name, row.split)
        digest.update("\0".join(fields).encode("utf-8", "surrogateescape") + b"\n")
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


Result = TypeVar("Result")


def own_cache(build: Callable[[], Result], folder: Path, *, replace: bool) -> Result:
    """Build or open the pixel cache in a run folder.

    Args:
        build: builds, continues or opens the cache in ``folder``.
        folder: of the cache.
        replace: remove a cache of other images or of another preparation, which an earlier start has left.

    Raises:
        ConfigError: if the folder holds a cache of other images and is not to be replaced.
    """
    try:
        return build()
    except ConfigError:
        if not replace:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return build()


def _refuse_another(before: BaseModel, now: BaseModel, may_change: MayChange) -> None:
    old, new = before.model_dump(), now.model_dump()
    for section, value in new.items():
        free = may_change.get(section, ())
        if free is None or old[section] == value:
            continue
        if isinstance(value, dict) and isinstance(old[section], dict):
            changed = [f"{section}.{key}" for key in value if key not in free and old[section][key] != value[key]]
        else:
            changed = [section]
        if changed:
            raise ConfigError(
                f"the run folder holds a run with another {changed[0]}",
                hint="give another run folder, the same configuration, or --restart to begin anew",
            )
