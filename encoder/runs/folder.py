"""The folder of a run: created, cleared for a new start, or checked to hold the run that is to be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pydantic import BaseModel

from encoder.errors import ConfigError, LlavaRadError
from encoder.files import write
from encoder.runs.config import dump
from encoder.runs.metrics_log import METRICS

CONFIG, CURVES = "config.yaml", "curves.png"

MayChange = Mapping[str, Collection[str] | None]
"""Section of a configuration -> keys that a resumed run may change; None for all keys of the section."""


def prepare(
    folder: Path,
    config: BaseModel,
    *,
    load: Callable[[str], BaseModel],
    begun: Callable[[], bool],
    may_change: MayChange,
    results: Collection[str],
    restart: bool,
) -> None:
    """Create the folder, or check that the run in it has the same configuration; then write ``config.yaml``.

    Args:
        folder: the run folder.
        config: configuration of the run.
        load: reads a configuration file of this kind of run.
        begun: returns whether the folder holds a checkpoint.
        may_change: parts of the configuration that a resumed run may change.
        results: names of files and folders that a run writes, ``metrics.jsonl``, ``curves.png`` and ``tensorboard``
            excepted; the pixel cache is no result.
        restart: remove the results of an earlier run.

    Raises:
        ConfigError: if the folder holds a run with another configuration.
        LlavaRadError: if the folder cannot be written.
    """
    known = folder / CONFIG
    try:
        if restart:
            for name in (*results, METRICS, CURVES, "tensorboard"):
                shutil.rmtree(folder / name, ignore_errors=True)
                if (folder / name).exists():
                    (folder / name).unlink()
        elif known.is_file() and begun():
            _refuse_another(load(str(known)), config, may_change)
        folder.mkdir(parents=True, exist_ok=True)
        write(known, dump(config))
    except OSError as error:
        raise LlavaRadError(f"the run folder cannot be written: {error.strerror or type(error).__name__}") from error


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
